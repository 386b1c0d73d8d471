"""Handles the events of the web page and builds what `viewer.js` displays.

The model is in a process of its own (`modules/processes/worker_process.py`); this one reads no image.
"""

import itertools
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import gradio as gr

from data.errors import UserError
from modules.evaluation.display import format_report
from modules.inference.demo import limits, studies
from modules.inference.demo.studies import OpenStudy, ShownContext
from modules.inference.demo.uploads import UploadStore
from modules.inference.graph_edits import GraphEdits
from modules.inference.prediction import Prediction
from modules.inference.prediction_files import as_json
from modules.processes.worker_process import WorkerProcess


class EventHandlers:
    """The event handlers of the page. They turn each error into one line."""

    def __init__(self, worker: WorkerProcess, uploads: UploadStore):
        """worker: its object is a `Predictor`."""
        self._worker = worker
        self._uploads = uploads
        self._numbers = itertools.count(1)

    def open_upload(
        self, token: str | None, current: OpenStudy | None
    ) -> tuple[None, OpenStudy | None, dict[str, Any]]:
        """Report on an upload and remove it from memory. token: None to keep the current study."""
        if token is None:
            return None, current, _viewer_value(current)

        def open_it() -> OpenStudy:
            upload = self._uploads.take(token)
            return self._worker.call(studies.open_upload, upload.content, upload.name)

        return None, *self._open(open_it, current)

    def open_prior(
        self, token: str | None, current: OpenStudy | None
    ) -> tuple[None, OpenStudy | None, dict[str, Any]]:
        """Report on the current study with an upload as its previous image, and remove that from memory."""
        if token is None:
            return None, current, _viewer_value(current)

        def open_it() -> OpenStudy:
            upload = self._uploads.take(token)
            if current is None:
                raise UserError("Open an X-ray first, then its previous image")
            shown = current.shown if current.latest is None else current.latest[1]
            return self._worker.call(studies.open_prior, current, shown, upload.content, upload.name)

        return None, *self._open(open_it, current)

    def open_example(self, number: int, current: OpenStudy | None) -> tuple[OpenStudy | None, dict[str, Any]]:
        """Report on the example with this number, or on a random simulated patient for the number after the last."""
        return self._open(lambda: self._worker.call(studies.open_example, number), current)

    def edit(self, current: OpenStudy | None, event: gr.EventData) -> dict[str, Any]:
        """Report on the current study with an edited graph and context."""
        if current is None:
            return _viewer_value(None, error="The study was removed after an hour: open it again")
        try:
            edits, shown = parse_edits(event._data), parse_context(event._data)
            if shown.prior and current.prior_image is None:
                raise UserError("The study has no previous image: open it again")
            if current.latest is None or current.latest[:2] != (edits, shown):
                prediction = self._worker.call(studies.predict, current.study, edits, shown)
                current.latest = edits, shown, prediction
        except Exception as error:
            return _viewer_value(current, error=_error_line(error))
        return _viewer_value(current, current.latest[2], edits, shown)

    def _open(
        self, open_it: Callable[[], OpenStudy], current: OpenStudy | None
    ) -> tuple[OpenStudy | None, dict[str, Any]]:
        try:
            opened = open_it()
        except Exception as error:
            return current, _viewer_value(current, error=_error_line(error))
        opened.number = next(self._numbers)
        return opened, _viewer_value(opened)


def _error_line(error: Exception) -> str:
    """The error message for the visitor. Unexpected errors are also written to the server's log."""
    if isinstance(error, UserError):
        return str(error)
    traceback.print_exception(error)
    return "The report could not be generated: see the server's log."


def parse_edits(data: Any) -> GraphEdits:
    """Parse edits from `viewer.js`: {"regions": {name: bool}, "attributes": {name: {attribute: bool}}}.

    Raises UserError for anything else. The predictor checks the names.
    """
    def are_choices(choices: Any) -> bool:
        return isinstance(choices, Mapping) and all(isinstance(choice, bool) for choice in choices.values())

    try:
        regions, attributes = data["regions"], data["attributes"]
        well_formed = are_choices(regions) and all(are_choices(choices) for choices in attributes.values())
    except (TypeError, KeyError, AttributeError):
        well_formed = False
    if not well_formed:
        raise UserError("The page sent malformed edits: reload it")
    return GraphEdits(regions=regions, attributes=attributes)


def parse_context(data: Any) -> ShownContext:
    """Parse the context that `viewer.js` sends beside edits: {"context": {"prior": bool, "indication": text or null}}.

    Without it, none is shown. Raises UserError for anything else, and for a text that is too long.
    """
    sent = data.get("context") if isinstance(data, Mapping) else None
    if sent is None:
        return ShownContext()
    well_formed = isinstance(sent, Mapping) and set(sent) == {"prior", "indication"}
    if not (well_formed and isinstance(sent["prior"], bool) and _is_text_or_none(sent["indication"])):
        raise UserError("The page sent a malformed context: reload it")
    if sent["indication"] is not None and len(sent["indication"]) > limits.MAX_INDICATION_LENGTH:
        raise UserError(f"The indication has more than {limits.MAX_INDICATION_LENGTH} characters: shorten it")
    return ShownContext(sent["prior"], sent["indication"])


def _is_text_or_none(value: Any) -> bool:
    """Whether `value` is None or a text that can be sent back; half of a surrogate pair cannot."""
    try:
        if isinstance(value, str):
            value.encode()
        return isinstance(value, str | None)
    except UnicodeEncodeError:
        return False


def _viewer_value(
    current: OpenStudy | None, prediction: Prediction | None = None, edits: GraphEdits | None = None,
    shown: ShownContext | None = None, error: str | None = None,
) -> dict[str, Any]:
    """The `props.value` of `viewer.js`. prediction: defaults to the one without edits, with all of the context."""
    edits = edits or GraphEdits()
    value: dict[str, Any] = {"error": error}
    if current is not None:
        prediction = prediction or current.unedited
        value |= {
            "study": current.number,
            "image": current.image,
            "unedited": [sentence.text for sentence in current.unedited.sentences],
            "display_texts": {
                sentence.text: format_report(sentence.text)
                for sentence in (*current.unedited.sentences, *prediction.sentences)
            },
            "edits": {"regions": edits.regions, "attributes": edits.attributes}
            | ({"context": asdict(shown or current.shown)} if current.reads else {}),
            "result": as_json(prediction),
            "other_attributes": {region.name: region.other_attributes for region in prediction.regions},
        }
        if current.reads:
            value["context"] = {
                "reads": current.reads, "unedited": asdict(current.shown), "prior_image": current.prior_image,
                "prior_boxes": {region.name: region.prior_box for region in prediction.regions if region.change},
            }
    return value
