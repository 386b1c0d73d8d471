"""The event handlers of the page, with a scripted predictor in this process and without a browser."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from modules.config import Config
from modules.inference.prediction import PredictedRegion, PredictedSentence, Prediction
from modules.inference.studies import ReadStudy
from modules.processes.worker_process import WorkerError
from tests.support.images.image_files import encoded

pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-dev.txt")


class ScriptedPredictor:
    """Reports the number of edited regions; raises `error` if set."""

    window = False
    config, vocabularies = Config(), None

    def __init__(self, error=None):
        self.error = error

    def read(self, content, name):
        if content == b"broken":
            raise UserError(f"{name} is damaged: replace it")
        return ReadStudy(name, torch.zeros(1, 4, 4, dtype=torch.uint8), True, (8, 6), content, ())

    def predict_read(self, studies, edits=(None,)):
        if self.error is not None:
            raise self.error
        (study,), (edit,) = studies, edits
        region = PredictedRegion("left lung", (1.0, 2.0, 3.0, 4.0), 0.9, 1.0, True, False, {"a": 0.8}, {"b": 0.1})
        text = f"{study.name} with {len(edit.attributes) if edit else 0} changes ."
        return [
            Prediction(study.name, text, [PredictedSentence(text, {"left lung": 1.0}, 0.5)], [region], {}, (8, 6), [])
        ]


class InThisProcess:
    """A worker without a process."""

    def __init__(self, predictor):
        self.predictor = predictor

    def call(self, function, *arguments):
        return function(self.predictor, *arguments)


class Event:
    """An event of the page, as Gradio passes it."""

    def __init__(self, data):
        self._data = data


@pytest.fixture
def uploads():
    from modules.inference.demo.uploads import UploadStore

    return UploadStore()


@pytest.fixture
def make_handlers(uploads):
    from modules.inference.demo.handlers import EventHandlers

    return lambda predictor: EventHandlers(InThisProcess(predictor), uploads)


@pytest.fixture
def uploaded(uploads):
    """Upload a file, by default a black image; return its token."""
    black = encoded(np.zeros((6, 8), dtype=np.uint8))
    return lambda content=black, name="chest.png": uploads.add(name, content)


def test_an_upload_is_shown_and_removed(make_handlers, uploaded, uploads):
    token = uploaded()
    cleared, current, value = make_handlers(ScriptedPredictor()).open_upload(token, None)
    assert cleared is None and not uploads.claim(token, "session")
    assert value["error"] is None and value["study"] == current.number
    assert value["result"]["report"] == "chest.png with 0 changes ."
    assert value["result"]["regions"]["left lung"]["attributes"] == {"a": 0.8}
    assert value["other_attributes"] == {"left lung": {"b": 0.1}}
    assert value["image"].startswith("data:image/jpeg;base64,")
    assert value["edits"] == {"regions": {}, "attributes": {}}


def test_a_broken_upload_is_removed_too_and_the_open_study_stays(make_handlers, uploaded, uploads):
    handlers = make_handlers(ScriptedPredictor())
    _, current, _ = handlers.open_upload(uploaded(), None)
    token = uploaded(b"broken", "bad.png")
    _, still, value = handlers.open_upload(token, current)
    assert still is current and not uploads.claim(token, "session")
    assert value["error"] == "bad.png is damaged: replace it"
    assert value["result"]["report"] == "chest.png with 0 changes ."


def test_edits_change_the_prediction_and_not_what_is_open(make_handlers, uploaded):
    handlers = make_handlers(ScriptedPredictor())
    _, current, _ = handlers.open_upload(uploaded(), None)
    edits = {"regions": {"left lung": False}, "attributes": {"left lung": {"a": False}}}
    value = handlers.edit(current, Event(edits))
    assert value["result"]["report"] == "chest.png with 1 changes ."
    assert value["unedited"] == ["chest.png with 0 changes ."] and value["edits"] == edits
    assert handlers.edit(current, Event({"regions": {}, "attributes": {}}))["result"]["report"].endswith("0 changes .")


def test_the_same_edits_are_predicted_once(make_handlers, uploaded):
    predictor = ScriptedPredictor()
    handlers = make_handlers(predictor)
    _, current, _ = handlers.open_upload(uploaded(), None)
    one, other = ({"regions": {"left lung": is_on}, "attributes": {}} for is_on in (True, False))
    first = handlers.edit(current, Event(one))
    predictor.error = UserError("predicted again")
    assert handlers.edit(current, Event(one)) == first
    assert handlers.edit(current, Event(other))["error"] == "predicted again"


def test_sentences_before_and_after_an_edit_are_displayed_with_capitals(make_handlers, uploaded):
    handlers = make_handlers(ScriptedPredictor())
    _, current, _ = handlers.open_upload(uploaded(name="ap view"), None)
    value = handlers.edit(current, Event({"regions": {}, "attributes": {"left lung": {"a": False}}}))
    assert value["display_texts"] == {
        "ap view with 0 changes .": "AP view with 0 changes.", "ap view with 1 changes .": "AP view with 1 changes.",
    }


def test_edits_of_nothing_are_one_line(make_handlers):
    value = make_handlers(ScriptedPredictor()).edit(None, Event({"regions": {}, "attributes": {}}))
    assert value == {"error": "The study was removed after an hour: open it again"}


def test_studies_have_numbers_of_their_own(make_handlers, uploaded):
    handlers = make_handlers(ScriptedPredictor())
    first, second = (handlers.open_upload(uploaded(), None)[1] for _ in range(2))
    assert first.number != second.number


def test_an_example_is_opened_by_its_number_and_one_by_chance_after_the_last(make_handlers, monkeypatch):
    from modules.inference.demo import examples

    monkeypatch.setattr(examples, "IMAGE_SIZE", 32)
    handlers = make_handlers(ScriptedPredictor())
    assert handlers.open_example(1, None)[1]["result"]["name"] == examples.EXAMPLES[1].title
    assert handlers.open_example(len(examples.EXAMPLES), None)[1]["result"]["name"] == "Simulated chest"


def test_an_upload_is_used_once(make_handlers, uploaded):
    handlers, token = make_handlers(ScriptedPredictor()), uploaded()
    _, current, _ = handlers.open_upload(token, None)
    _, still, value = handlers.open_upload(token, current)
    assert still is current and "upload it again" in value["error"]


def test_an_open_study_does_not_keep_the_file(make_handlers, uploaded):
    _, current, _ = make_handlers(ScriptedPredictor()).open_upload(uploaded(), None)
    assert current.study.source == b""


@pytest.mark.parametrize("error", [RuntimeError("secret"), WorkerError("Traceback ...\nRuntimeError: secret")])
def test_an_unexpected_error_is_one_line_for_the_visitor_and_a_traceback_for_the_server(
    make_handlers, uploaded, capsys, error
):
    _, current, value = make_handlers(ScriptedPredictor(error)).open_upload(uploaded(), None)
    assert current is None
    assert value == {"error": "The report could not be generated: see the server's log."}
    printed = capsys.readouterr().err
    assert "Traceback" in printed and "secret" in printed


@pytest.mark.parametrize("data", [None, {}, {"context": None}])
def test_a_page_that_sends_no_context_shows_none(data):
    from modules.inference.demo.handlers import parse_context
    from modules.inference.demo.studies import ShownContext

    assert parse_context(data) == ShownContext(prior=False, indication=None)


@pytest.mark.parametrize("context", [
    [], {"prior": True}, {"prior": 1, "indication": None}, {"prior": True, "indication": 3},
    {"prior": True, "indication": None, "more": 1}, {"prior": True, "indication": 1001 * "x"},
    {"prior": False, "indication": "\ud800 cough"},
])
def test_a_malformed_context_is_one_line(make_handlers, uploaded, context):
    handlers = make_handlers(ScriptedPredictor())
    _, current, _ = handlers.open_upload(uploaded(), None)
    value = handlers.edit(current, Event({"regions": {}, "attributes": {}, "context": context}))
    assert "context: reload" in value["error"] or "more than 1000 characters" in value["error"]


def test_a_model_without_context_is_shown_none(make_handlers, uploaded):
    handlers = make_handlers(ScriptedPredictor())
    _, current, value = handlers.open_upload(uploaded(), None)
    assert "context" not in value and "context" not in value["edits"]
    for context, message in (
        ({"prior": True, "indication": None}, "no previous image"),
        ({"prior": False, "indication": "Fever."}, "does not read an indication"),
    ):
        edits = {"regions": {}, "attributes": {}, "context": context}
        assert message in handlers.edit(current, Event(edits))["error"]


def test_a_previous_image_needs_a_study_and_is_removed_in_any_case(make_handlers, uploaded, uploads):
    token = uploaded()
    cleared, current, value = make_handlers(ScriptedPredictor()).open_prior(token, None)
    assert cleared is None and current is None and not uploads.claim(token, "session")
    assert value == {"error": "Open an X-ray first, then its previous image"}


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
