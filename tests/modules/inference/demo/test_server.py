"""The HTTP server: half-sent headers, ports, and errors of one line."""

import logging
import socket

import pytest

pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-dev.txt")

from data.errors import UserError  # noqa: E402
from modules.inference.demo import limits, server  # noqa: E402


async def app(scope, receive, send):
    """Responds with status 204 to everything."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def connect(monkeypatch):
    """Connects to a server that waits 0.2 seconds for headers."""
    monkeypatch.setattr(limits, "MAX_SECONDS_TO_SEND_HEADERS", 0.2)
    with server.serve(app, "127.0.0.1", None) as port:
        def connect():
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
            connections.append(connection)
            return connection

        connections = []
        yield connect
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Half: "])
def test_half_sent_headers_are_dropped(connect, sent):
    connection = connect()
    connection.sendall(sent)
    assert connection.recv(100) == b""  # closed


def test_headers_that_trickle_are_dropped(connect):
    connection = connect()
    with pytest.raises(OSError):  # noqa: PT012
        while True:
            connection.sendall(b"X")
            connection.settimeout(0.02)
            try:
                if connection.recv(100) == b"":
                    raise ConnectionError
            except TimeoutError:
                pass


def test_the_header_of_a_second_request_has_a_limit_too(connect):
    connection = connect()
    connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nHo")
    assert b"204" in connection.recv(1000)
    assert connection.recv(100) == b""


def test_a_port_in_use_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="Cannot serve on 127.0.0.1"), server.serve(
            app, "127.0.0.1", taken.getsockname()[1]
        ):
            pass


@pytest.mark.parametrize(("host", "port"), [("no such host", None), ("127.0.0.1", 70_000), ("192.0.2.1", None)])
def test_an_address_that_cannot_be_used_is_one_line(host, port):
    with pytest.raises(UserError, match=f"Cannot serve on {host}"), server.serve(app, host, port):
        pass


def test_an_error_is_logged_without_its_traceback():
    try:
        raise KeyError("a\nb")
    except KeyError as error:
        record = logging.LogRecord("a", logging.ERROR, "f", 1, "Exception in\napp", (), (type(error), error, None))
    assert server.OneLineFormatter().format(record) == "Exception in app: KeyError ('a\\nb')"
