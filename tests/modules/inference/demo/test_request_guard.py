"""Which requests reach Gradio, and what the guard adds to its responses."""

import asyncio
import base64
import contextlib
import json

import pytest

pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-dev.txt")

from modules.inference.demo import limits  # noqa: E402
from modules.inference.demo.request_guard import RequestGuard, is_any_address, is_loopback  # noqa: E402
from modules.inference.demo.uploads import UploadStore  # noqa: E402

HOST = {"host": "127.0.0.1:7860"}
JSON = HOST | {"content-type": "application/json", "content-length": "2"}
JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"


class AnyEvent:
    """Accepts every event."""

    def check(self, body):
        return 200, body

    def has_messages(self, session):
        return session != "unknown"

    def connected(self, session, is_page=False):
        return contextlib.nullcontext()


async def echo(scope, receive, send):
    """Responds with the body of the request, and headers that the guard replaces."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = [(b"x-own", b"kept"), (b"cache-control", b"max-age=1"), (b"access-control-allow-origin", b"*")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def request(path="/", method="GET", headers=HOST, chunks=(b"",), pause=0.0, app=echo, server="127.0.0.1", **options):
    """Status, headers and body of the response to a request whose body arrives in `chunks`, each after a pause."""
    uploads = options.pop("uploads", None) or UploadStore()
    guard = RequestGuard(app, AnyEvent(), uploads, **options)
    sent, left = [], list(chunks)

    async def receive():
        await asyncio.sleep(pause)
        if not left:
            return {"type": "http.disconnect"}
        chunk = left.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    path, _, query = path.partition("?")
    scope = {
        "type": "http", "method": method, "path": path, "query_string": query.encode(), "server": (server, 7860),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(guard(scope, receive, send))
    if not sent:
        return None, {}, b""
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


def test_an_ordinary_request_passes_and_its_response_is_confined():
    status, headers, _ = request()
    assert status == 200 and headers[b"x-own"] == b"kept"
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"cross-origin-opener-policy"] == headers[b"cross-origin-resource-policy"] == b"same-origin"
    assert b"camera=()" in headers[b"permissions-policy"] and headers[b"cache-control"] == b"no-store"
    assert b"access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", [
    "/", "/config", "/theme.css", "/assets/index-1.js", "/static/img/a.svg", "/gradio_api/heartbeat/abc123",
    "/gradio_api/queue/data",
])
def test_routes_of_the_page_are_open(path):
    assert request(path)[0] == 200


@pytest.mark.parametrize("path", [
    "/gradio_api/file=/etc/passwd", "/file/x", "/gradio_api/proxy=http://x", "/gradio_api/run/predict", "/login",
    "/gradio_api/call/predict", "/gradio_api/component_server", "/gradio_api/stream/a/b/c/playlist.m3u8", "/monitoring",
    "/gradio_api/vibe-code", "/gradio_api/process_recording", "/static/../secret", "/assets/..%2Fx", "/docs",
])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_all_other_routes_are_closed(method, path):
    assert request(path, method, JSON)[0] == 403


def test_an_unknown_session_has_no_messages():
    assert request("/gradio_api/queue/data?session_hash=known")[0] == 200
    assert request("/gradio_api/queue/data?session_hash=unknown")[0] == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_other_methods_are_not_allowed(method):
    assert request(JOIN, method, JSON)[0] == 405


# Hosts and origins


@pytest.mark.parametrize(("host", "status"), [
    ("127.0.0.1:7860", 200), ("localhost", 200), ("LOCALHOST:1", 200), ("[::1]:7860", 200), ("evil.example", 421),
    ("127.0.0.1.evil.example:7860", 421), ("10.0.0.5:7860", 421), ("", 421), ("xrays.example", 200),
])
def test_only_known_hosts_are_answered(host, status):
    assert request(headers={"host": host}, allowed_hosts=["xrays.example"])[0] == status


@pytest.mark.parametrize(("host", "status"), [("10.0.0.5:7860", 200), ("10.0.0.6:7860", 421), ("evil.example", 421)])
def test_a_server_on_all_addresses_is_reached_by_the_address_of_the_connection(host, status):
    assert request(headers={"host": host}, host="0.0.0.0", server="10.0.0.5")[0] == status


def test_a_missing_host_is_rejected():
    assert request(headers={})[0] == 421


@pytest.mark.parametrize(("headers", "status"), [
    ({}, 200), ({"origin": "http://127.0.0.1:7860"}, 200), ({"origin": "http://evil.example"}, 403),
    ({"origin": "null"}, 403), ({"origin": "http://127.0.0.1:8000"}, 403), ({"sec-fetch-site": "same-origin"}, 200),
    ({"sec-fetch-site": "cross-site"}, 403), ({"sec-fetch-site": "same-site"}, 403), ({"sec-fetch-site": "none"}, 403),
])
def test_other_sites_cannot_write(headers, status):
    assert request(JOIN, "POST", JSON | headers, [b"{}"])[0] == status


def test_events_are_json():
    form = JSON | {"content-type": "application/x-www-form-urlencoded"}
    assert request(JOIN, "POST", form, [b"{}"])[0] == 415


@pytest.mark.parametrize(("host", "is_local"), [
    ("127.0.0.1", True), ("localhost", True), ("::1", True), ("[::1]", True), ("0.0.0.0", False), ("10.0.0.5", False),
    ("xrays.example", False), ("::", False), ("", False),
])
def test_loopback_addresses_are_recognised(host, is_local):
    assert is_loopback(host) == is_local
    assert is_any_address(host) == (host in ("0.0.0.0", "::", ""))


# Passwords


def basic(text):
    return HOST | {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


@pytest.mark.parametrize(("headers", "status"), [
    (HOST, 401), (basic("any:wrong"), 401), (basic("password"), 401), (basic("any:påssword"), 200),
    (basic(":påssword"), 200), (HOST | {"authorization": "Basic !"}, 401), (HOST | {"authorization": "Bearer x"}, 401),
])
@pytest.mark.parametrize("path", ["/", "/gradio_api/queue/data", "/assets/a.js"])
def test_a_password_protects_everything(path, headers, status):
    response, sent, _ = request(path, headers=headers, password="påssword")
    assert response == status
    assert (b"www-authenticate" in sent) == (status == 401)


def test_a_password_protects_writes():
    assert request(JOIN, "POST", JSON, [b"{}"], password="secret")[0] == 401
    assert request(JOIN, "POST", JSON | basic("a:secret"), [b"{}"], password="secret")[0] == 200


# Bodies


@pytest.mark.parametrize(("length", "status"), [
    ("2", 200), (str(limits.MAX_EVENT_BYTES + 1), 413), ("9" * 5000, 413), (None, 411), ("-1", 411), ("ten", 411),
    ("\u00b2", 411),
])
def test_the_length_of_a_body_is_stated_and_limited(length, status):
    headers = {name: value for name, value in JSON.items() if name != "content-length"}
    assert request(JOIN, "POST", headers | ({} if length is None else {"content-length": length}), [b"{}"])[0] == status


def test_a_body_arrives_whole():
    assert request(JOIN, "POST", JSON, [b"{", b"}"])[2] == b"{}"


@pytest.mark.parametrize("path", [JOIN, UPLOAD])
def test_a_body_that_trickles_is_given_up(path):
    headers = JSON | ({"content-type": "multipart/form-data; boundary=b"} if path == UPLOAD else {})
    assert request(path, "POST", headers, [b"--b\r\nA: "] + [b"x"] * 9, pause=0.03, seconds=0.05)[0] == 408


@pytest.mark.parametrize("path", [JOIN, UPLOAD])
def test_a_client_that_disconnects_gets_nothing_and_leaves_nothing(path, capsys):
    headers = JSON | ({"content-type": "multipart/form-data; boundary=b"} if path == UPLOAD else {})
    uploads = UploadStore()
    assert request(path, "POST", headers, [], uploads=uploads)[0] is None
    assert uploads._uploads == {} and uploads._reserved == 0
    assert capsys.readouterr().err == ""


def test_a_response_may_take_longer_than_a_request():
    async def slow(scope, receive, send):
        await asyncio.sleep(0.1)
        await echo(scope, receive, send)

    assert request(JOIN, "POST", JSON, [b"{}"], app=slow, seconds=0.05)[0] == 200


def test_an_unexpected_error_is_one_line_and_status_500(capsys):
    async def failing(scope, receive, send):
        raise KeyError("two\nlines")

    assert request(app=failing)[0] == 500
    assert capsys.readouterr().err.count("\n") == 1


# Uploads


def form(*files):
    """Headers and body of a form with files, (name, content) each."""
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in files
    ]
    body = b"".join(parts) + b"--b--\r\n"
    return HOST | {"content-type": "multipart/form-data; boundary=b", "content-length": str(len(body))}, body


def test_an_upload_is_kept_in_memory_and_answered_with_a_token():
    uploads = UploadStore()
    headers, body = form(("folder/chest.png", b"pixels"))
    status, _, answer = request(UPLOAD, "POST", headers, [body[:50], body[50:]], uploads=uploads)
    (token,) = json.loads(answer)
    upload = uploads.take(token)
    assert (status, upload.name, upload.content) == (200, "chest.png", b"pixels")


def test_the_same_file_twice_is_two_uploads():
    uploads = UploadStore()
    headers, body = form(("chest.png", b"pixels"))
    one, other = (json.loads(request(UPLOAD, "POST", headers, [body], uploads=uploads)[2])[0] for _ in range(2))
    assert uploads.take(one).content == uploads.take(other).content == b"pixels"


@pytest.mark.parametrize("files", [[], [("a", b"1"), ("b", b"2")]])
def test_forms_without_or_with_several_files_are_rejected(files):
    headers, body = form(*files)
    assert request(UPLOAD, "POST", headers, [body])[0] == 400


@pytest.mark.parametrize("content_type", ["", "multipart/form-data", "text/plain"])
def test_what_is_not_a_form_is_rejected(content_type):
    headers, body = form(("a", b"1"))
    assert request(UPLOAD, "POST", headers | {"content-type": content_type}, [body])[0] == 400


def test_uploads_that_do_not_fit_into_memory_together_are_rejected():
    headers, body = form(("a", b"1"))
    assert request(UPLOAD, "POST", headers, [body], uploads=UploadStore(max_bytes=len(body) - 1))[0] == 503
