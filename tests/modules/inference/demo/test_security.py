"""Hostile requests to the web page: files, other servers, malformed events and large bodies."""

import os

import httpx
import pytest

from modules.inference.demo import limits
from tests.support.demo_visitor import png, response_to


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


@pytest.mark.parametrize("place", ["{secret}", "http://example.com/x.png", "{uploads}/../{secret}"])
def test_a_path_that_was_not_uploaded_is_neither_read_nor_deleted(address, tmp_path, place):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    path = place.format(secret=secret, uploads=os.environ["GRADIO_TEMP_DIR"])
    file = {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}
    assert not response_to(address, "upload", [file, None])["success"]
    assert secret.read_bytes() == png()


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
