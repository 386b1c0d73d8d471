"""Checks every request to the web page before Gradio sees it.

The page may hold images of patients, and Gradio has many routes that the page does not need: to files, to other
servers, to functions. Only the routes that it needs are open, to the hosts that it is served on, from its own pages.
"""

import asyncio
import base64
import ipaddress
import json
import re
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from urllib.parse import parse_qs

from data.errors import UserError, reason
from modules.inference.demo import limits
from modules.inference.demo.page_events import PageEvents
from modules.inference.demo.uploads import UploadStore, parse_form

_API = "/gradio_api"
_UPLOAD, _JOIN, _WAIT = f"{_API}/upload", f"{_API}/queue/join", f"{_API}/queue/data"
_UPLOAD_PROGRESS, _HEARTBEAT = f"{_API}/upload_progress", f"{_API}/heartbeat/"
# The routes that the page needs: the page itself, its scripts and styles, and its events.
_READ_ROUTES = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(static|assets|svelte)/[\w./-]+"
    rf"|{_API}/(info|theme\.css|startup-events|app_id)/?|{_HEARTBEAT}\w{{1,64}}|{_WAIT}|{_UPLOAD_PROGRESS}"
)
_WRITE_ROUTES = {_UPLOAD, _JOIN, f"{_API}/cancel", f"{_API}/reset"}
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
# The browser must not contact other servers. Gradio's scripts need the two "unsafe" sources.
_HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; "
    "base-uri 'self'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), display-capture=(), usb=(), payment=()",
    "cache-control": "no-store",
}


class Disconnected(Exception):
    """The client has closed the connection."""


class RequestGuard:
    """ASGI middleware that rejects what the page would not send, receives uploads, and adds security headers.

    app            Gradio's
    host           address that the server listens on
    allowed_hosts  further names that the page may be opened by
    password       that every request needs (HTTP basic, with any user name); None for none
    seconds        to receive the body of a request
    """

    def __init__(
        self, app: Callable, events: PageEvents, uploads: UploadStore, host: str = "127.0.0.1",
        allowed_hosts: Iterable[str] = (), password: str | None = None, seconds: float = limits.MAX_SECONDS_TO_SEND,
    ):
        self.app, self._events, self._uploads, self._seconds = app, events, uploads, seconds
        self._is_any_address = is_any_address(host)
        self._hosts = {name.lower() for name in (*_LOCAL_NAMES, bracketed(host), *allowed_hosts)}
        self._password = password

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        request = _Request(scope, receive, send)
        try:
            rejection = self._rejection(request)
            if rejection:
                await request.respond(*rejection)
            elif request.path == _UPLOAD:
                await self._receive_upload(request)
            elif request.path == _UPLOAD_PROGRESS:
                # An upload is received at once: the page need not watch it.
                await request.respond(200, 'data: {"msg":"done"}\n\n', "text/event-stream")
            elif request.path == _WAIT:
                session = request.query("session_hash")
                if not self._events.has_messages(session):
                    await request.respond(404, "The session is not known")
                    return
                with self._uploads.waiting(session), self._events.connected(session):
                    await self.app(scope, receive, request.send)
            elif request.path.startswith(_HEARTBEAT):
                with self._events.connected(request.path.removeprefix(_HEARTBEAT), is_page=True):
                    await self.app(scope, receive, request.send)
            elif request.is_write:
                await self._pass_on(request)
            else:
                await self.app(scope, receive, request.send)
        except TimeoutError:
            await request.respond(408, f"The request took more than {self._seconds:g} seconds to send")
        except Disconnected:
            return
        except Exception as error:
            if request.has_started:
                raise  # the server logs it as one line
            await request.fail(error)

    def _rejection(self, request: "_Request") -> tuple[int, str] | None:
        """Status and reason; None if the request is accepted."""
        host = request.header("host")
        if not self._is_allowed_host(host, request.scope):
            return 421, "This server is not reachable by that name (see --allowed-host)"
        if self._password is not None and not self._has_password(request):
            return 401, "The password is missing or wrong"
        if request.method not in ("GET", "HEAD", "POST"):
            return 405, "The method is not allowed"
        is_open = request.path in _WRITE_ROUTES if request.is_write else _READ_ROUTES.fullmatch(request.path)
        if not is_open or ".." in request.path:
            return 403, "This server does not serve that"
        if not request.is_write:
            return None
        origin = request.header("origin")
        if origin and origin.partition("://")[2] != host or request.header("sec-fetch-site") not in ("", "same-origin"):
            return 403, "Requests from other sites are not accepted"
        length = request.header("content-length")
        if not (length.isascii() and length.isdigit()):
            return 411, "The request has no valid Content-Length"
        max_bytes = limits.MAX_REQUEST_BYTES if request.path == _UPLOAD else limits.MAX_EVENT_BYTES
        if int(length[:20]) > max_bytes:
            return 413, f"The request is larger than {max_bytes} bytes"
        if request.path != _UPLOAD and not request.header("content-type").startswith("application/json"):
            return 415, "The request is not JSON"
        return None

    def _is_allowed_host(self, host: str, scope: dict) -> bool:
        name = re.sub(r":\d*$", "", host.lower())
        address = scope.get("server") or ("", None)
        return name in self._hosts or self._is_any_address and name == bracketed(address[0])

    def _has_password(self, request: "_Request") -> bool:
        scheme, _, encoded = request.header("authorization").partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True).partition(b":")[2]
        except ValueError:
            return False
        return scheme.lower() == "basic" and secrets.compare_digest(given, self._password.encode())

    async def _receive_upload(self, request: "_Request") -> None:
        with self._uploads.reserve(int(request.header("content-length"))) as fits:
            if not fits:
                await request.respond(503, "The server is receiving too many uploads: try again")
                return
            try:
                name, content = await parse_form(request.scope["headers"], request.body(self._seconds))
            except UserError as error:
                await request.respond(413 if "larger" in str(error) else 400, str(error))
                return
            token = self._uploads.add(name, content)
        await request.respond(200, json.dumps([token]), "application/json")

    async def _pass_on(self, request: "_Request") -> None:
        """Receive the whole request, check it if it is an event, and pass it on."""
        body = b"".join([chunk async for chunk in request.body(self._seconds)])
        if request.path == _JOIN:
            status, body = self._events.check(body)
            if status != 200:
                await request.respond(status, body)
                return
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> dict:
            return next(messages, None) or await request.receive()

        headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self.app(request.scope | {"headers": headers}, receive, request.send)


