"""The viewer in a real browser: boxes, sentences, edits, saved files, keyboard and phone."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.support.demo_visitor import PHONE, png, top_regions


def test_boxes_lie_on_the_picture_where_the_result_has_them(visit):
    visitor = visit()
    visitor.upload("wide.png", png(size=(90, 50)))
    visitor.page.get_by_text("All", exact=True).click()
    result = visitor.result()
    image = visitor.page.locator(".current .xray").bounding_box()
    assert image["width"] / image["height"] == pytest.approx(90 / 50, rel=0.01)
    scale = image["width"] / 90
    boxes = {name: region["box"] for name, region in result["regions"].items() if region["box"]}
    assert visitor.visible_boxes() == set(boxes)
    for name, (left, top, right, bottom) in boxes.items():
        drawn = visitor.page.locator(f'.box[data-region="{name}"]').bounding_box()
        corners = (drawn["x"] - image["x"], drawn["y"] - image["y"], drawn["width"], drawn["height"])
        assert corners == pytest.approx(
            (left * scale, top * scale, (right - left) * scale, (bottom - top) * scale), abs=1.5
        )


def test_a_sentence_lights_its_regions_and_a_region_its_sentences(visit):
    visitor = visit()
    visitor.open_example("Enlarged heart")
    result = visitor.result()
    regions = top_regions(result["sentences"][0])
    boxed = {name for name in regions if result["regions"][name]["box"]}
    visitor.sentences().first.hover()
    assert visitor.highlighted_boxes() == boxed
    visitor.page.locator("h1").hover()
    assert visitor.highlighted_boxes() == set()
    chosen = sorted(boxed)[0]
    visitor.page.locator(f'.box[data-region="{chosen}"]').dispatch_event("click")
    visitor.page.locator("h1").hover()  # a click pins the highlight
    expected = [number for number, sentence in enumerate(result["sentences"]) if chosen in top_regions(sentence)]
    highlighted = visitor.page.locator(".sentence.highlighted").evaluate_all(
        "all => all.map(one => Number(one.dataset.sentence))"
    )
    assert highlighted == expected and visitor.highlighted_boxes() == {chosen}


def test_boxes_are_shown_by_graph_by_abnormal_and_one_by_one(visit):
    visitor = visit()
    visitor.open_example("Enlarged heart")
    regions = visitor.result()["regions"]
    graph = {name for name, region in regions.items() if region["selected"] and region["box"]}
    abnormal = {name for name in graph if regions[name]["abnormal"]}
    assert abnormal and graph != abnormal
    assert visitor.visible_boxes() == graph
    visitor.page.get_by_text("Abnormal", exact=True).click()
    assert visitor.visible_boxes() == abnormal
    visitor.page.get_by_text("None", exact=True).click()
    assert visitor.visible_boxes() == set()
    chosen = sorted(graph)[0]
    visitor.page.get_by_label(f"show the box of {chosen}", exact=True).check()
    visitor.page.locator("h1").hover()
    assert visitor.visible_boxes() == {chosen}


def test_switching_the_graph_rewrites_the_report_until_it_is_undone(visit):
    visitor = visit()
    visitor.open_example("Enlarged heart")
    before = visitor.result()
    region = next(name for name, one in before["regions"].items() if one["selected"] and one["attributes"])
    attribute = next(iter(before["regions"][region]["attributes"]))
    visitor.page.locator(f'[data-of-region="{region}"][data-toggle-attribute="{attribute}"]').click()
    after = visitor.wait_for_result(lambda result: attribute not in result["regions"][region]["attributes"])
    assert after["edits"] == {"regions": {}, "attributes": {region: {attribute: False}}}

    for name in [name for name, one in before["regions"].items() if one["selected"]]:
        visitor.page.get_by_label(f"{name} in the graph", exact=True).uncheck()
    after = visitor.wait_for_result(lambda result: not any(one["selected"] for one in result["regions"].values()))
    assert after["report"] != before["report"]
    assert all(sentence["regions"] == {} for sentence in after["sentences"])
    removed = {one["text"] for one in before["sentences"]} - {one["text"] for one in after["sentences"]}
    assert visitor.page.locator(".removed li").count() == len(removed) > 0
    visitor.button("Undo all edits").click()
    assert visitor.wait_for_result(lambda result: result["report"] == before["report"]) == before


def test_choices_that_are_lost_on_the_way_are_sent_again_and_again(visit):
    visitor = visit()
    visitor.open_example("Enlarged heart")
    region = next(name for name, one in visitor.result()["regions"].items() if one["selected"])
    lost = []

    def replace_edits(route):
        message = route.request.post_data_json
        lost.append(message["event_data"])
        route.continue_(post_data=json.dumps(message | {"event_data": {"regions": {}, "attributes": {}}}))

    visitor.page.route("**/queue/join*", replace_edits, times=2)
    visitor.page.get_by_label(f"{region} in the graph", exact=True).uncheck()
    after = visitor.wait_for_result(lambda result: not result["regions"][region]["selected"])
    assert after["edits"]["regions"] == {region: False}
    assert lost == 2 * [{"regions": {region: False}, "attributes": {}}]


def test_an_edit_whose_report_is_lost_on_the_way_is_sent_again(visit):
    visitor = visit()
    visitor.open_example("Enlarged heart")
    region = next(name for name, one in visitor.result()["regions"].items() if one["selected"])
    closed = 'data: {"msg": "close_stream", "event_id": null}\n\n'
    visitor.page.route(
        "**/queue/data*", lambda route: route.fulfill(content_type="text/event-stream", body=closed), times=1
    )
    visitor.page.get_by_label(f"{region} in the graph", exact=True).uncheck()
    after = visitor.wait_for_result(lambda result: not result["regions"][region]["selected"])
    assert after["edits"]["regions"] == {region: False}
    assert visitor.page.locator(".study").get_attribute("aria-busy") == "false"


def test_a_server_that_does_not_respond_is_named_after_a_minute(visit):
    visitor = visit()
    visitor.open_example("Enlarged heart")
    region = next(name for name, one in visitor.result()["regions"].items() if one["selected"])
    sent = []
    visitor.page.route("**/queue/join*", lambda route: sent.append(route.request.post_data_json["event_data"]))
    visitor.page.clock.install()
    visitor.page.get_by_label(f"{region} in the graph", exact=True).uncheck()
    for seconds in (2, 4, 8, 16, 32):
        assert not visitor.error().is_visible()
        visitor.page.clock.fast_forward(1000 * seconds)
    visitor.error().filter(has_text="The server does not respond").wait_for()
    assert sent == 5 * [{"regions": {region: False}, "attributes": {}}]


def test_edits_made_while_a_report_is_generated_are_sent_together_afterwards(visit):
    visitor = visit()
    visitor.open_example("Enlarged heart")
    regions = [name for name, one in visitor.result()["regions"].items() if one["selected"]]
    sent = []
    visitor.page.on("request", lambda request: "queue/join" in request.url and sent.append(request.post_data_json))
    visitor.page.evaluate(
        "names => names.forEach(name => document.querySelector(`[data-toggle-region='${name}']`).click())", regions
    )
    after = visitor.wait_for_result(lambda result: not any(one["selected"] for one in result["regions"].values()))
    assert len(regions) > 2 and after["edits"]["regions"] == dict.fromkeys(regions, False)
    assert sent[0]["event_data"]["regions"] == {regions[0]: False}
    assert all(message["event_data"] in (sent[0]["event_data"], after["edits"]) for message in sent)


def test_the_saved_picture_has_the_boxes_and_the_report(visit):
    visitor = visit()
    visitor.upload("chest.png", png(size=(64, 64)))
    name, content = visitor.download("Save image (PNG)")
    with Image.open(io.BytesIO(content)) as image:
        assert name == "chest.png" and image.format == "PNG"
        assert image.width == 1024 and image.height > 1024
        pixels = np.array(image.convert("RGB"))
    amber, blue = (255, 176, 0), (79, 195, 247)
    assert any((pixels[:1024] == colour).all(axis=2).sum() > 500 for colour in (amber, blue))
    assert (pixels[1024:] < 100).any() and (pixels[1024:] > 200).any()  # dark text on white


def test_all_of_it_works_by_keyboard(visit):
    visitor = visit()
    keyboard = visitor.page.keyboard
    visitor.button("Enlarged heart").focus()
    visitor.wait_for_study(lambda: keyboard.press("Enter"))
    result = visitor.result()
    visitor.tab_to(".sentence")
    regions = {name for name in top_regions(result["sentences"][0]) if result["regions"][name]["box"]}
    assert visitor.highlighted_boxes() == regions
    assert visitor.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    keyboard.press("Enter")
    visitor.tab_to(".switch")
    region = visitor.page.evaluate("document.activeElement.dataset.toggleRegion")
    keyboard.press("Space")
    visitor.wait_for_result(lambda result: not result["regions"][region]["selected"])
    visitor.page.locator(f'[data-toggle-region="{region}"]').focus()
    visitor.tab_to(".chip")
    chip = visitor.page.evaluate("document.activeElement.dataset.key")
    pressed = visitor.page.evaluate("document.activeElement.ariaPressed")
    keyboard.press("Enter")
    visitor.page.wait_for_function(
        "([key, pressed]) => document.activeElement.dataset.key === key"
        " && document.activeElement.ariaPressed !== pressed",
        arg=[chip, pressed],
    )
    keyboard.press("Escape")
    assert visitor.highlighted_boxes() == set()


def test_a_phone_shows_all_of_it_without_scrolling_sideways(visit):
    visitor = visit(PHONE)
    visitor.open_example("Enlarged heart")
    assert visitor.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    visitor.sentences().first.click()
    image = visitor.page.locator(".current .xray").bounding_box()
    assert 250 <= image["width"] <= PHONE["width"]
    assert 0 <= image["y"] < PHONE["height"] / 2  # visible together with the sentence
    small = visitor.page.evaluate(
        "[...document.querySelectorAll('#viewer *')].filter(one => one.checkVisibility() && one.innerText"
        " && parseFloat(getComputedStyle(one).fontSize) < 11).map(one => one.innerText)"
    )
    assert small == []


def test_names_are_text_never_markup(visit):
    visitor = visit()
    visitor.upload("<img src=x onerror=alert(1)>.png", png())
    assert visitor.page.locator(".current .xray").count() == 1
    assert visitor.page.locator('img[src="x"]').count() == 0
