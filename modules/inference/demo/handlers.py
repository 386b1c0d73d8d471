"""Handles the events of the web page and builds what `viewer.js` displays.

An upload is read into memory and its file deleted at once.
"""

import base64
import io
import itertools
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from data.errors import UserError, readable
from data.images.network_image import read_image
from modules.evaluation.display import format_report
from modules.inference.demo import limits
from modules.inference.demo.examples import EXAMPLES, simulate_example, simulate_random
from modules.inference.graph_edits import GraphEdits
from modules.inference.prediction import Prediction
from modules.inference.prediction_files import as_json
from modules.inference.predictor import Predictor
from modules.inference.studies import ReadStudy

# Long side of the displayed image, in pixels.
_DISPLAY_SIDE = 1024


@dataclass
class OpenStudy:
    """The study that a visitor sees.

    number    unique per server
    image     data URL of the displayed image
    unedited  the prediction before any edit
    latest    the latest edits and their prediction: the page may send the same edits several times
    """

    number: int
    study: ReadStudy
    image: str
    unedited: Prediction
    latest: tuple[GraphEdits, Prediction] | None = None


class EventHandlers:
    """The event handlers of the page. They use the model one at a time, and turn each error into one line."""

    def __init__(self, predictor: Predictor, seconds: float = limits.MAX_SECONDS_TO_REPORT):
        self._predictor = predictor
        self._executor = limits.SerialExecutor(seconds)
        self._numbers = itertools.count(1)

    def open_upload(self, path: str | None, current: OpenStudy | None) -> tuple[None, OpenStudy | None, dict[str, Any]]:
        """Report on an uploaded file and delete it. path: None to keep the current study."""
        if path is None:
            return None, current, _viewer_value(current)
        try:
            content = Path(path).read_bytes()
        finally:
            Path(path).unlink(missing_ok=True)
        return None, *self._open(lambda: content, readable(Path(path).name), current)

    def open_example(self, number: int, current: OpenStudy | None) -> tuple[OpenStudy | None, dict[str, Any]]:
        """Report on the example with this number, or on a random simulated patient for the number after the last."""
        if number < len(EXAMPLES):
            return self._open(partial(simulate_example, EXAMPLES[number]), EXAMPLES[number].title, current)
        return self._open(partial(simulate_random, np.random.default_rng()), "Simulated chest", current)

    def edit(self, current: OpenStudy | None, event: gr.EventData) -> dict[str, Any]:
        """Report on the current study with an edited graph."""
        if current is None:
            return _viewer_value(None, error="The study was removed after an hour: open it again")

        def predict() -> Prediction:
            if current.latest is None or current.latest[0] != edits:
                current.latest = (edits, self._predictor.predict_read([current.study], [edits])[0])
            return current.latest[1]

        try:
            edits = parse_edits(event._data)
            prediction = self._executor.call(predict)
        except Exception as error:
            return _viewer_value(current, error=_error_line(error))
        return _viewer_value(current, prediction, edits)

    def _open(
        self, load: Callable[[], bytes], name: str, current: OpenStudy | None
    ) -> tuple[OpenStudy | None, dict[str, Any]]:
        def read_and_predict() -> OpenStudy:
            content = load()
            study = self._predictor.read(content, name)
            image = _data_url(read_image(content, name, _DISPLAY_SIDE, self._predictor.window).pixels)
            return OpenStudy(next(self._numbers), study, image, self._predictor.predict_read([study])[0])

        try:
            opened = self._executor.call(read_and_predict)
        except Exception as error:
            return current, _viewer_value(current, error=_error_line(error))
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


def _viewer_value(
    current: OpenStudy | None, prediction: Prediction | None = None, edits: GraphEdits | None = None,
    error: str | None = None,
) -> dict[str, Any]:
    """The `props.value` of `viewer.js`. prediction: defaults to the one without edits."""
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
            "edits": {"regions": edits.regions, "attributes": edits.attributes},
            "result": as_json(prediction),
            "other_attributes": {region.name: region.other_attributes for region in prediction.regions},
        }
    return value


def _data_url(pixels: np.ndarray) -> str:
    """Encode [height, width] uint8 as a JPEG in a data URL, so that no file has to be served."""
    image = Image.fromarray(pixels)
    image.thumbnail((_DISPLAY_SIDE, _DISPLAY_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=92)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
