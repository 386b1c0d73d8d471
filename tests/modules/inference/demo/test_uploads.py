"""Uploads: kept in memory for a minute, reported on, kept apart and removed, in the store and on the page."""

import os
import time
from pathlib import Path

import httpx
import pytest

from data.errors import UserError
from modules.inference.demo import limits
from tests.support.demo_visitor import (
    TIMEOUT,
    png,
    post_event,
    studies_in_memory,
    wait_until_no_study_is_in_memory,
)

# The store


@pytest.fixture
def store(monkeypatch):
    """A store whose clock stands still until `store.clock` is increased."""
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-dev.txt")
    from modules.inference.demo import uploads

    store = uploads.UploadStore(seconds=60)
    store.clock = 0.0
    monkeypatch.setattr(uploads.time, "monotonic", lambda: store.clock)
    return store


def remains(store, token, seconds):
    """Whether an upload is still there after `seconds` more."""
    store.clock += seconds
    store.remove_expired()
    return token in store._uploads


def test_an_upload_without_a_report_is_removed_after_a_minute(store):
    token = store.add("chest.png", b"pixels")
    assert remains(store, token, 59) and not remains(store, token, 2)
    with pytest.raises(UserError, match="removed after 60 seconds"):
        store.take(token)
    assert not store.claim(token, "session")


def test_an_upload_stays_while_its_page_waits_and_a_minute_longer(store):
    token = store.add("chest.png", b"pixels")
    assert store.claim(token, "session")
    with store.waiting("session"), store.waiting("session"):
        assert remains(store, token, 1000)
    assert remains(store, token, 59) and not remains(store, token, 2)
    assert store._waiting == {}


def test_another_page_keeps_nothing(store):
    token = store.add("chest.png", b"pixels")
    store.claim(token, "session")
    with store.waiting("another"), store.waiting(""):
        assert not remains(store, token, 61)


def test_uploads_share_a_limited_memory(store):
    store._max_bytes = 10
    with store.reserve(6) as fits:
        assert fits
        with store.reserve(6) as fits:
            assert not fits
    token = store.add("a", bytes(6))
    with store.reserve(6) as fits:
        assert not fits
    store.take(token)
    with store.reserve(10) as fits:
        assert fits


# The page


def test_an_upload_is_reported_on_whatever_its_name_and_its_file_is_deleted(visit):
    visitor = visit()
    visitor.upload("holiday photo.txt", png(size=(60, 48)))
    result = visitor.result()
    assert result["name"] == "holiday photo.txt" and result["image_size"] == [60, 48]
    shown = visitor.page.locator(".sentence .text").all_inner_texts()
    assert [text.lower().replace(".", " .") for text in shown] == [one["text"] for one in result["sentences"]]
    assert visitor.page.get_by_text(result["notice"]).count() == 1 and "not for clinical use" in result["notice"]
    uploads = Path(os.environ["GRADIO_TEMP_DIR"])
    assert [path for path in uploads.rglob("*") if path.is_file() and path.stat().st_size] == []
    visitor.upload("another.png", png(seed=1))  # the upload area accepts another file
    assert visitor.result()["name"] == "another.png"


def test_a_broken_file_is_one_clear_line_and_the_page_goes_on(visit):
    visitor = visit()
    visitor.send("broken.png", png()[:200])
    visitor.error().get_by_text("broken.png").wait_for()
    message = visitor.error().inner_text()
    assert "\n" not in message and "damaged" in message and "/" not in message
    visitor.upload("whole.png", png())
    assert visitor.error().inner_text() == ""
    visitor.send("notes.png", b"<script>alert(1)</script>")
    visitor.error().get_by_text("notes.png is not a PNG, JPEG, TIFF or DICOM image").wait_for()
    assert visitor.result()["name"] == "whole.png"


def test_two_visitors_at_once_see_their_own_study_only(visit):
    one, other = visit(), visit()
    one.send("one.png", png(seed=1))
    other.send("other.png", png(seed=2, size=(40, 40)))
    for visitor in (one, other):
        visitor.sentences().first.wait_for()
    assert (one.result()["name"], other.result()["name"]) == ("one.png", "other.png")
    assert one.image() != other.image()
    untouched = other.result()
    region = next(name for name, region in one.result()["regions"].items() if region["selected"])
    one.page.get_by_label(f"{region} in the graph", exact=True).uncheck()
    one.wait_for_result(lambda result: not result["regions"][region]["selected"])
    assert other.result() == untouched


def test_a_visitor_who_leaves_is_forgotten(visit):
    visitor = visit()
    visitor.upload("private.png", png())
    assert studies_in_memory()
    visitor.context.close()
    wait_until_no_study_is_in_memory()


def test_a_report_that_its_visitor_did_not_wait_for_is_forgotten(address):
    session = "9876543210"
    with httpx.stream("GET", f"{address}gradio_api/heartbeat/{session}", timeout=30) as heartbeat:
        lines = heartbeat.iter_lines()  # the connection is closed with this iterator
        next(lines)
        post_event(address, "click", [None], session=session)
        end = time.monotonic() + TIMEOUT
        while not studies_in_memory():
            assert time.monotonic() < end, "no report was generated"
            time.sleep(0.1)
    wait_until_no_study_is_in_memory()


def test_a_file_that_is_too_large_is_refused_in_the_page(visit, tmp_path):
    visitor = visit()
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(limits.MAX_UPLOAD_BYTES + 1)
    visitor.page.locator("#upload input[type=file]").set_input_files(large)
    visitor.page.get_by_text("exceed the maximum allowed size of 32").first.wait_for()
    assert visitor.sentences().count() == 0
    visitor.errors.clear()  # Gradio also logs the rejection to the browser's console
