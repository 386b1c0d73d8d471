"""Hostile requests to the web page: files, other servers, malformed events and large bodies."""

import os
import socket
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from modules.inference.demo import limits
from tests.support.demo_visitor import png, post_event, response_to
from tests.support.images.image_files import encoded


@pytest.mark.parametrize("path", [
    "gradio_api/file={secret}", "gradio_api/file={name}", "gradio_api/file/{secret}", "file={secret}", "file/{secret}",
    "gradio_api/%66ile={secret}", "gradio_api/file%3D{secret}", "gradio_api/file=..%2F..%2F..%2F..%2F{secret}",
    "gradio_api/file=README.md", "static/..%2F..%2F..%2F..%2F..%2F..%2F{secret}", "static/{secret}",
    "assets/..%2F..%2F..%2F..%2F..%2F..%2F{secret}", "svelte/..%2F..%2F..%2F..%2F..%2F{secret}",
    "custom_component/x/client/component/..%2F..%2F{secret}", "theme.css/..%2F{secret}",
])
def test_no_file_of_the_server_can_be_read(address, tmp_path, path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"confidential content")
    response = httpx.get(address + path.format(secret=secret, name=secret.name))
    assert response.status_code >= 400
    assert b"confidential" not in response.content and b"# SGRRG" not in response.content


def test_the_server_fetches_nothing_for_anybody(address):
    assert httpx.get(f"{address}gradio_api/file=http://example.com/x.png").status_code == 403
    assert httpx.get(f"{address}gradio_api/proxy=http://example.com/x.png").status_code == 403


@pytest.fixture(scope="module")
def connections():
    """The addresses that this process connects to or looks up: a list that grows."""
    addresses = []

    def record(event, arguments):
        if event == "socket.connect":
            addresses.append(arguments[1])
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            addresses.append(arguments[:2])

    sys.addaudithook(record)
    return addresses


@pytest.mark.parametrize("url", ["http://example.com/x.png", "http://127.0.0.1:9/x.png", "//example.com/x.png"])
@pytest.mark.parametrize("event", ["upload", "click", "edit"])
def test_an_event_with_a_url_is_rejected_and_connects_to_nothing(address, connections, url, event):
    file = {"path": url, "url": url, "meta": {"_type": "gradio.FileData"}, "is_stream": False}
    own = httpx.URL(address)
    count = 2 if event == "upload" else 1
    connections.clear()
    responses = [post_event(address, event, [value] + [None] * (count - 1)) for value in (file, [file], url)]
    posted = httpx.post(f"{address}gradio_api/run/open_upload", json={"data": [file, None]})
    assert [response.status_code for response in (*responses, posted)] == [400, 400, 400, 403]
    assert [each for each in connections if tuple(each[:2]) not in {(own.host, own.port)}] == []


def test_a_file_in_the_data_of_an_event_is_not_fetched(address, connections):
    url = "http://example.com/x.png"
    file = {"path": url, "url": url, "meta": {"_type": "gradio.FileData"}}
    connections.clear()
    response = response_to(address, "edit", [None], {"regions": {}, "attributes": {}, "file": file})
    assert response["success"]
    assert [each for each in connections if each[0] != httpx.URL(address).host] == []


@pytest.mark.parametrize("place", ["{secret}", "{uploads}/../{secret}"])
def test_a_path_that_was_not_uploaded_is_neither_read_nor_deleted(address, tmp_path, place):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    path = place.format(secret=secret, uploads=os.environ["GRADIO_TEMP_DIR"])
    file = {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}
    assert post_event(address, "upload", [file, None]).status_code == 400
    assert secret.read_bytes() == png()


def upload(address, content, name="chest.png"):
    """Upload a file without a page. Return the value that an event names it by."""
    (token,) = httpx.post(f"{address}gradio_api/upload", files={"files": (name, content)}, timeout=60).json()
    return {"path": token, "meta": {"_type": "gradio.FileData"}}


