"""The web page in a real browser: what a visitor does, what a hostile one tries, and that nothing stays or leaves."""

import gc
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import main_demo
from docs.chromium import MISSING, find_chromium
from modules.inference.demo import limits
from modules.inference.predictor import Predictor
from tests.support.tiny_run import write_tiny_run

pytest.importorskip("gradio", reason="Gradio is missing: pip install -r requirements-dev.txt")
browsers = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: see requirements-dev.txt")

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = find_chromium()
# Seconds until something that does not happen is given up; a machine may have much else to do.
PATIENCE = 60
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 812}

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run folder whose untrained model writes reports that differ from image to image."""
    return write_tiny_run(tmp_path_factory.mktemp("demo"), lively=True)[0]


@pytest.fixture(scope="module")
def address(run_folder):
    """The page, served to all tests of this module."""
    from modules.inference.demo.page import served

    with served(Predictor(run_folder, "cpu")) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with browsers.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """A browser session of its own on the page. Every request and every complaint of the browser is noted."""

    def __init__(self, browser, address, viewport):
        self.context = browser.new_context(viewport=viewport, accept_downloads=True)
        self.context.set_default_timeout(1000 * PATIENCE)
        self.page = self.context.new_page()
        self.requests, self.complaints = [], []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda line: line.type == "error" and self.complaints.append(line.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)
        self.button("Healthy chest").wait_for()

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def pick(self, example):
        """Open an example and wait for its report."""
        self.wait_for_study(self.button(example).click)

    def upload(self, name, content):
        """Upload a file and wait for its report."""
        self.wait_for_study(lambda: self.send(name, content))

    def send(self, name, content):
        chooser = self.page.locator("#upload input[type=file]")
        chooser.set_input_files({"name": name, "mimeType": "application/octet-stream", "buffer": content})

    def wait_for_study(self, open_it):
        """Call `open_it` and wait until another picture is shown."""
        before = self.picture() if self.sentences().count() else None
        open_it()
        self.page.wait_for_function(
            "before => document.querySelector('.sentence') && document.querySelector('.picture img').src !== before",
            arg=before,
        )

    def picture(self):
        return self.page.locator(".picture img").get_attribute("src")

    def sentences(self):
        return self.page.locator("button.sentence")

    def lit_boxes(self):
        return set(self.page.locator(".box.lit").evaluate_all("boxes => boxes.map(box => box.dataset.region)"))

    def shown_boxes(self):
        return set(self.page.locator(".box:visible").evaluate_all("boxes => boxes.map(box => box.dataset.region)"))

    def error(self):
        return self.page.locator("#viewer [role=alert]")

    def download(self, button):
        """The name and the content of what a button saves."""
        with self.page.expect_download() as download:
            self.button(button).click()
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    def result(self):
        return json.loads(self.download("Save result (JSON)")[1])


@pytest.fixture
def visit(browser, address):
    """Opens the page as a new visitor, who must not be shown or sent anything from elsewhere."""
    visitors = []

    def open_page(viewport=WIDE):
        visitors.append(Visitor(browser, address, viewport))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        visitor.context.close()
        assert [url for url in visitor.requests if not url.startswith((address, "data:", "blob:"))] == []
        assert visitor.complaints == []


def png(seed=0, size=(60, 48)):
    """A picture of noise, (width, height), as a PNG file."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, size=size[::-1], dtype=np.uint8)
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def strongest(sentence):
    """The regions that the page lights for a sentence of the saved result."""
    shares = sorted(sentence["regions"].items(), key=lambda item: -item[1])
    return {name for name, share in shares[:3] if share >= 0.5 * shares[0][1]}


# A visitor


@needs_chromium
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
    visitor.upload("another.png", png(seed=1))  # the place to drop a file is free again
    assert visitor.result()["name"] == "another.png"


