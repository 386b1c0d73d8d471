"""Building vocabularies from a training split: words, attributes and the atlas."""

import pytest
import torch
import yaml

from data.errors import UserError
from data.ontology import Anatomy
from data.vocabulary_builder import build_vocabularies
from tests.support.graph_records import region, write_records
from tests.support.tiny_dataset import write_tiny_dataset


def test_attributes_are_counted_by_region_and_category(tmp_path):
    common = "anatomicalfinding|yes|pleural effusion"
    denied = "anatomicalfinding|no|pleural effusion"
    left = [region(attributes=[common, denied, "severity|yes|mild"]), region(attributes=[common, "temporal|yes|acute"]),
            region(attributes=[denied, "laterality|yes|left", "disease|yes|goiter"])]
    root = write_records(tmp_path / "set", [{"left lung": entry} for entry in left] + [{"spine": left[0]}, None])
    write_records(root, [{"spine": left[0]}], split="test")
    attributes = build_vocabularies(root, "corrected", 1, 2, True).attributes
    assert attributes.by_region[0] == (denied, common)
    assert attributes.sizes == (2,) + (0,) * 28
    assert build_vocabularies(root, "corrected", 1, 1, True).attributes.by_region[28] == (denied, common)


def test_attributes_without_a_name_are_kept(tmp_path):
    root = write_records(tmp_path / "set", [{"spine": region(attributes=["spine/3", "spine/11", "severity|yes|mild"])}])
    assert build_vocabularies(root, "corrected", 1, 1, True).attributes.by_region[28] == ("spine/3", "spine/11")


def test_words_come_from_the_training_split_alone(tmp_path):
    root = write_records(tmp_path / "set", [None, None], reports=["Clear lungs.", "Clear 1.5 cm."])
    write_records(root, [None], reports=["Clear unseen unseen."], split="val")
    words = build_vocabularies(root, "corrected", 1, 1, True).tokenizer.words
    assert words == (".", "1.5", "<unk>", "clear", "cm", "lungs")
    assert build_vocabularies(root, "mimic_cxr", 2, 1, False).tokenizer.words == (".", "<unk>", "clear")


def test_atlas_boxes_are_the_mean_boxes_of_the_training_split(tmp_path):
    boxes = ([0.2, -0.3, 0.4, 1.7], [0.4, 0.2, 0.8, 1.0], None, [0.5, 0.5, 0.5, 0.9])
    root = write_records(tmp_path / "set", [{"spine": region(box)} for box in boxes])
    write_records(root, [{"spine": region([0.0, 0.0, 0.1, 0.1])}], split="val")
    anatomy = build_vocabularies(root, "corrected", 1, 1, True).anatomy
    torch.testing.assert_close(anatomy.boxes[28], torch.tensor([0.3, 0.1, 0.6, 1.0]))
    assert anatomy.regions[:28] == Anatomy.load().regions[:28]
    atlas = tmp_path / "atlas.yaml"
    atlas.write_text(yaml.safe_dump({"regions": Anatomy.load().to_list()}), encoding="utf-8")
    assert build_vocabularies(root, "corrected", 1, 1, True, atlas_file=atlas).anatomy == Anatomy.load()


@pytest.mark.parametrize(("graph", "reason"), [
    ({"neck": region()}, "Unknown region 'neck'"),
    ({"spine": {"mentioned": True}}, "attributes"),
    ({"spine": region([0, 1, 2])}, "malformed"),
])
def test_a_malformed_graph_names_its_study(tmp_path, graph, reason):
    root = write_records(tmp_path / "set", [None, graph])
    with pytest.raises(UserError, match=f"Study train1: its graph is malformed.*{reason}|Study train1.*{reason}"):
        build_vocabularies(root, "corrected", 1, 1, True)


def test_the_same_seed_writes_the_same_tiny_data_set(tmp_path):
    first, second = (write_tiny_dataset(tmp_path / name, train=4, val=1, test=1, seed=5) for name in ("a", "b"))
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(names) == 8
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_numbered_attributes_are_in_the_order_of_their_numbers_and_others_in_that_of_their_letters(tmp_path):
    numbered = [f"left lung/{number}" for number in range(12)]
    named = ["anatomicalfinding|yes|t10/l1", "anatomicalfinding|yes|t9/l1", "disease|yes|10", "disease|yes|9"]
    graph = {"left lung": region(attributes=reversed(numbered)), "spine": region(attributes=reversed(named))}
    by_region = build_vocabularies(write_records(tmp_path, [graph]), "corrected", 1, 1, True).attributes.by_region
    assert list(by_region[0]) == numbered
    assert list(by_region[28]) == named == sorted(named)
