"""The event make_handlers of the page, with a scripted predictor and without a browser."""

import io
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.errors import UserError
from modules.inference.prediction import PredictedRegion, PredictedSentence, Prediction

pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-dev.txt")


class ScriptedPredictor:
    """Reports the number of edited regions; raises `error` or waits for `wait_for` if set."""

    window = False

    def __init__(self, error=None, wait_for=None):
        self.error, self.wait_for = error, wait_for

    def read(self, content, name):
        if content == b"broken":
            raise UserError(f"{name} is damaged: replace it")
        return name

    def predict_read(self, studies, edits=(None,)):
        if self.wait_for is not None:
            self.wait_for.wait()
        if self.error is not None:
            raise self.error
        (study,), (edit,) = studies, edits
        region = PredictedRegion("left lung", (1.0, 2.0, 3.0, 4.0), 0.9, 1.0, True, False, {"a": 0.8}, {"b": 0.1})
        text = f"{study} with {len(edit.attributes) if edit else 0} changes ."
        return [Prediction(study, text, [PredictedSentence(text, {"left lung": 1.0}, 0.5)], [region], {}, (8, 6), [])]


class Event:
    """An event of the page, as Gradio passes it."""

    def __init__(self, data):
        self._data = data


@pytest.fixture
def make_handlers():
    from modules.inference.demo.handlers import EventHandlers

    return EventHandlers


def uploaded(folder, content=None, name="chest.png"):
    """The path of an uploaded file; by default a black image."""
    if content is None:
        file = io.BytesIO()
        Image.fromarray(np.zeros((6, 8), dtype=np.uint8)).save(file, format="PNG")
        content = file.getvalue()
    (folder / name).write_bytes(content)
    return str(folder / name)


def test_an_upload_is_shown_and_deleted(make_handlers, tmp_path):
    path = uploaded(tmp_path)
    cleared, current, value = make_handlers(ScriptedPredictor()).open_upload(path, None)
    assert cleared is None and list(tmp_path.iterdir()) == []
    assert value["error"] is None and value["study"] == current.number
    assert value["result"]["report"] == "chest.png with 0 changes ."
    assert value["result"]["regions"]["left lung"]["attributes"] == {"a": 0.8}
    assert value["other_attributes"] == {"left lung": {"b": 0.1}}
    assert value["image"].startswith("data:image/jpeg;base64,")
    assert value["edits"] == {"regions": {}, "attributes": {}}


def test_a_broken_upload_is_deleted_too_and_what_was_open_stays(make_handlers, tmp_path):
    handlers = make_handlers(ScriptedPredictor())
    _, current, _ = handlers.open_upload(uploaded(tmp_path), None)
    _, still, value = handlers.open_upload(uploaded(tmp_path, b"broken", "bad\nname.png"), current)
    assert list(tmp_path.iterdir()) == [] and still is current
    assert value["error"] == "bad\ufffdname.png is damaged: replace it"
    assert value["result"]["report"] == "chest.png with 0 changes ."


def test_edits_change_the_prediction_and_not_what_is_open(make_handlers, tmp_path):
    handlers = make_handlers(ScriptedPredictor())
    _, current, _ = handlers.open_upload(uploaded(tmp_path), None)
    edits = {"regions": {"left lung": False}, "attributes": {"left lung": {"a": False}}}
    value = handlers.edit(current, Event(edits))
    assert value["result"]["report"] == "chest.png with 1 changes ."
    assert value["unedited"] == ["chest.png with 0 changes ."] and value["edits"] == edits
    assert handlers.edit(current, Event({"regions": {}, "attributes": {}}))["result"]["report"].endswith("0 changes .")


def test_the_same_edits_are_predicted_once(make_handlers, tmp_path):
    predictor = ScriptedPredictor()
    handlers = make_handlers(predictor)
    _, current, _ = handlers.open_upload(uploaded(tmp_path), None)
    one, other = ({"regions": {"left lung": is_on}, "attributes": {}} for is_on in (True, False))
    first = handlers.edit(current, Event(one))
    predictor.error = UserError("predicted again")
    assert handlers.edit(current, Event(one)) == first
    assert handlers.edit(current, Event(other))["error"] == "predicted again"


def test_sentences_before_and_after_an_edit_are_displayed_with_capitals(make_handlers, tmp_path):
    handlers = make_handlers(ScriptedPredictor())
    _, current, _ = handlers.open_upload(uploaded(tmp_path, name="ap view"), None)
    value = handlers.edit(current, Event({"regions": {}, "attributes": {"left lung": {"a": False}}}))
    assert value["display_texts"] == {
        "ap view with 0 changes .": "AP view with 0 changes.", "ap view with 1 changes .": "AP view with 1 changes.",
    }


def test_edits_of_nothing_are_one_line(make_handlers):
    value = make_handlers(ScriptedPredictor()).edit(None, Event({"regions": {}, "attributes": {}}))
    assert value == {"error": "The study was removed after an hour: open it again"}


def test_studies_have_numbers_of_their_own(make_handlers, tmp_path):
    handlers = make_handlers(ScriptedPredictor())
    first, second = (handlers.open_upload(uploaded(tmp_path), None)[1] for _ in range(2))
    assert first.number != second.number


def test_an_example_is_opened_by_its_number_and_one_by_chance_after_the_last(make_handlers, monkeypatch):
    from modules.inference.demo import examples

    monkeypatch.setattr(examples, "IMAGE_SIZE", 32)
    handlers = make_handlers(ScriptedPredictor())
    assert handlers.open_example(1, None)[1]["result"]["name"] == examples.EXAMPLES[1].title
    assert handlers.open_example(len(examples.EXAMPLES), None)[1]["result"]["name"] == "Simulated chest"


def test_what_nobody_foresaw_is_one_line_for_the_visitor_and_a_traceback_for_the_server(
    make_handlers, tmp_path, capsys
):
    handlers = make_handlers(ScriptedPredictor(error=RuntimeError("secret of the server")))
    _, current, value = handlers.open_upload(uploaded(tmp_path), None)
    assert current is None
    assert value == {"error": "The report could not be generated: see the server's log."}
    assert "secret of the server" in capsys.readouterr().err


def test_a_report_that_takes_too_long_is_given_up(make_handlers, tmp_path):
    done = threading.Event()
    try:
        value = make_handlers(ScriptedPredictor(wait_for=done), seconds=0.05).open_upload(uploaded(tmp_path), None)[2]
    finally:
        done.set()
    assert "more than 0.05 seconds" in value["error"]


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(json, st.fixed_dictionaries({"regions": json, "attributes": json})))
def test_whatever_a_page_sends_as_edits_is_taken_whole_or_refused_in_one_line(data):
    from modules.inference.demo.handlers import parse_edits

    try:
        edits = parse_edits(data)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(chosen, bool) for chosen in edits.regions.values())
        assert all(isinstance(chosen, bool) for choices in edits.attributes.values() for chosen in choices.values())