@needs_chromium
def test_boxes_lie_on_the_picture_where_the_result_has_them(visit):
    visitor = visit()
    visitor.upload("wide.png", png(size=(90, 50)))
    visitor.page.get_by_text("All", exact=True).click()
    result = visitor.result()
    picture = visitor.page.locator(".picture").bounding_box()
    assert picture["width"] / picture["height"] == pytest.approx(90 / 50, rel=0.01)
    scale = picture["width"] / 90
    boxed = {name: region["box"] for name, region in result["regions"].items() if region["box"]}
    assert visitor.shown_boxes() == set(boxed)
    for name, (left, top, right, bottom) in boxed.items():
        drawn = visitor.page.locator(f'.box[data-region="{name}"]').bounding_box()
        corners = (drawn["x"] - picture["x"], drawn["y"] - picture["y"], drawn["width"], drawn["height"])
        assert corners == pytest.approx(
            (left * scale, top * scale, (right - left) * scale, (bottom - top) * scale), abs=1.5
        )


@needs_chromium
def test_a_sentence_lights_its_regions_and_a_region_its_sentences(visit):
    visitor = visit()
    visitor.pick("Enlarged heart")
    result = visitor.result()
    regions = strongest(result["sentences"][0])
    boxed = {name for name in regions if result["regions"][name]["box"]}
    visitor.sentences().first.hover()
    assert visitor.lit_boxes() == boxed
    visitor.page.locator("h1").hover()
    assert visitor.lit_boxes() == set()
    chosen = sorted(boxed)[0]
    visitor.page.locator(f'.box[data-region="{chosen}"]').dispatch_event("click")
    visitor.page.locator("h1").hover()  # a click holds it
    telling = [number for number, sentence in enumerate(result["sentences"]) if chosen in strongest(sentence)]
    lit = visitor.page.locator(".sentence.lit").evaluate_all("all => all.map(one => Number(one.dataset.sentence))")
    assert lit == telling and visitor.lit_boxes() == {chosen}


@needs_chromium
def test_boxes_are_shown_by_graph_by_abnormal_and_one_by_one(visit):
    visitor = visit()
    visitor.pick("Enlarged heart")
    regions = visitor.result()["regions"]
    graph = {name for name, region in regions.items() if region["selected"] and region["box"]}
    abnormal = {name for name in graph if regions[name]["abnormal"]}
    assert abnormal and graph != abnormal
    assert visitor.shown_boxes() == graph
    visitor.page.get_by_text("Abnormal", exact=True).click()
    assert visitor.shown_boxes() == abnormal
    visitor.page.get_by_text("None", exact=True).click()
    assert visitor.shown_boxes() == set()
    chosen = sorted(graph)[0]
    visitor.page.get_by_label(f"show the box of {chosen}", exact=True).check()
    visitor.page.locator("h1").hover()
    assert visitor.shown_boxes() == {chosen}


@needs_chromium
def test_switching_the_graph_rewrites_the_report_until_it_is_undone(visit):
    visitor = visit()
    visitor.pick("Enlarged heart")
    before = visitor.result()
    region = next(name for name, one in before["regions"].items() if one["selected"] and one["attributes"])
    attribute = next(iter(before["regions"][region]["attributes"]))
    visitor.page.locator(f'[data-of-region="{region}"][data-toggle-attribute="{attribute}"]').click()
    after = wait_for_result(visitor, lambda result: attribute not in result["regions"][region]["attributes"])
    assert after["edits"] == {"regions": {}, "attributes": {region: {attribute: False}}}

    others = [name for name, one in before["regions"].items() if one["selected"]]
    for name in others:
        visitor.page.get_by_label(f"{name} in the graph", exact=True).uncheck()
    after = wait_for_result(visitor, lambda result: not any(one["selected"] for one in result["regions"].values()))
    assert after["report"] != before["report"]
    assert all(sentence["regions"] == {} for sentence in after["sentences"])
    dropped = {one["text"] for one in before["sentences"]} - {one["text"] for one in after["sentences"]}
    assert visitor.page.locator(".dropped li").count() == len(dropped) > 0
    visitor.button("Undo all changes").click()
    again = wait_for_result(visitor, lambda result: result["report"] == before["report"])
    assert again == before


