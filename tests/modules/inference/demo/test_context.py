"""The page of a model with context: a previous image beside the X-ray, an indication, and both withdrawn again."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from data.errors import UserError
from modules.inference.given_context import GivenContext
from modules.inference.predictor import Predictor
from modules.inference.studies import Study
from tests.support.context.tiny_context import add_context
from tests.support.demo_visitor import TIMEOUT, png, post_event, response_to, wait_until_no_study_is_in_memory
from tests.support.images.image_files import encoded
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_run import save_tiny_run

pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-dev.txt")

# The reports of the untrained model on these differ with all that is shown.
NOW, BEFORE, TEXT = png(7), png(100, (80, 60)), "Chronic cough."


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("context")
    root = add_context(write_tiny_dataset(folder / "tiny", image_size=32))
    save_tiny_run(folder / "run", root, "model.context=[indication,prior]", lively=True)
    return folder / "run"


@pytest.fixture(scope="module")
def predictor(run_folder):
    return Predictor(run_folder, "cpu")


@pytest.fixture(scope="module")
def address(run_folder):
    from modules.inference.demo.page import serve_page

    with serve_page(run_folder, "cpu") as address:
        yield address
        wait_until_no_study_is_in_memory()


def reported(predictor, **given):
    (prediction,) = predictor.predict([Study("now.png", (NOW,), GivenContext(**given))])
    return prediction


# In this process


def test_a_study_is_reported_with_what_is_shown(predictor):
    from modules.inference.demo import studies
    from modules.inference.demo.studies import ShownContext

    alone = studies.open_upload(predictor, NOW, "now.png")
    assert alone.reads == ("indication", "prior") and alone.unedited == reported(predictor)
    both = studies.open_prior(predictor, alone, ShownContext(indication=TEXT), BEFORE, "before.png")
    assert both.shown == ShownContext(prior=True, indication=TEXT) and both.study.source == b""
    assert both.unedited == reported(predictor, prior=BEFORE, indication=TEXT)
    for shown, given in (
        (ShownContext(prior=True), {"prior": BEFORE}), (ShownContext(indication=TEXT), {"indication": TEXT}),
        (ShownContext(), {}),
    ):
        assert studies.predict(predictor, both.study, None, shown) == reported(predictor, **given)
    reports = {reported(predictor, **given).report for given in ({}, {"prior": BEFORE}, {"indication": TEXT})}
    assert len(reports) == 3 and all(reports)


def test_changed_regions_have_a_box_in_the_previous_image(predictor):
    with_prior, without = reported(predictor, prior=BEFORE), reported(predictor)
    assert any(region.change for region in with_prior.regions)
    for region in with_prior.regions:
        left, top, right, bottom = region.prior_box
        assert 0 <= left <= right <= 1 and 0 <= top <= bottom <= 1
    assert not any(region.prior_box or region.change for region in without.regions)
    # They are the boxes that the previous image has as a study of its own.
    (before,) = predictor.predict([BEFORE])
    own = {region.name: region.box for region in before.regions if region.box}
    for region in with_prior.regions:
        if region.name in own:
            assert np.array(region.prior_box) * [80, 60, 80, 60] == pytest.approx(own[region.name], abs=0.06)


def test_another_x_ray_has_no_previous_image(predictor):
    from modules.inference.demo import studies
    from modules.inference.demo.studies import ShownContext

    both = studies.open_prior(
        predictor, studies.open_upload(predictor, NOW, "now.png"), ShownContext(), BEFORE, "before.png"
    )
    other = studies.open_upload(predictor, BEFORE, "other.png")
    assert both.prior_image.startswith("data:image/jpeg;base64,") and other.prior_image is None
    assert other.shown == ShownContext() and not bool(other.study.context.has_prior)
    assert dataclasses.replace(both).study.context.has_prior


# Without a browser


def upload(address, content, name):
    import httpx

    (token,) = httpx.post(f"{address}gradio_api/upload", files={"files": (name, content)}, timeout=TIMEOUT).json()
    return {"path": token, "meta": {"_type": "gradio.FileData"}}


def test_a_previous_image_is_read_as_any_other(predictor):
    """Number of scans, size, format: the errors are those of the X-ray itself."""
    from modules.inference.demo import studies
    from modules.inference.demo.studies import ShownContext

    jpeg = encoded(np.zeros((64, 64), dtype=np.uint8), "JPEG", progressive=True)
    bomb = jpeg[:-2] + 20_000 * jpeg[jpeg.rindex(b"\xff\xda") : -2] + jpeg[-2:]
    current = studies.open_upload(predictor, NOW, "now.png")
    for content, name, message in (
        (bomb, "bomb.jpg", "bomb.jpg is a JPEG of more than 100 scans"), (b"nothing", "text.png", "text.png"),
        (b"", "empty.png", "empty.png"),
    ):
        with pytest.raises(UserError, match=message):
            studies.open_prior(predictor, current, ShownContext(), content, name)


@pytest.mark.parametrize("given", [{"indication": 3}, {"indication": b"Cough."}, {"indication": ["Cough."]}])
def test_an_indication_is_a_text(predictor, given):
    with pytest.raises(UserError, match="an indication is given as a (int|bytes|list): give a text"):
        reported(predictor, **given)


def test_a_previous_image_without_a_study_is_not_read_but_removed(address):
    sent = upload(address, NOW, "before.png")
    response = response_to(address, "upload", [sent, None], session="priorfirst", which=1)
    assert "Open an X-ray first" in response["output"]["data"][2]["error"]
    assert post_event(address, "upload", [sent, None], session="priorfirst", which=1).status_code == 400


def test_what_is_not_an_upload_is_refused_as_a_previous_image(address):
    url = "http://127.0.0.1:9/x.png"
    for value in ({"path": url, "url": url, "meta": {"_type": "gradio.FileData"}}, [url], url, {"path": "/etc/hosts"}):
        assert post_event(address, "upload", [value, None], which=1).status_code == 400


# With a browser


def saved_pixels(visitor):
    """The saved picture, [height, width, 3]."""
    _, content = visitor.download("Save image (PNG)")
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image.convert("RGB"))


def reload_of(visitor, act):
    """Call `act` and wait until the report with the new context is there."""
    act()
    visitor.page.locator(".study[aria-busy=false]").wait_for()
    visitor.page.wait_for_timeout(200)
    visitor.page.locator(".study[aria-busy=false]").wait_for()


@pytest.mark.timeout(600)  # a browser on a busy machine
def test_a_previous_image_is_shown_beside_and_can_be_withdrawn(visit, predictor):
    visitor = visit()
    page = visitor.page
    visitor.upload("now.png", NOW)
    assert page.locator(".prior").is_hidden() and page.locator(".prior-switch").is_hidden()
    assert visitor.result()["report"] == reported(predictor).report
    visitor.send("before.png", BEFORE, "prior")
    page.locator(".prior img").wait_for()
    expected = reported(predictor, prior=BEFORE)
    assert visitor.result()["report"] == expected.report
    now, before = (page.locator(f".{which} .xray").bounding_box() for which in ("current", "prior"))
    assert abs(now["y"] - before["y"]) < 2 and before["x"] + before["width"] <= now["x"]
    changes = {region.name: region.change for region in expected.regions if region.change}
    tags = page.locator(".tag.change")
    shown = {tag.locator("xpath=..").get_attribute("data-region"): tag.inner_text() for tag in tags.all()}
    assert shown == {name: change for name, change in changes.items() if name in shown} and shown
    boxes = page.locator(".prior .box").evaluate_all("boxes => boxes.map(box => box.dataset.region)")
    assert set(boxes) == set(changes)
    labels = page.locator(".current .box .change").evaluate_all(
        "labels => labels.map(label => [label.parentNode.dataset.region, label.textContent])"
    )
    assert labels and all(changes[name] == change for name, change in labels)

    # The saved picture has both images in the height of the X-ray (60 x 48 pixels, the previous one 80 x 60).
    both = saved_pixels(visitor)
    height = round(1024 * 48 / 60)
    prior_width = round(height * 80 / 60)
    assert abs(both.shape[1] - (prior_width + 16 + 1024)) <= 1 and both.shape[0] > height
    assert (both[:height, prior_width + 2 : prior_width + 14] == 255).all()
    for picture in (both[:height, :prior_width], both[:height, -1024:]):
        assert any((picture == colour).all(axis=2).sum() > 500 for colour in ((255, 176, 0), (79, 195, 247)))

    reload_of(visitor, page.get_by_label("the previous image", exact=True).uncheck)
    result = visitor.wait_for_result(lambda result: result["report"] == reported(predictor).report)
    assert result["edits"]["context"] == {"prior": False, "indication": None}
    assert page.locator(".prior").is_hidden() and not any("change" in one for one in result["regions"].values())
    assert saved_pixels(visitor).shape[1] == 1024
    reload_of(visitor, visitor.button("Undo all edits").click)
    visitor.wait_for_result(lambda result: result["report"] == expected.report)


@pytest.mark.timeout(600)
def test_an_indication_is_read_kept_and_withdrawn(visit, predictor):
    visitor = visit()
    page = visitor.page
    visitor.upload("now.png", NOW)
    field = page.get_by_role("textbox", name="Indication")

    def write():
        field.fill(TEXT)
        field.blur()

    reload_of(visitor, write)
    told = reported(predictor, indication=TEXT).report
    assert visitor.wait_for_result(lambda result: result["report"] == told)["edits"]["context"]["indication"] == TEXT
    visitor.send("before.png", BEFORE, "prior")
    page.locator(".prior img").wait_for()
    assert visitor.result()["report"] == reported(predictor, prior=BEFORE, indication=TEXT).report
    reload_of(visitor, page.get_by_label("why the study was requested", exact=True).uncheck)
    visitor.wait_for_result(lambda result: result["report"] == reported(predictor, prior=BEFORE).report)
    assert field.input_value() == TEXT  # to be shown again
    reload_of(visitor, page.get_by_label("why the study was requested", exact=True).check)
    visitor.wait_for_result(lambda result: result["edits"]["context"]["indication"] == TEXT)


@pytest.mark.timeout(600)
def test_a_broken_previous_image_is_one_line_and_leaves_the_study(visit, predictor):
    visitor = visit()
    visitor.upload("now.png", NOW)
    jpeg = encoded(np.zeros((64, 64), dtype=np.uint8), "JPEG", progressive=True)
    visitor.send("bomb.jpg", jpeg[:-2] + 200 * jpeg[jpeg.rindex(b"\xff\xda") : -2] + jpeg[-2:], "prior")
    visitor.error().filter(has_text="bomb.jpg is a JPEG of more than 100 scans").wait_for()
    assert visitor.result()["report"] == reported(predictor).report
