"""The web page: an X-ray with its regions, the report, and a scene graph that the visitor can edit.

Gradio builds the page and separates sessions; `viewer.html`, `viewer.css` and the scripts display a study. Uploads and
studies are kept in memory only, and studies are removed when the page is closed.
"""

import os
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from gradio.data_classes import GradioRootModel

from data.context.settings import PRIOR
from modules.inference.demo import limits
from modules.inference.demo.examples import EXAMPLES
from modules.inference.demo.handlers import EventHandlers
from modules.inference.demo.page_events import PageEvents
from modules.inference.demo.request_guard import RequestGuard, bracketed, is_any_address
from modules.inference.demo.server import serve
from modules.inference.demo.studies import context_read
from modules.inference.demo.uploads import UploadStore
from modules.inference.prediction_files import NOTICE
from modules.inference.predictor import Predictor
from modules.processes.worker_process import WorkerProcess

_FOLDER = Path(__file__).parent
# Concatenated in this order: the last one starts the viewer.
_SCRIPTS = ("viewer_render.js", "viewer_save.js", "viewer.js")
# There is one model, so all events that use it share one queue.
_QUEUE = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
_SECONDS_BETWEEN_REMOVALS = 5

_HEAD = f"""
<h1>From a chest X-ray to a grounded report</h1>
<p>The model predicts a scene graph of the X-ray and generates the report from both. See which regions each sentence
looks at, and edit the graph to see how the report changes.</p>
<p class="notice">{NOTICE}</p>
"""


class _Token(GradioRootModel):
    """What an event contains in the place of an upload: Gradio must not look for a file."""

    root: str


def build_page(handlers: EventHandlers, reads: Collection[str] = ()) -> gr.Blocks:
    """Build the page, ready to launch.

    reads   the parts of the context that the model reads: a previous image can be uploaded if it reads one
    """
    def text_of(name: str) -> str:
        return (_FOLDER / name).read_text(encoding="utf-8")

    with gr.Blocks(
        title="SGRRG: from an X-ray to a report", analytics_enabled=False, fill_width=True,
    ) as page:
        current = gr.State(None, time_to_live=limits.PAGE_SECONDS)
        gr.HTML(_HEAD, elem_classes="demo-head", apply_default_css=False)
        with gr.Row(equal_height=True):
            upload = gr.File(
                label="X-ray: PNG, JPEG, TIFF or DICOM", file_count="single", height=150, elem_id="upload", scale=3
            )
            prior = None
            if PRIOR in reads:
                prior = gr.File(
                    label="The same patient's previous image", file_count="single", height=150, elem_id="prior",
                    scale=3,
                )
                prior.data_model = _Token
            with gr.Column(scale=2, elem_id="examples"):
                gr.HTML("Or a simulated chest:", apply_default_css=False)
                with gr.Row(elem_classes="demo-examples"):
                    titles = [*(example.title for example in EXAMPLES), "Another one"]
                    buttons = [gr.Button(title, size="sm") for title in titles]
        upload.data_model = _Token
        viewer = gr.HTML(
            None, html_template=text_of("viewer.html"), js_on_load="\n".join(text_of(name) for name in _SCRIPTS),
            elem_id="viewer", elem_classes="viewer", apply_default_css=False,
        )
        upload.upload(handlers.open_upload, [upload, current], [upload, current, viewer], preprocess=False, **_QUEUE)
        if prior is not None:
            prior.upload(handlers.open_prior, [prior, current], [prior, current, viewer], preprocess=False, **_QUEUE)
        for number, button in enumerate(buttons):
            button.click(partial(handlers.open_example, number), current, [current, viewer], **_QUEUE)
        # `multiple`: in the other modes, an event whose result was lost blocks all later ones.
        viewer.edit(handlers.edit, current, viewer, trigger_mode="multiple", show_progress="minimal", **_QUEUE)

        def remove_session(request: gr.Request) -> None:
            page.state_holder.session_data.pop(request.session_hash, None)
            # Otherwise, results that the visitor did not wait for would be kept.
            page._queue.pending_messages_per_session.pop(request.session_hash, None)

        page.unload(remove_session)
    page.state_session_capacity = limits.MAX_PAGES
    return page.queue(max_size=limits.MAX_WAITING_REQUESTS, api_open=False)


@contextmanager
def serve_page(
    checkpoint: str | Path, device: str = "auto", host: str = "127.0.0.1", port: int | None = None,
    allowed_hosts: Iterable[str] = (), password: str | None = None,
) -> Iterator[str]:
    """Serve the page within the context, which yields its address.

    checkpoint, device  as for `Predictor`
    host                address to listen on
    port                defaults to the first free one from 7860
    allowed_hosts       names that the page may be opened by, besides `host`
    password            that visitors need, with any user name; None for none

    Raises UserError if the checkpoint cannot be loaded, or the host or the port cannot be used.
    """
    uploads = UploadStore()
    stopped = threading.Event()

    worker = WorkerProcess(
        partial(Predictor, checkpoint, device), limits.MAX_SECONDS_TO_REPORT, limits.MAX_SECONDS_TO_WAIT
    )
    # Gradio creates a folder for files, which stays empty.
    with tempfile.TemporaryDirectory(prefix="sgrrg-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            page = build_page(EventHandlers(worker, uploads), worker.call(context_read))
            app = gr.mount_gradio_app(
                FastAPI(openapi_url=None), page, path="/", footer_links=[], run_history=False,
                enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False, allowed_paths=[],
                show_error=False, max_file_size=limits.MAX_UPLOAD_BYTES, css_paths=_FOLDER / "viewer.css",
                theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            )
            page.is_running = True
            events = PageEvents(page, uploads)
            guard = RequestGuard(app, events, uploads, host, allowed_hosts, password)

            def remove_leftovers() -> None:
                while not stopped.wait(_SECONDS_BETWEEN_REMOVALS):
                    uploads.remove_expired()
                    events.remove_closed_sessions()

            threading.Thread(target=remove_leftovers, name="removal", daemon=True).start()
            with serve(guard, host, port) as bound_port:
                yield f"http://{'localhost' if is_any_address(host) else bracketed(host)}:{bound_port}/"
        finally:
            stopped.set()
            worker.close()