@needs_chromium
def test_choices_that_are_lost_on_the_way_are_sent_again_and_again(visit):
    visitor = visit()
    visitor.pick("Enlarged heart")
    region = next(name for name, one in visitor.result()["regions"].items() if one["selected"])
    lost = []

    def pass_on_older_choices(route):
        message = route.request.post_data_json
        lost.append(message["event_data"])
        route.continue_(post_data=json.dumps(message | {"event_data": {"regions": {}, "attributes": {}}}))

    visitor.page.route("**/queue/join*", pass_on_older_choices, times=2)
    visitor.page.get_by_label(f"{region} in the graph", exact=True).uncheck()
    after = wait_for_result(visitor, lambda result: not result["regions"][region]["selected"])
    assert after["edits"]["regions"] == {region: False}
    assert lost == 2 * [{"regions": {region: False}, "attributes": {}}]


def wait_for_result(visitor, condition):
    """The saved result as soon as `condition` holds for it."""
    end = time.monotonic() + PATIENCE
    while not condition(result := visitor.result()):
        assert time.monotonic() < end, f"the report did not change in {PATIENCE} seconds"
        visitor.page.wait_for_timeout(100)
    return result


@needs_chromium
def test_the_saved_picture_has_the_boxes_and_the_report(visit):
    visitor = visit()
    visitor.upload("chest.png", png(size=(64, 64)))
    name, content = visitor.download("Save picture (PNG)")
    with Image.open(io.BytesIO(content)) as image:
        assert name == "chest.png" and image.format == "PNG"
        assert image.width == 1024 and image.height > 1024
        pixels = np.array(image.convert("RGB"))
    amber, blue = (255, 176, 0), (79, 195, 247)
    assert any((pixels[:1024] == colour).all(axis=2).sum() > 500 for colour in (amber, blue))
    assert (pixels[1024:] < 100).any() and (pixels[1024:] > 200).any()  # dark letters on white


@needs_chromium
def test_a_broken_file_is_one_clear_line_and_the_page_goes_on(visit):
    visitor = visit()
    visitor.send("broken.png", png()[:200])
    visitor.error().get_by_text("broken.png").wait_for()
    message = visitor.error().inner_text()
    assert "\n" not in message and "damaged" in message and "/" not in message
    visitor.upload("whole.png", png())
    assert visitor.error().inner_text() == ""
    visitor.send("notes.png", b"<script>alert(1)</script>")
    visitor.error().get_by_text("notes.png is no PNG, JPEG, TIFF or DICOM picture").wait_for()
    assert visitor.result()["name"] == "whole.png"


@needs_chromium
def test_names_are_text_never_markup(visit):
    visitor = visit()
    visitor.upload("<img src=x onerror=alert(1)>.png", png())
    assert visitor.page.locator("#viewer img").count() == 1


@needs_chromium
def test_two_visitors_at_once_see_their_own_study_only(visit):
    one, other = visit(), visit()
    one.send("one.png", png(seed=1))
    other.send("other.png", png(seed=2, size=(40, 40)))
    for visitor in (one, other):
        visitor.sentences().first.wait_for()
    assert (one.result()["name"], other.result()["name"]) == ("one.png", "other.png")
    assert one.picture() != other.picture()
    untouched = other.result()
    region = next(name for name, region in one.result()["regions"].items() if region["selected"])
    one.page.get_by_label(f"{region} in the graph", exact=True).uncheck()
    wait_for_result(one, lambda result: not result["regions"][region]["selected"])
    assert other.result() == untouched


@needs_chromium
def test_all_of_it_works_by_keyboard(visit):
    visitor = visit()
    keyboard = visitor.page.keyboard
    visitor.button("Enlarged heart").focus()
    visitor.wait_for_study(lambda: keyboard.press("Enter"))
    result = visitor.result()
    tab_to(visitor, ".sentence")
    regions = {name for name in strongest(result["sentences"][0]) if result["regions"][name]["box"]}
    assert visitor.lit_boxes() == regions
    assert visitor.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    keyboard.press("Enter")
    tab_to(visitor, ".switch")
    region = visitor.page.evaluate("document.activeElement.dataset.toggleRegion")
    keyboard.press("Space")
    wait_for_result(visitor, lambda result: not result["regions"][region]["selected"])
    visitor.page.locator(f'[data-toggle-region="{region}"]').focus()
    tab_to(visitor, ".chip")
    chip = visitor.page.evaluate("document.activeElement.dataset.key")
    was = visitor.page.evaluate("document.activeElement.ariaPressed")
    keyboard.press("Enter")
    visitor.page.wait_for_function(
        "([key, was]) => document.activeElement.dataset.key === key && document.activeElement.ariaPressed !== was",
        arg=[chip, was],
    )
    keyboard.press("Escape")
    assert visitor.lit_boxes() == set()


