"""The web page: an X-ray with its regions, the report, and a scene graph that can be changed.

Gradio serves it, takes uploads and keeps visitors apart; `viewer.html`, `viewer.js` and `viewer.css` show a study. What
a visitor uploads is read into memory and its file deleted at once; the memory is given back when the page is closed.
"""

import base64
import io
import itertools
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image
from starlette.middleware import Middleware

from data.errors import UserError, readable
from data.images.network_image import read_picture
from modules.inference.demo import limits
from modules.inference.demo.examples import EXAMPLES, simulate_any, simulate_example
from modules.inference.prediction_files import NOTICE, as_json
from modules.inference.predictor import GraphEdits, Prediction, Predictor, ReadStudy

_FOLDER = Path(__file__).parent
# Longest side of the picture that the page shows, in pixels.
_SHOWN_SIDE = 1024
# An unused study is forgotten after this time, even where the page stays open.
_SECONDS_KEPT = 3600
_MOST_SESSIONS = 64
# An upload that no event read is deleted when it is this old; looked for as often.
_SECONDS_ON_DISK = 60
# One model, so one queue for whatever uses it.
_QUEUE = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}

_HEAD = f"""
<h1>From a chest X-ray to a grounded report</h1>
<p>The model predicts a scene graph of the X-ray and writes the report from both. See where each sentence looked, and
change the graph to see what the report makes of it.</p>
<p class="notice">{NOTICE}</p>
"""


@dataclass(frozen=True)
class OpenStudy:
    """What a visitor looks at.

    number    tells it from other studies
    picture   data URL of what the page shows
    unedited  the prediction before any edit
    """

    number: int
    study: ReadStudy
    picture: str
    unedited: Prediction


class Desk:
    """Answers a visitor's requests with what `viewer.js` shows: one at a time, each error as one line."""

    def __init__(self, predictor: Predictor, seconds: float = limits.SECONDS_TO_REPORT):
        self._predictor = predictor
        self._line = limits.OneAtATime(seconds)
        self._numbers = itertools.count(1)

    def open_upload(self, path: str | None, current: OpenStudy | None) -> tuple[None, OpenStudy | None, dict[str, Any]]:
        """Report on an uploaded file, which is deleted; without one, nothing changes."""
        if path is None:
            return None, current, _shown(current)
        try:
            content = Path(path).read_bytes()
        finally:
            Path(path).unlink(missing_ok=True)
        return None, *self._open(lambda: content, readable(Path(path).name), current)

    def open_example(self, number: int, current: OpenStudy | None) -> tuple[OpenStudy | None, dict[str, Any]]:
        """Report on the example with that number, or on a patient by chance for the number after the last."""
        if number < len(EXAMPLES):
            return self._open(partial(simulate_example, EXAMPLES[number]), EXAMPLES[number].title, current)
        return self._open(partial(simulate_any, np.random.default_rng()), "Simulated chest", current)

    def edit(self, current: OpenStudy | None, event: gr.EventData) -> dict[str, Any]:
        """Report on the open study with another graph."""
        if current is None:
            return _shown(None, error="The study was forgotten after an hour: open it again")

        def predict() -> Prediction:
            return self._predictor.predict_read([current.study], [edits])[0]

        try:
            edits = parse_edits(event._data)
            prediction = self._line.call(predict)
        except Exception as error:
            return _shown(current, error=_one_line(error))
        return _shown(current, prediction, edits)

    def _open(
        self, source: Callable[[], bytes], name: str, current: OpenStudy | None
    ) -> tuple[OpenStudy | None, dict[str, Any]]:
        def read_and_predict() -> OpenStudy:
            content = source()
            study = self._predictor.read(content, name)
            picture = _data_url(read_picture(content, name, _SHOWN_SIDE, self._predictor.window).pixels)
            return OpenStudy(next(self._numbers), study, picture, self._predictor.predict_read([study])[0])

        try:
            opened = self._line.call(read_and_predict)
        except Exception as error:
            return current, _shown(current, error=_one_line(error))
        return opened, _shown(opened)


def _one_line(error: Exception) -> str:
    """What the page says of an error; what the visitor cannot mend goes to the server's log as well."""
    if isinstance(error, UserError):
        return str(error)
    traceback.print_exception(error)
    return "The report could not be written. The server's log says why."


