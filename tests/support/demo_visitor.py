"""A visitor of the web page in a real browser, and requests that no page sends."""

import gc
import io
import json
import time
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

# Seconds to wait for something to happen, generous for a busy machine.
TIMEOUT = 60
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 812}


class Visitor:
    """A browser session on the page. Records all requests, and all errors of the browser."""

    def __init__(self, browser, address, viewport):
        self.context = browser.new_context(viewport=viewport, accept_downloads=True)
        self.context.set_default_timeout(1000 * TIMEOUT)
        self.page = self.context.new_page()
        self.requests, self.errors = [], []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda line: line.type == "error" and self.errors.append(line.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address)
        self.button("Healthy chest").wait_for()

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def open_example(self, title):
        """Open an example and wait for its report."""
        self.wait_for_study(self.button(title).click)

    def upload(self, name, content):
        """Upload a file and wait for its report."""
        self.wait_for_study(lambda: self.send(name, content))

    def send(self, name, content, field="upload"):
        """Upload a file without waiting. field: upload, or prior for the previous image."""
        chooser = self.page.locator(f"#{field} input[type=file]")
        chooser.set_input_files({"name": name, "mimeType": "application/octet-stream", "buffer": content})

    def wait_for_study(self, open_it):
        """Call `open_it` and wait until another image is displayed."""
        before = self.image() if self.sentences().count() else None
        open_it()
        self.page.wait_for_function(
            "before => document.querySelector('.sentence') && document.querySelector('.current img').src !== before",
            arg=before,
        )

    def image(self):
        return self.page.locator(".current img").get_attribute("src")

    def sentences(self):
        return self.page.locator("button.sentence")

    def highlighted_boxes(self):
        return self._regions_of(".box.highlighted")

    def visible_boxes(self):
        return self._regions_of(".box:visible")

    def _regions_of(self, selector):
        return set(self.page.locator(selector).evaluate_all("boxes => boxes.map(box => box.dataset.region)"))

    def error(self):
        return self.page.locator("#viewer [role=alert]")

    def download(self, button):
        """The name and the content of the file that a button saves."""
        with self.page.expect_download() as download:
            self.button(button).click()
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    def result(self):
        return json.loads(self.download("Save result (JSON)")[1])

    def wait_for_result(self, condition):
        """The first saved result that satisfies `condition`."""
        end = time.monotonic() + TIMEOUT
        while not condition(result := self.result()):
            assert time.monotonic() < end, f"the report did not change within {TIMEOUT} seconds"
            self.page.wait_for_timeout(100)
        return result

    def tab_to(self, selector):
        """Press Tab until an element that matches `selector` has the focus."""
        for _ in range(200):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")


def png(seed=0, size=(60, 48)):
    """A PNG file of random pixels. size: (width, height)."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, size=size[::-1], dtype=np.uint8)
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def top_regions(sentence):
    """The regions that the page highlights for a sentence of a saved result."""
    shares = sorted(sentence["regions"].items(), key=lambda item: -item[1])
    return {name for name, share in shares[:3] if share >= 0.5 * shares[0][1]}


def post_event(address, event, data, event_data=None, session="0123456789", which=0):
    """Send an event without a page; which: of several events of that kind. Return the HTTP response."""
    dependencies = httpx.get(f"{address}config").json()["dependencies"]
    numbers = [one["id"] for one in dependencies if any(target[1] == event for target in one["targets"])]
    number = numbers[which]
    body = {"fn_index": number, "data": data, "event_data": event_data, "session_hash": session}
    return httpx.post(f"{address}gradio_api/queue/join", json=body)


def response_to(address, event, data, event_data=None, session="0123456789", which=0):
    """The message with the results of an event sent without a page, but with the connection that a page holds."""
    api = f"{address}gradio_api"
    with httpx.stream("GET", f"{api}/heartbeat/{session}", timeout=TIMEOUT) as heartbeat:
        alive = heartbeat.iter_lines()  # the connection is closed with this iterator
        next(alive)
        assert post_event(address, event, data, event_data, session, which).status_code == 200
        with httpx.stream("GET", f"{api}/queue/data", params={"session_hash": session}, timeout=TIMEOUT) as lines:
            for line in lines.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed":
                    return message
    raise AssertionError("the server did not respond")


def studies_in_memory():
    """Every study of any visitor that the server holds."""
    from modules.inference.demo.studies import OpenStudy

    return [
        one for one in gc.get_objects()
        if type(one) is OpenStudy or (type(one) is dict and {"image", "other_attributes"} <= one.keys())
    ]


def wait_until_no_study_is_in_memory(seconds=TIMEOUT):
    """seconds: a session that never held the connection of a page keeps its study for `limits.UPLOAD_SECONDS`."""
    end = time.monotonic() + seconds
    while studies_in_memory():
        assert time.monotonic() < end, f"a study is in memory {seconds} seconds after its visitor left"
        time.sleep(0.2)
        gc.collect()