class _Request:
    """A request and its response."""

    def __init__(self, scope: dict, receive: Callable, send: Callable):
        self.scope, self.receive, self._send = scope, receive, send
        self.path, self.method = scope["path"], scope["method"]
        self.is_write = self.method not in ("GET", "HEAD")
        self.has_started = False

    def header(self, name: str) -> str:
        """The value of a header, "" if absent. A header that is repeated has no valid value."""
        values = [value for key, value in self.scope["headers"] if key == name.encode()]
        return values[0].decode("latin-1") if len(values) == 1 else ""

    def query(self, name: str) -> str:
        """The first value of a parameter of the query, "" if absent."""
        return parse_qs(self.scope.get("query_string", b"").decode("latin-1")).get(name, [""])[0]

    async def body(self, seconds: float) -> AsyncIterator[bytes]:
        """The chunks of the body. Raises TimeoutError if it takes more than `seconds`, or Disconnected."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        more = True
        while more:
            async with asyncio.timeout_at(deadline):
                message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            yield message.get("body", b"")
            more = message.get("more_body", False)

    async def send(self, message: dict) -> None:
        """Send a message of the app with the security headers, which replace its own."""
        if message["type"] == "http.response.start":
            self.has_started = True
            kept = [
                (name, value) for name, value in message.get("headers", [])
                if name.decode("latin-1").lower() not in _HEADERS and not name.lower().startswith(b"access-control-")
            ]
            message = message | {"headers": [*kept, *_encode(_HEADERS)]}
        await self._send(message)

    async def respond(self, status: int, text: str, content_type: str = "text/plain; charset=utf-8") -> None:
        """Respond with a text. An error also closes the connection, since the rest of the request is not read."""
        if self.has_started:
            return
        headers = {"content-type": content_type, "content-length": str(len(text.encode()))}
        if status >= 400:
            headers["connection"] = "close"
        if status == 401:
            headers["www-authenticate"] = 'Basic realm="SGRRG", charset="UTF-8"'
        await self.send({"type": "http.response.start", "status": status, "headers": _encode(headers)})
        await self.send({"type": "http.response.body", "body": text.encode()})

    async def fail(self, error: Exception) -> None:
        """Log an unexpected error as one line, and respond with status 500."""
        print(f"{self.method} failed: {type(error).__name__} ({reason(error)})", file=sys.stderr, flush=True)
        await self.respond(500, "The request failed: see the server's log")


def is_any_address(host: str) -> bool:
    """Whether `host` means all addresses of this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return host == ""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def bracketed(host: str) -> str:
    """`host` as in a URL: IPv6 addresses are in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _encode(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
