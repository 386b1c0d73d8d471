"""Which events reach Gradio, and how many messages are kept for pages that do not read them."""

import asyncio
import json
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

gr = pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-dev.txt")

from modules.inference.demo import limits, page_events  # noqa: E402
from modules.inference.demo.page_events import PageEvents, UnreadMessages  # noqa: E402
from modules.inference.demo.uploads import UploadStore  # noqa: E402

UPLOAD, CLICK = 0, 1


def build():
    """The events of a page with an upload (0), a button (1) and an unload event (2), and its uploads."""
    with gr.Blocks(analytics_enabled=False) as page:
        file, state, button = gr.File(), gr.State(), gr.Button()
        file.upload(lambda *_: None, [file, state], None)
        button.click(lambda *_: None, [state], None)
        page.unload(lambda: None)
    uploads = UploadStore()
    return PageEvents(page.queue(), uploads), uploads


@pytest.fixture
def events():
    return build()


def check(events, number=CLICK, data=(None,), session="abc123", **other):
    event = {"fn_index": number, "data": list(data), "session_hash": session} | other
    return events.check(json.dumps(event).encode())


def file_named(path):
    return {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "chest.png"}


def test_an_event_passes_with_the_token_of_its_upload_only(events):
    events, uploads = events
    token = uploads.add("chest.png", b"pixels")
    status, body = check(events, UPLOAD, [file_named(token), None], trigger_id=5, simple_format=True)
    assert status == 200
    assert json.loads(body) == {
        "fn_index": UPLOAD, "session_hash": "abc123", "data": [token, None], "event_data": None, "trigger_id": None,
    }


@pytest.mark.parametrize("value", [
    file_named("http://example.com/x.png"), file_named("/etc/passwd"), file_named(""), "http://example.com/x.png", 1,
    [file_named("http://example.com/x.png")], {"path": ["http://example.com"]}, {"url": "http://example.com"}, {}, "",
])
@pytest.mark.parametrize("number", [UPLOAD, CLICK])
def test_files_that_were_not_uploaded_are_rejected(events, number, value):
    data = [value, None] if number == UPLOAD else [value]
    assert check(events[0], number, data)[0] == 400


@pytest.mark.parametrize("event", [
    {"number": 2, "data": []}, {"number": 99}, {"number": "1"}, {"number": None}, {"number": [1]}, {"data": []},
    {"data": [None, None]}, {"session": ""}, {"session": "a" * 65}, {"session": "a/b"}, {"session": None},
])
def test_malformed_events_are_rejected(events, event):
    assert check(events[0], **event)[0] == 400


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{}", b"\xff", 100_000 * b"[", b'{"fn_index": ' + 5000 * b"9" + b"}"]
)
def test_bodies_that_are_not_events_are_rejected(events, body):
    assert events[0].check(body)[0] == 400


@settings(max_examples=100, deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["fn_index", "data", "session_hash", "path", "url", "meta"]
    ), inner, max_size=4), max_leaves=8,
))
def test_any_json_is_accepted_without_files_or_rejected(value):
    status, body = EVENTS[0].check(json.dumps(value).encode())
    if status == 200:
        assert set(json.loads(body)["data"]) == {None}


EVENTS = build()


def test_pages_that_do_not_read_their_results_are_refused_more(events):
    events, _ = events
    messages = events._queue.pending_messages_per_session
    messages["abc123"] = asyncio.Queue()
    for number in range(limits.MAX_UNREAD_MESSAGES + 1):
        assert check(events)[0] == 200
        messages["abc123"].put_nowait(number)
    assert check(events)[0] == 429
    assert check(events, session="another")[0] == 200


def test_messages_are_kept_for_a_limited_number_of_pages():
    messages = UnreadMessages()
    for number in range(2 * limits.MAX_PAGES):
        messages[str(number)] = deque()
    assert len(messages) == limits.MAX_PAGES
    del messages["0"]  # a page that was closed
    messages["0"].put_nowait("dropped")
    assert "0" not in messages


def keep_results(events, session):
    """Add what Gradio keeps when the event of a session is finished."""
    events._page.state_holder.session_data[session] = "study"
    events._queue.pending_messages_per_session[session] = asyncio.Queue()
    events._queue.pending_event_ids_session[session] = {"1"}


def test_a_report_that_is_finished_after_its_page_was_closed_is_removed_at_once(events):
    events, _ = events
    with events.connected("one", is_page=True), events.connected("other"):
        assert check(events, session="one")[0] == 200
        assert check(events, session="other")[0] == 200
        with events.connected("one"):
            pass
        keep_results(events, "one")
        events.remove_closed_sessions()
        assert "one" in events._page.state_holder.session_data
    with events.connected("other", is_page=True), events.connected("one"):
        pass  # the connection for results may end after that of the page
    for session in ("one", "other"):
        keep_results(events, session)
        events.remove_closed_sessions()
        assert session not in events._page.state_holder.session_data


def test_sessions_without_a_connection_are_removed_after_a_minute(events, monkeypatch):
    events, _ = events
    clock = 0.0
    monkeypatch.setattr(page_events.time, "monotonic", lambda: clock)
    for session in ("open", "closed", "silent"):
        assert check(events, session=session)[0] == 200
        keep_results(events, session)

    def remaining():
        events.remove_closed_sessions()
        kept = (
            events._page.state_holder.session_data, events._queue.pending_messages_per_session,
            events._queue.pending_event_ids_session,
        )
        assert len({frozenset(one) for one in kept}) == 1
        return set(kept[0])

    with events.connected("open"), events.connected("open"):
        clock = 30
        with events.connected("closed"):
            pass
        assert remaining() == {"open", "closed", "silent"}
        clock = 61
        assert remaining() == {"open", "closed"}
        clock = 91
        assert remaining() == {"open"}
    clock = 152
    assert remaining() == set()
    assert events._last_seen == {} and not events._connections
