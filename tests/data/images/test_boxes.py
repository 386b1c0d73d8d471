"""Files of region boxes."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import UserError
from data.images.boxes import read_boxes
from data.ontology import Anatomy

corners = st.integers() | st.floats() | st.none() | st.text(max_size=3) | st.lists(st.floats(), max_size=2)
boxes_of_a_study = st.dictionaries(
    st.sampled_from(["spine", "left lung", "neck"]), st.lists(corners, min_size=3, max_size=5) | corners, max_size=3
)
studies = st.fixed_dictionaries({"id": st.text() | corners, "boxes": boxes_of_a_study | corners}) | corners


@pytest.fixture(scope="module")
def changing_file(tmp_path_factory) -> Path:
    """A path that all examples write to."""
    return tmp_path_factory.mktemp("changing") / "boxes.jsonl"


@given(studies, st.integers(0))
def test_any_line_gives_boxes_or_one_line_that_names_the_file(changing_file, content, cut):
    path, text = changing_file, json.dumps(content)
    path.write_text(text[: cut % (2 * len(text))], encoding="utf-8")
    try:
        for boxes in read_boxes(path, "--boxes", Anatomy.load()).values():
            assert boxes.shape == (29, 4) and boxes.dtype == np.float32
    except UserError as error:
        assert str(error).startswith(f"--boxes={path} line 1 (") and "\n" not in str(error)


@pytest.mark.parametrize(("value", "reason"), [
    ('"0.5"', r"the coordinate '0\.5' is not a finite number"),
    ("true", "the coordinate True is not a finite number"),
    ("Infinity", "the coordinate inf is not a finite number"),
    ("NaN", "the coordinate nan is not a finite number"),
    ("180", "the coordinate 180 is not a fraction of the image, from 0 to 1"),
    ("-1", "the coordinate -1 is not a fraction of the image, from 0 to 1"),
    ("9" * 400, "."),
])  # fmt: skip
def test_a_coordinate_that_is_no_fraction_of_the_image_is_refused(tmp_path, value, reason):
    path = tmp_path / "boxes.jsonl"
    path.write_text(f'{{"id": "1", "boxes": {{"left lung": [0.1, 0.2, 0.3, {value}]}}}}\n')
    with pytest.raises(UserError, match=rf"--boxes=.*boxes\.jsonl line 1 \({reason}"):
        read_boxes(path, "--boxes", Anatomy.load())


def test_a_box_may_reach_a_little_beyond_the_image(tmp_path):
    path = tmp_path / "boxes.jsonl"
    path.write_text('{"id": "1", "boxes": {"left lung": [-0.02, 0, 0.5, 1.04]}}\n')
    boxes = read_boxes(path, "--boxes", Anatomy.load())["1"]
    assert boxes[Anatomy.load().index("left lung")].tolist() == pytest.approx([-0.02, 0, 0.5, 1.04])
