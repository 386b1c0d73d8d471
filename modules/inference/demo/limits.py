"""Limits on the requests of visitors: size, duration, and which routes are served.

Limits on the number of pixels and on file formats are in `data/images/radiograph.py`.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from data.errors import UserError

MAX_UPLOAD_BYTES = 32 * 2**20  # a radiograph at full resolution has 20 MB
MAX_REQUEST_BYTES = MAX_UPLOAD_BYTES + 2**16  # a file and its form fields
MAX_SECONDS_TO_SEND = 60  # to receive a whole request
MAX_SECONDS_TO_REPORT = 60  # to wait, read an image and generate its report
MAX_WAITING_REQUESTS = 16  # further requests are rejected

# Gradio's routes to files of this server and of others. The page needs none of them.
_FILE_ROUTES = ("/file=", "/file/", "/proxy=")
# The browser must not contact other servers. Gradio's scripts need the two "unsafe" sources.
_HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class SerialExecutor:
    """Runs one function at a time, each for at most `seconds` including the time that it waits for its turn."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._worker = ThreadPoolExecutor(max_workers=1)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what `function` returns, or raise what it raises. Raises UserError on a timeout."""
        future = self._worker.submit(function, *arguments)
        try:
            return future.result(timeout=self.seconds)
        except TimeoutError:
            future.cancel()
            raise UserError(
                f"The report took more than {self.seconds:g} seconds: try again, or use a smaller image"
            ) from None


class RequestGuard:
    """ASGI middleware that rejects requests for files, and requests that are too large or too slow."""

    def __init__(
        self, app: Callable, max_bytes: int = MAX_REQUEST_BYTES, seconds: float = MAX_SECONDS_TO_SEND
    ):
        self.app, self.max_bytes, self.seconds = app, max_bytes, seconds

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        rejection = self._rejection(scope)
        if rejection:
            await _respond(send, *rejection)
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.seconds
        received, responded = False, False

        async def receive_in_time() -> dict:
            nonlocal received
            if received:  # the app now waits for the end of the connection
                return await receive()
            async with asyncio.timeout_at(deadline):
                message = await receive()
            received = not message.get("more_body", False)
            return message

        async def send_with_headers(message: dict) -> None:
            nonlocal responded
            if message["type"] == "http.response.start":
                responded = True
                message["headers"] = [*message.get("headers", []), *_encode_headers(_HEADERS)]
            await send(message)

        try:
            await self.app(scope, receive_in_time, send_with_headers)
        except TimeoutError:
            if responded or received:
                raise
            await _respond(send, 408, f"The request took more than {self.seconds:g} seconds to send")

    def _rejection(self, scope: dict) -> tuple[int, str] | None:
        """Status and reason; None if the request is accepted."""
        if any(route in scope["path"] for route in _FILE_ROUTES):
            return 403, "This server does not serve files"
        headers = dict(scope["headers"])
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            return 411, "The request has no valid Content-Length"
        if int(length) > self.max_bytes:
            return 413, f"The request is larger than {self.max_bytes} bytes"
        return None


async def _respond(send: Callable, status: int, text: str) -> None:
    headers = _encode_headers({"content-type": "text/plain; charset=utf-8", "connection": "close"} | _HEADERS)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


def _encode_headers(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
