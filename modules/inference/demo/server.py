"""The HTTP server of the web page: uvicorn in a thread, with a time limit on headers and errors of one line."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from data.errors import UserError, reason
from modules.inference.demo import limits

_FIRST_PORT = 7860
_PORTS = 100
_SECONDS_TO_STOP = 5


class HeaderTimeoutProtocol(H11Protocol):
    """Closes a connection that has not sent the whole header of a request in time."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._update_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_timer()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._stop_timer()

    def _update_timer(self) -> None:
        """The time runs while the header of a request is awaited; more bytes of the same header do not restart it."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(limits.MAX_SECONDS_TO_SEND_HEADERS, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class OneLineFormatter(logging.Formatter):
    """Formats a record as one line: an error without its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = " ".join(record.getMessage().split())
        error = record.exc_info[1] if record.exc_info else None
        return line if error is None else f"{line}: {type(error).__name__} ({reason(error)})"


@contextmanager
def serve(app: Callable, host: str, port: int | None) -> Iterator[int]:
    """Serve an ASGI app in a thread within the context, which yields the port.

    port: defaults to the first free one from 7860. Raises UserError if the host or the port cannot be used.
    """
    bound = _bind(host, port)
    config = uvicorn.Config(
        app, http=HeaderTimeoutProtocol, ws="none", loop="asyncio", log_config=None, access_log=False,
        server_header=False, proxy_headers=False, limit_concurrency=limits.MAX_CONNECTIONS,
        timeout_graceful_shutdown=_SECONDS_TO_STOP,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=_run, args=(server, bound), name="server", daemon=True)
    with _one_line_log(), bound:
        thread.start()
        try:
            while not server.started:
                thread.join(0.01)
                if not thread.is_alive():
                    raise UserError(f"The server did not start on {host}, port {bound.getsockname()[1]}")
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(2 * _SECONDS_TO_STOP)


def _run(server: uvicorn.Server, bound: socket.socket) -> None:
    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(_log_error)
        await server.serve([bound])

    asyncio.run(run())


def _log_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what no task has handled, such as a connection that the other side has reset."""
    error = context.get("exception")
    if not isinstance(error, (ConnectionError, asyncio.CancelledError)):
        logging.getLogger("uvicorn.error").error("%s: %s", context.get("message"), type(error).__name__)


@contextmanager
def _one_line_log() -> Iterator[None]:
    """Write warnings and errors of the server to stderr, one line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter())
    handler.setLevel(logging.WARNING)
    logger = logging.getLogger("uvicorn.error")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _bind(host: str, port: int | None) -> socket.socket:
    """Bind a socket to `host` and the first usable port. Raises UserError if there is none."""
    if port is not None and not 0 <= port <= 65535:
        raise UserError(f"Cannot serve on {host}, port {port}: use a port from 0 (any) to 65535")
    ports = range(_FIRST_PORT, _FIRST_PORT + _PORTS) if port is None else [port]
    error: Exception | None = None
    for candidate in ports:
        try:
            (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
                host.strip("[]"), candidate, type=socket.SOCK_STREAM
            )
            bound = socket.socket(family, kind, protocol)
        except (OSError, UnicodeError) as failure:
            error = failure
            break
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            return bound
        except OSError as failure:
            bound.close()
            error = failure
    raise UserError(f"Cannot serve on {host}, port {port or 'any'}: {reason(error)}") from error
