"""What a visitor may ask for: time, bytes and routes."""

import asyncio
import threading

import pytest

from data.errors import UserError
from modules.inference.demo.limits import OneAtATime, RequestGuard

# One at a time


def test_calls_give_what_the_function_gives_or_raises():
    line = OneAtATime(seconds=10)
    assert line.call(lambda one, other: one + other, 1, 2) == 3
    with pytest.raises(ZeroDivisionError):
        line.call(lambda: 1 / 0)


def test_calls_never_overlap():
    line, running, most = OneAtATime(seconds=60), [], []

    def work():
        running.append(1)
        most.append(len(running))
        running.pop()

    threads = [threading.Thread(target=line.call, args=(work,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20


def test_who_waits_too_long_is_told_and_the_next_one_is_served():
    line, done = OneAtATime(seconds=0.05), threading.Event()
    called = []
    with pytest.raises(UserError, match="more than 0.05 seconds"):
        line.call(done.wait)
    with pytest.raises(UserError):  # still busy with the first one
        line.call(called.append, "given up")
    done.set()
    line.seconds = 60
    assert line.call(lambda: "served") == "served"
    assert called == []


# Requests


def ask(guard, method="POST", path="/", headers=None, pieces=(b"",), pause=0.0):
    """Status and headers of the answer to a request whose body comes in `pieces` with a pause before each."""
    messages = []
    left = list(pieces)

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
    """Reads the whole body and answers 200."""
    while (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"kept")]})
    await send({"type": "http.response.body", "body": b""})


def test_an_ordinary_request_passes_and_its_answer_forbids_other_servers():
    status, headers = ask(RequestGuard(reading_app), headers={"content-length": "2"}, pieces=(b"a", b"b"))
    assert status == 200 and headers[b"x-own"] == b"kept"
    assert b"default-src 'self'" in headers[b"content-security-policy"]


@pytest.mark.parametrize(("headers", "status"), [
    ({"content-length": "10"}, 200), ({"content-length": "11"}, 413), ({}, 411), ({"content-length": "-1"}, 411),
    ({"content-length": "ten"}, 411),
])
def test_the_length_of_a_body_is_told_and_limited(headers, status):
    assert ask(RequestGuard(reading_app, largest_body=10), headers=headers)[0] == status


@pytest.mark.parametrize("path", ["/gradio_api/file=/etc/passwd", "/file/x", "/gradio_api/proxy=http://x"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_file_routes_are_closed(method, path):
    assert ask(RequestGuard(reading_app), method, path, {"content-length": "0"})[0] == 403


def test_a_body_that_trickles_is_given_up():
    guard = RequestGuard(reading_app, seconds=0.05)
    assert ask(guard, headers={"content-length": "9"}, pieces=[b"x"] * 9, pause=0.03)[0] == 408


def test_an_answer_may_take_longer_than_a_request():
    async def slow_app(scope, receive, send):
        await receive()
        await asyncio.sleep(0.1)
        await reading_app(scope, finished, send)

    async def finished():
        return {"type": "http.request", "body": b"", "more_body": False}

    assert ask(RequestGuard(slow_app, seconds=0.05), headers={"content-length": "0"})[0] == 200
