"""A prepared data set as ReXrank's input."""

import numpy as np
import pytest
from PIL import Image

from data.errors import UserError
from modules.evaluation.formats.rexrank import read_studies
from modules.inference.rexrank.dataset import write_rexrank_input
from tests.support.context.tiny_context import add_context
from tests.support.tiny_dataset import write_tiny_dataset


def test_studies_have_rexranks_fields_and_the_same_pixels(tmp_path):
    root = write_tiny_dataset(tmp_path / "data", test=3, image_size=32, views=2)
    assert write_rexrank_input(root, "test", tmp_path / "in.json", tmp_path / "images") == 3
    studies = read_studies(tmp_path / "in.json")
    assert list(studies) == ["test0", "test1", "test2"]
    study = studies["test1"]
    assert study["image_path"] == ["test1/0.png", "test1/1.png"] and study["key_image_path"] == "test1/0.png"
    assert study["frontal_lateral"] == ["Frontal", "Lateral"] and study["split"] == "test"
    assert study["report"] == f"Findings: {study['section_findings']}" and study["section_impression"] is None
    for position in range(2):
        pixels = [np.asarray(Image.open(path)) for path in (
            tmp_path / "images/test1" / f"{position}.png", root / f"images/test1_{position}.png")]
        assert np.array_equal(*pixels)


def test_indications_and_impressions_are_written(tmp_path):
    root = add_context(write_tiny_dataset(tmp_path / "data", test=3, image_size=32))
    write_rexrank_input(root, "test", tmp_path / "in.json", tmp_path / "images")
    studies = read_studies(tmp_path / "in.json")
    assert [study["context"] for study in studies.values()] == [
        "Indication: Chronic cough.", "Indication: Rule out effusion.", ""
    ]
    for study in studies.values():
        assert study["section_impression"] == "No acute change."
        assert study["report"] == f"Findings: {study['section_findings']} Impression: No acute change."


def test_images_that_are_there_are_kept_and_a_damaged_one_is_named(tmp_path):
    root = write_tiny_dataset(tmp_path / "data", test=2, image_size=32)
    write_rexrank_input(root, "test", tmp_path / "in.json", tmp_path / "images")
    (tmp_path / "images/test0/0.png").write_bytes(b"mine")
    (tmp_path / "images/test1/0.png").unlink()
    write_rexrank_input(root, "test", tmp_path / "in.json", tmp_path / "images")
    assert (tmp_path / "images/test0/0.png").read_bytes() == b"mine" and (tmp_path / "images/test1/0.png").is_file()
    (root / "images/test1_0.png").write_bytes(b"x")
    (tmp_path / "images/test1/0.png").unlink()
    with pytest.raises(UserError, match=r"Cannot read the image images/test1_0.png of .*: prepare the data set again"):
        write_rexrank_input(root, "test", tmp_path / "in.json", tmp_path / "images")
