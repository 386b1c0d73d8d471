"""The web page: an X-ray with its regions, the report, and a scene graph that the visitor can edit.

Gradio serves the page, receives uploads and separates sessions; `viewer.html`, `viewer.css` and the scripts display a
study. Studies are kept in memory only, and removed when the page is closed.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from data.errors import UserError
from modules.inference.demo import limits
from modules.inference.demo.examples import EXAMPLES
from modules.inference.demo.handlers import EventHandlers
from modules.inference.prediction_files import NOTICE
from modules.inference.predictor import Predictor

_FOLDER = Path(__file__).parent
# Concatenated in this order: the last one starts the viewer.
_SCRIPTS = ("viewer_render.js", "viewer_save.js", "viewer.js")
# An unused study is removed after this time, even if the page is still open.
_STUDY_SECONDS = 3600
_MAX_SESSIONS = 64
# An upload that no event has read is deleted at this age; also the interval between checks.
_UPLOAD_SECONDS = 60
# There is one model, so all events that use it share one queue.
_QUEUE = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}

_HEAD = f"""
<h1>From a chest X-ray to a grounded report</h1>
<p>The model predicts a scene graph of the X-ray and generates the report from both. See which regions each sentence
looks at, and edit the graph to see how the report changes.</p>
<p class="notice">{NOTICE}</p>
"""


def build_page(handlers: EventHandlers) -> gr.Blocks:
    """Build the page, ready to launch."""
    def text_of(name: str) -> str:
        return (_FOLDER / name).read_text(encoding="utf-8")

    with gr.Blocks(
        title="SGRRG: from an X-ray to a report", analytics_enabled=False, fill_width=True,
        delete_cache=(_UPLOAD_SECONDS, _UPLOAD_SECONDS),
    ) as page:
        current = gr.State(None, time_to_live=_STUDY_SECONDS)
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
            None, html_template=text_of("viewer.html"), js_on_load="\n".join(text_of(name) for name in _SCRIPTS),
            elem_id="viewer", elem_classes="viewer", apply_default_css=False,
        )
        upload.upload(handlers.open_upload, [upload, current], [upload, current, viewer], **_QUEUE)
        for number, button in enumerate(buttons):
            button.click(partial(handlers.open_example, number), current, [current, viewer], **_QUEUE)
        # `multiple`: in the other modes, an event whose result was lost blocks all later ones.
        viewer.edit(handlers.edit, current, viewer, trigger_mode="multiple", show_progress="minimal", **_QUEUE)

        def remove_session(request: gr.Request) -> None:
            page.state_holder.session_data.pop(request.session_hash, None)
            # Otherwise, results that the visitor did not wait for would be kept forever.
            page._queue.pending_messages_per_session.pop(request.session_hash, None)

        page.unload(remove_session)
    return page.queue(max_size=limits.MAX_WAITING_REQUESTS, api_open=False)


@contextmanager
def serve_page(predictor: Predictor, host: str = "127.0.0.1", port: int | None = None) -> Iterator[str]:
    """Serve the page within the context, which yields its address.

    port: defaults to the first free one from 7860. Raises UserError if the host or the port cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="sgrrg-demo-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        page = build_page(EventHandlers(predictor))
        try:
            _, address, _ = page.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False,
                footer_links=[], run_history=False, enable_monitoring=False, ssr_mode=False, pwa=False,
                mcp_server=False, allowed_paths=[], max_file_size=limits.MAX_UPLOAD_BYTES,
                state_session_capacity=_MAX_SESSIONS, app_kwargs={"middleware": [Middleware(limits.RequestGuard)]},
                theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
                css_paths=_FOLDER / "viewer.css",
            )
        except OSError as error:
            raise UserError(f"Cannot serve on {host}, port {port or 'any'}: {error}") from error
        try:
            yield address
        finally:
            page.close(verbose=False)
