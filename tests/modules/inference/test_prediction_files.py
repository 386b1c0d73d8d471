"""Predictions as JSON and images, under safe file names."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.errors import UserError
from modules.inference.prediction import PredictedRegion, PredictedSentence, Prediction
from modules.inference.prediction_files import NOTICE, as_json, draw_overlay, file_stem, write_prediction

PIXELS = np.full((50, 100), 90, dtype=np.uint8)


def region(name, box, selected=True, abnormal=False):
    attributes = {"anatomicalfinding|yes|atelectasis": 0.75} if abnormal else {}
    return PredictedRegion(name, box, 0.5, 0.875, selected, abnormal, attributes, {"nlp|yes|normal": 0.25})


def prediction(*regions):
    sentences = [PredictedSentence("the lungs are clear .", {"left lung": 0.75, "spine": 0.25}, 0.5)]
    return Prediction(
        "ünal.png", "the lungs are clear .", sentences, list(regions), {"Edema": 0.125}, (400, 200), ["blurred"]
    )


def test_json_holds_everything(tmp_path):
    spine = region("spine", (1.5, 2, 30, 40), abnormal=True)
    paths = write_prediction(tmp_path / "new", "a", prediction(spine), PIXELS)
    assert paths == [tmp_path / "new/a.json", tmp_path / "new/a.png"]
    assert json.loads(paths[0].read_text(encoding="utf-8")) == {
        "notice": NOTICE,
        "name": "ünal.png",
        "report": "the lungs are clear .",
        "sentences": [
            {"text": "the lungs are clear .", "regions": {"left lung": 0.75, "spine": 0.25}, "confidence": 0.5}
        ],
        "regions": {
            "spine": {
                "box": [1.5, 2, 30, 40], "probability": 0.5, "visible_probability": 0.875, "selected": True,
                "abnormal": True, "attributes": {"anatomicalfinding|yes|atelectasis": 0.75},
            }
        },
        "observations": {"Edema": 0.125},
        "image_size": [400, 200],
        "warnings": ["blurred"],
    }
    with Image.open(paths[1]) as image:
        assert image.size == (1024, 512)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.json", "a.png"]


def test_region_without_a_box_has_none():
    assert as_json(prediction(region("spine", None)))["regions"]["spine"]["box"] is None


def coloured(image):
    """The bounding box of all coloured pixels: x1, y1, x2, y2; None without any."""
    pixels = np.asarray(image).astype(int)
    rows, columns = np.nonzero(pixels.max(2) - pixels.min(2) > 100)
    return (columns.min(), rows.min(), columns.max(), rows.max()) if len(rows) else None


def test_boxes_lie_where_the_region_is_whatever_the_pictures_resolution():
    spine = region("spine", (100, 50, 300, 150))
    for pixels in (PIXELS, np.full((400, 800), 90, dtype=np.uint8)):
        assert coloured(draw_overlay(pixels, prediction(spine))) == pytest.approx((256, 128, 767, 383), abs=1)


def test_regions_of_the_graph_are_drawn_unless_others_are_named():
    other, selected = region("spine", (100, 50, 300, 150), selected=False), region("svc", (0, 0, 100, 100))
    assert coloured(draw_overlay(PIXELS, prediction(other, selected)))[2] < 300
    assert coloured(draw_overlay(PIXELS, prediction(other, selected), {"spine"}))[0] > 200
    assert coloured(draw_overlay(PIXELS, prediction(region("spine", None)))) is None


def test_abnormal_regions_have_another_colour_and_lie_on_top():
    whole = (0, 0, 400, 200)
    colours = [
        draw_overlay(PIXELS, prediction(*regions)).getpixel((1023, 300))
        for regions in ([region("svc", whole)], [region("svc", whole, abnormal=True), region("spine", whole)])
    ]
    assert colours == [(79, 195, 247), (255, 176, 0)]


@pytest.mark.parametrize("box", [(0, 0, 0.1, 0.1), (399.9, 199.9, 400, 200), (0, 0, 400, 200)])
def test_any_box_can_be_drawn(box):
    assert draw_overlay(PIXELS, prediction(region("spine", box))).size == (1024, 512)


# Names


@pytest.mark.parametrize(("name", "stem"), [
    ("chest.png", "chest.png"), ("../../etc/passwd", "etc_passwd"), (".hidden", "hidden"), ("-rf", "rf"),
    ("a b\n;$(x)", "a_b_x"), ("", "image"), ("...", "image"), ("\udcff\x00", "image"), ("x" * 300, "x" * 100),
    ("胸部.png", "胸部.png"), ("грудь 2.dcm", "грудь_2.dcm"), ("छाती.png", "छाती.png"), ("صدر.png", "صدر.png"),
    ("Röntgen.png", "Röntgen.png"), ("Ro\u0308ntgen", "Röntgen"), ("胸" * 90, "胸" * 33), ("\u202egnp.exe", "gnp.exe"),
    ("🫁.png", "🫁.png"), ("肺／左：正面", "肺_左_正面"),
])
def test_file_names_are_safe(name, stem):
    assert file_stem(name, set()) == stem


@given(st.lists(st.text(max_size=120) | st.sampled_from(["a", "A", "a-2", "a/"]), max_size=12))
def test_no_two_studies_share_a_file(names):
    taken = set()
    stems = [file_stem(name, taken) for name in names]
    assert len({stem.casefold() for stem in stems}) == len(stems)
    assert all(stem[0] not in "._-" and "/" not in stem and len(stem.encode()) < 120 for stem in stems)
    assert all(stem.isprintable() and not set(stem) & set(' <>:"|?*\\') for stem in stems)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        write_prediction(tmp_path / "file", "a", prediction(), PIXELS)