def test_visitors_with_the_same_file_all_get_their_report(address):
    files = [upload(address, png()) for _ in range(6)]
    with ThreadPoolExecutor(6) as threads:
        responses = list(threads.map(
            lambda number: response_to(address, "upload", [files[number], None], session=f"visitor{number}"), range(6)
        ))
    assert [response["output"]["data"][2]["error"] for response in responses] == 6 * [None]


def test_an_image_of_countless_scans_is_one_line_at_once(address):
    jpeg = encoded(np.zeros((64, 64), dtype=np.uint8), "JPEG", progressive=True)
    bomb = jpeg[:-2] + 20_000 * jpeg[jpeg.rindex(b"\xff\xda") : -2] + jpeg[-2:]
    response = response_to(address, "upload", [upload(address, bomb, "bomb.jpg"), None])
    assert "bomb.jpg is a JPEG of more than 100 scans" in response["output"]["data"][2]["error"]


def test_nothing_of_an_upload_is_written_to_disk(address):
    upload(address, bytes(4 * 2**20))
    abort(address, b"POST /gradio_api/upload HTTP/1.1", b"x" * 2**20)
    assert [path for path in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if path.is_file()] == []


def abort(address, request_line, body=b"", length=2**24):
    """Send the beginning of a request and reset the connection."""
    url = httpx.URL(address)
    head = (
        f"Host: {url.host}:{url.port}\r\nContent-Length: {length}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(request_line + b"\r\n" + head.encode() + body)


def test_requests_that_break_off_are_not_logged_at_length(address, capfd):
    session = "breaksoff1"
    for number in range(5):
        abort(address, b"POST /gradio_api/upload HTTP/1.1", b"--b\r\nContent-Disposition: form-data; name=files")
        abort(address, b"POST /gradio_api/queue/join HTTP/1.1", b"{")
        abort(address, b"GET /gradio_api/heartbeat/breaksoff1 HTTP/1.1", length=0)
        abort(address, b"GET / HTTP/1.1", length=0)
        abort(address, b"nonsense")
        post_event(address, "click", [None], session=f"{session}{number}")
        abort(address, f"GET /gradio_api/heartbeat/{session}{number} HTTP/1.1".encode(), length=0)
        abort(address, f"GET /gradio_api/queue/data?session_hash={session}{number} HTTP/1.1".encode(), length=0)
    response_to(address, "click", [None])  # all of them are over
    logged = capfd.readouterr().err
    assert "Traceback" not in logged and len(logged.splitlines()) <= 35


def test_other_hosts_and_other_sites_are_refused(address):
    assert httpx.get(address, headers={"host": "rebinding.example"}).status_code == 421
    form = {"session_hash": "abc", "fn_index": "0"}
    url = f"{address}gradio_api/queue/join"
    assert httpx.post(url, data=form, headers={"origin": "http://evil.example"}).status_code == 403
    assert httpx.post(url, data=form).status_code == 415


@pytest.mark.parametrize("edits", [None, [], {"regions": 1, "attributes": {}}, {"regions": {"left lung": "off"}}])
def test_malformed_edits_are_one_line(address, edits):
    response = response_to(address, "edit", [None], edits)
    assert response["success"] and "\n" not in response["output"]["data"][0]["error"]


def test_too_long_uploads_are_refused(address):
    too_large = {"files": ("large.png", bytes(limits.MAX_UPLOAD_BYTES + 1))}
    assert httpx.post(f"{address}gradio_api/upload", files=too_large, timeout=60).status_code == 413
    assert httpx.post(
        f"{address}gradio_api/upload", files={"files": ("l.png", bytes(limits.MAX_REQUEST_BYTES))}, timeout=60
    ).status_code == 413

    def without_length():
        yield b"x"

    assert httpx.post(f"{address}gradio_api/upload", content=without_length()).status_code == 411


def test_the_page_tells_the_browser_to_load_nothing_from_elsewhere(address):
    policy = httpx.get(address).headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy
