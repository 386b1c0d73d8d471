"""What a visitor of the page may ask for: how much, for how long, and no file at all.

How many pixels a picture may have, and which kinds of file are read, is `data/images/radiograph.py`'s to say.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from data.errors import UserError

LARGEST_UPLOAD = 32 * 2**20  # bytes of a file; a radiograph at full resolution has 20 MB
LARGEST_BODY = LARGEST_UPLOAD + 2**16  # bytes of a request: a file and what is said about it
SECONDS_TO_SEND = 60  # for the whole of a request
SECONDS_TO_REPORT = 60  # for reading a picture and writing its report
WAITING_VISITORS = 16  # beyond those, a request is turned away

# Where Gradio would hand out files of the server, or those of other servers. The page needs none of them.
_FILE_ROUTES = ("/file=", "/file/", "/proxy=")
# Nothing is loaded from or sent to another server. Gradio's own scripts need the two "unsafe" ones.
_HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class OneAtATime:
    """Calls functions one after the other, each given `seconds` from when it is asked for."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._worker = ThreadPoolExecutor(max_workers=1)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function` returns or raises. Raises UserError when the time is over."""
        future = self._worker.submit(function, *arguments)
        try:
            return future.result(timeout=self.seconds)
        except TimeoutError:
            future.cancel()
            raise UserError(f"This took more than {self.seconds:g} seconds: try again, or a smaller image") from None


class RequestGuard:
    """ASGI middleware that refuses requests for files and those that are too long in bytes or seconds."""

    def __init__(self, app: Callable, largest_body: int = LARGEST_BODY, seconds: float = SECONDS_TO_SEND):
        self.app, self.largest_body, self.seconds = app, largest_body, seconds

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal:
            await _answer(send, *refusal)
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.seconds
        whole, answered = False, False

        async def receive_in_time() -> dict:
            nonlocal whole
            if whole:  # what is waited for now is the end of the connection
                return await receive()
            async with asyncio.timeout_at(deadline):
                message = await receive()
            whole = not message.get("more_body", False)
            return message

        async def send_with_headers(message: dict) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                message["headers"] = [*message.get("headers", []), *_encoded(_HEADERS)]
            await send(message)

        try:
            await self.app(scope, receive_in_time, send_with_headers)
        except TimeoutError:
            if answered or whole:
                raise
            await _answer(send, 408, f"The request took more than {self.seconds:g} seconds to send")

    def _refusal(self, scope: dict) -> tuple[int, str] | None:
        """Status and reason, or None for a request that may go on."""
        if any(route in scope["path"] for route in _FILE_ROUTES):
            return 403, "This server hands out no files"
        headers = dict(scope["headers"])
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            return 411, "The request does not say how long it is"
        if int(length) > self.largest_body:
            return 413, f"The request is longer than {self.largest_body} bytes"
        return None


async def _answer(send: Callable, status: int, text: str) -> None:
    headers = _encoded({"content-type": "text/plain; charset=utf-8", "connection": "close"} | _HEADERS)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