def tab_to(visitor, selector):
    """Press Tab until the focus is on what `selector` names."""
    for _ in range(200):
        visitor.page.keyboard.press("Tab")
        if visitor.page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab does not reach {selector}")


@needs_chromium
def test_a_phone_shows_all_of_it_without_scrolling_sideways(visit):
    visitor = visit(PHONE)
    visitor.pick("Enlarged heart")
    assert visitor.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    visitor.sentences().first.click()
    picture = visitor.page.locator(".picture").bounding_box()
    assert 250 <= picture["width"] <= PHONE["width"]
    assert 0 <= picture["y"] < PHONE["height"] / 2  # in sight beside the sentence that points at it
    small = visitor.page.evaluate(
        "[...document.querySelectorAll('#viewer *')].filter(one => one.checkVisibility() && one.innerText"
        " && parseFloat(getComputedStyle(one).fontSize) < 11).map(one => one.innerText)"
    )
    assert small == []


def studies_in_memory():
    """What the server holds of anybody's study."""
    from modules.inference.demo.page import OpenStudy

    return [
        one for one in gc.get_objects()
        if type(one) is OpenStudy or (type(one) is dict and {"picture", "other_attributes"} <= one.keys())
    ]


def wait_until_all_is_forgotten():
    end = time.monotonic() + PATIENCE
    while studies_in_memory():
        assert time.monotonic() < end, f"a study is in memory {PATIENCE} seconds after its visitor left"
        time.sleep(0.2)
        gc.collect()


@needs_chromium
def test_a_visitor_who_leaves_is_forgotten(visit):
    visitor = visit()
    visitor.upload("private.png", png())
    assert studies_in_memory()
    visitor.context.close()
    wait_until_all_is_forgotten()


def test_a_report_that_its_visitor_did_not_wait_for_is_forgotten(address):
    session = "9876543210"
    with httpx.stream("GET", f"{address}gradio_api/heartbeat/{session}", timeout=30) as heartbeat:
        lines = heartbeat.iter_lines()  # the connection ends with it
        next(lines)
        ask(address, "click", [None], session)
        end = time.monotonic() + PATIENCE
        while not studies_in_memory():
            assert time.monotonic() < end, "no report was written"
            time.sleep(0.1)
    wait_until_all_is_forgotten()


@needs_chromium
def test_a_file_that_is_too_large_is_refused_in_the_page(visit, tmp_path):
    visitor = visit()
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(limits.LARGEST_UPLOAD + 1)
    visitor.page.locator("#upload input[type=file]").set_input_files(large)
    visitor.page.get_by_text("exceed the maximum allowed size of 32").first.wait_for()
    assert visitor.sentences().count() == 0
    visitor.complaints.clear()  # Gradio's page notes the refusal in the browser's console as well


# A hostile one


@pytest.mark.parametrize("path", [
    "gradio_api/file={secret}", "gradio_api/file={name}", "gradio_api/file/{secret}", "file={secret}", "file/{secret}",
    "gradio_api/%66ile={secret}", "gradio_api/file%3D{secret}", "gradio_api/file=..%2F..%2F..%2F..%2F{secret}",
    "gradio_api/file=README.md", "static/..%2F..%2F..%2F..%2F..%2F..%2F{secret}", "static/{secret}",
    "assets/..%2F..%2F..%2F..%2F..%2F..%2F{secret}", "svelte/..%2F..%2F..%2F..%2F..%2F{secret}",
    "custom_component/x/client/component/..%2F..%2F{secret}", "theme.css/..%2F{secret}",
])
def test_no_file_of_the_server_can_be_read(address, tmp_path, path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"what nobody may read")
    response = httpx.get(address + path.format(secret=secret, name=secret.name))
    assert response.status_code >= 400
    assert b"nobody may read" not in response.content and b"# SGRRG" not in response.content