def parse_edits(data: Any) -> GraphEdits:
    """Edits as `viewer.js` sends them: {"regions": {name: bool}, "attributes": {name: {attribute: bool}}}.

    Raises UserError for anything else. Whether the names exist is the predictor's to say.
    """
    def is_choice(choices: Any) -> bool:
        return isinstance(choices, Mapping) and all(isinstance(chosen, bool) for chosen in choices.values())

    try:
        regions, attributes = data["regions"], data["attributes"]
        well_formed = is_choice(regions) and all(is_choice(choices) for choices in attributes.values())
    except (TypeError, KeyError, AttributeError):
        well_formed = False
    if not well_formed:
        raise UserError("The page sent changes that are none: load it again")
    return GraphEdits(regions=regions, attributes=attributes)


def _shown(
    current: OpenStudy | None, prediction: Prediction | None = None, edits: GraphEdits | None = None,
    error: str | None = None,
) -> dict[str, Any]:
    """What `viewer.js` shows of the open study, and of an error; by default without edits."""
    edits = edits or GraphEdits()
    shown: dict[str, Any] = {"error": error}
    if current is not None:
        prediction = prediction or current.unedited
        shown |= {
            "study": current.number,
            "picture": current.picture,
            "unedited": [sentence.text for sentence in current.unedited.sentences],
            "edits": {"regions": edits.regions, "attributes": edits.attributes},
            "result": as_json(prediction),
            "other_attributes": {region.name: region.other_attributes for region in prediction.regions},
        }
    return shown


def _data_url(pixels: np.ndarray) -> str:
    """[H, W] uint8 as a JPEG inside a URL, so that no file has to be served."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=92)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def build_page(desk: Desk) -> gr.Blocks:
    """The page, to be launched."""
    def text_of(name: str) -> str:
        return (_FOLDER / name).read_text(encoding="utf-8")

    with gr.Blocks(
        title="SGRRG: from an X-ray to a report", analytics_enabled=False, fill_width=True,
        delete_cache=(_SECONDS_ON_DISK, _SECONDS_ON_DISK),
    ) as page:
        current = gr.State(None, time_to_live=_SECONDS_KEPT)
        gr.HTML(_HEAD, elem_classes="demo-head", apply_default_css=False)
        with gr.Row(equal_height=True):
            upload = gr.File(
                label="X-ray: PNG, JPEG, TIFF or DICOM", file_count="single", height=150, elem_id="upload", scale=3
            )
            with gr.Column(scale=2, elem_id="examples"):
                gr.HTML("Or a simulated chest:", apply_default_css=False)
                with gr.Row(elem_classes="demo-examples"):
                    titles = [*(example.title for example in EXAMPLES), "Another one"]
                    buttons = [gr.Button(title, size="sm") for title in titles]
        viewer = gr.HTML(
            None, html_template=text_of("viewer.html"), js_on_load=text_of("viewer.js"), elem_id="viewer",
            elem_classes="viewer", apply_default_css=False,
        )
        upload.upload(desk.open_upload, [upload, current], [upload, current, viewer], **_QUEUE)
        for number, button in enumerate(buttons):
            button.click(partial(desk.open_example, number), current, [current, viewer], **_QUEUE)
        viewer.edit(desk.edit, current, viewer, trigger_mode="always_last", show_progress="minimal", **_QUEUE)

        def forget(request: gr.Request) -> None:
            page.state_holder.session_data.pop(request.session_hash, None)
            # Answers that the visitor did not stay to receive would wait for ever.
            page._queue.pending_messages_per_session.pop(request.session_hash, None)

        page.unload(forget)
    return page.queue(max_size=limits.WAITING_VISITORS, api_open=False)


@contextmanager
def served(predictor: Predictor, host: str = "127.0.0.1", port: int | None = None) -> Iterator[str]:
    """Serve the page as long as the context lasts; gives its address.

    port  None takes a free one from 7860 on. Raises UserError where the port, or the host, cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="sgrrg-demo-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        page = build_page(Desk(predictor))
        try:
            _, address, _ = page.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False,
                footer_links=[], run_history=False, enable_monitoring=False, ssr_mode=False, pwa=False,
                mcp_server=False, allowed_paths=[], max_file_size=limits.LARGEST_UPLOAD,
                state_session_capacity=_MOST_SESSIONS, app_kwargs={"middleware": [Middleware(limits.RequestGuard)]},
                theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
                css_paths=_FOLDER / "viewer.css",
            )
        except OSError as error:
            raise UserError(f"Cannot serve on {host}, port {port or 'any'}: {error}") from error
        try:
            yield address
        finally:
            page.close(verbose=False)
