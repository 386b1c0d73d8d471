"""Limits on requests: time, size and routes."""

import asyncio
import threading

import pytest

from data.errors import UserError
from modules.inference.demo.limits import RequestGuard, SerialExecutor

# Serial execution


def test_calls_give_what_the_function_gives_or_raises():
    executor = SerialExecutor(seconds=10)
    assert executor.call(lambda one, other: one + other, 1, 2) == 3
    with pytest.raises(ZeroDivisionError):
        executor.call(lambda: 1 / 0)


def test_calls_never_overlap():
    executor, running, counts = SerialExecutor(seconds=60), [], []

    def work():
        running.append(1)
        counts.append(len(running))
        running.pop()

    threads = [threading.Thread(target=executor.call, args=(work,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [1] * 20


def test_who_waits_too_long_is_told_and_the_next_one_is_served():
    executor, done = SerialExecutor(seconds=0.05), threading.Event()
    called = []
    with pytest.raises(UserError, match="more than 0.05 seconds"):
        executor.call(done.wait)
    with pytest.raises(UserError):  # still busy with the first call
        executor.call(called.append, "cancelled")
    done.set()
    executor.seconds = 60
    assert executor.call(lambda: "served") == "served"
    assert called == []


# Requests


def request(guard, method="POST", path="/", headers=None, chunks=(b"",), pause=0.0):
    """Status and headers of the response to a request whose body arrives in `chunks`, with a pause before each."""
    messages = []
    left = list(chunks)

    async def receive():
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        messages.append(message)

    encoded = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "headers": encoded}
    asyncio.run(guard(scope, receive, send))
    start = messages[0]
    return start["status"], dict(start["headers"])


async def reading_app(scope, receive, send):
    """Reads the whole body and responds with status 200."""
    while (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"unchanged")]})
    await send({"type": "http.response.body", "body": b""})


def test_an_ordinary_request_passes_and_its_answer_forbids_other_servers():
    status, headers = request(RequestGuard(reading_app), headers={"content-length": "2"}, chunks=(b"a", b"b"))
    assert status == 200 and headers[b"x-own"] == b"unchanged"
    assert b"default-src 'self'" in headers[b"content-security-policy"]


@pytest.mark.parametrize(("headers", "status"), [
    ({"content-length": "10"}, 200), ({"content-length": "11"}, 413), ({}, 411), ({"content-length": "-1"}, 411),
    ({"content-length": "ten"}, 411),
])
def test_the_length_of_a_body_is_told_and_limited(headers, status):
    assert request(RequestGuard(reading_app, max_bytes=10), headers=headers)[0] == status


@pytest.mark.parametrize("path", ["/gradio_api/file=/etc/passwd", "/file/x", "/gradio_api/proxy=http://x"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_file_routes_are_closed(method, path):
    assert request(RequestGuard(reading_app), method, path, {"content-length": "0"})[0] == 403


def test_a_body_that_trickles_is_given_up():
    guard = RequestGuard(reading_app, seconds=0.05)
    assert request(guard, headers={"content-length": "9"}, chunks=[b"x"] * 9, pause=0.03)[0] == 408


def test_an_answer_may_take_longer_than_a_request():
    async def slow_app(scope, receive, send):
        await receive()
        await asyncio.sleep(0.1)
        await reading_app(scope, finished, send)

    async def finished():
        return {"type": "http.request", "body": b"", "more_body": False}

    assert request(RequestGuard(slow_app, seconds=0.05), headers={"content-length": "0"})[0] == 200