def test_the_server_fetches_nothing_for_anybody(address):
    assert httpx.get(f"{address}gradio_api/file=http://example.com/x.png").status_code == 403
    assert httpx.get(f"{address}gradio_api/proxy=http://example.com/x.png").status_code == 403


@pytest.mark.parametrize("place", ["{secret}", "http://example.com/x.png", "{uploads}/../{secret}"])
def test_a_path_that_was_not_uploaded_is_neither_read_nor_deleted(address, tmp_path, place):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    path = place.format(secret=secret, uploads=os.environ["GRADIO_TEMP_DIR"])
    file = {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}
    assert not answer_to(address, "upload", [file, None])["success"]
    assert secret.read_bytes() == png()


def ask(address, event, data, session, event_data=None):
    """Send an event that no page sent."""
    dependencies = httpx.get(f"{address}config").json()["dependencies"]
    number = next(one["id"] for one in dependencies if any(target[1] == event for target in one["targets"]))
    body = {"fn_index": number, "data": data, "event_data": event_data, "session_hash": session}
    assert httpx.post(f"{address}gradio_api/queue/join", json=body).status_code == 200


def answer_to(address, event, data, event_data=None):
    """How the server answers an event that no page sent."""
    session = "0123456789"
    ask(address, event, data, session, event_data)
    with httpx.stream("GET", f"{address}gradio_api/queue/data", params={"session_hash": session}, timeout=30) as lines:
        for line in lines.iter_lines():
            message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("the server did not answer")


@pytest.mark.parametrize("edits", [None, [], {"regions": 1, "attributes": {}}, {"regions": {"left lung": "off"}}])
def test_malformed_edits_are_one_line(address, edits):
    answer = answer_to(address, "edit", [None], edits)
    assert answer["success"] and "\n" not in answer["output"]["data"][0]["error"]


def test_too_long_uploads_are_refused(address):
    over = {"files": ("large.png", bytes(limits.LARGEST_UPLOAD + 1))}
    assert httpx.post(f"{address}gradio_api/upload", files=over, timeout=60).status_code == 413
    assert httpx.post(
        f"{address}gradio_api/upload", files={"files": ("l.png", bytes(limits.LARGEST_BODY))}, timeout=60
    ).status_code == 413

    def pieces():
        yield b"x"

    assert httpx.post(f"{address}gradio_api/upload", content=pieces()).status_code == 411


def test_the_page_tells_the_browser_to_load_nothing_from_elsewhere(address):
    policy = httpx.get(address).headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy


# The command


def test_what_is_missing_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main_demo.main(["--example"]) == 1
    assert "bash run_demo.sh" in one_line(capsys)
    assert main_demo.main(["--checkpoint", "nowhere"]) == 1
    assert "nowhere" in one_line(capsys)
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "modules.inference.demo.page", raising=False)
    assert main_demo.main(["--example"]) == 1
    assert "requirements-demo.txt" in one_line(capsys)


def test_a_port_in_use_is_one_line(run_folder, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main_demo.main(["--checkpoint", str(run_folder / "best"), "--port", str(port)]) == 1
    assert str(port) in one_line(capsys)


def one_line(capsys):
    line, end = capsys.readouterr().err.split("\n")
    assert end == ""
    return line


@pytest.mark.timeout(600)  # a process of its own loads everything anew, which takes long where much else goes on
def test_it_listens_on_this_machine_until_it_is_stopped_and_leaves_nothing(run_folder, tmp_path):
    command = [sys.executable, "main_demo.py", "--checkpoint", run_folder / "best"]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:
        line = process.stdout.readline()
        assert re.search(r"http://127\.0\.0\.1:\d+/", line) and "not for clinical use" in line
        (uploads,) = tmp_path.glob("sgrrg-demo-*")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert not uploads.exists() and errors == ""
