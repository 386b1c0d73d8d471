"""Regions, attributes and observations, and the vocabularies of a training split."""

import json

import pytest
import torch
import yaml

from data import vocabulary
from data.errors import UserError
from data.vocabulary import (
    FIVE_OBSERVATIONS,
    OBSERVATIONS,
    Anatomy,
    AttributeVocabulary,
    Vocabularies,
    build_vocabularies,
    is_abnormal,
)
from tests.tiny_dataset import write_tiny_dataset


def write_records(root, graphs, reports=None, split="train"):
    """A prepared data set without images, one study a graph."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.yaml").write_text("name: hand-made\n", encoding="utf-8")
    lines = []
    for number, graph in enumerate(graphs):
        report = reports[number] if reports else "Clear."
        lines.append(json.dumps({
            "id": f"{split}{number}", "split": split, "images": ["x.png"], "views": ["PA"], "report": report,
            "observations": None, "graph": None if graph is None else {"regions": graph},
        }))
    with (root / "records.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return root


def region(box=None, attributes=(), mentioned=True, abnormal=False):
    return {"box": box, "mentioned": mentioned, "abnormal": abnormal, "attributes": list(attributes)}


def test_the_shipped_anatomy():
    anatomy = Anatomy.load()
    assert len(anatomy.names) == len(set(anatomy.names)) == 29
    assert anatomy.boxes.shape == (29, 4)
    assert all(anatomy.names[anatomy.index(name)] == name for name in anatomy.names)
    assert (anatomy.names[0], anatomy.names[13], anatomy.names[28]) == ("left lung", "aortic arch", "spine")
    for entry in anatomy.regions:
        if entry.mirror is not None:
            other = anatomy.regions[anatomy.index(entry.mirror)]
            assert other.mirror == entry.name and {entry.side, other.side} == {"left", "right"}
            # The patient's left lies on the right of the image.
            assert (entry.box[0] > other.box[0]) == (entry.side == "left")


def test_an_unknown_region_is_named():
    with pytest.raises(UserError, match="'neck' is none of the 29 regions"):
        Anatomy.load().index("neck")


def test_an_atlas_file_changes_boxes_only(tmp_path):
    content = {"regions": Anatomy.load().to_list()}
    content["regions"][3]["box"] = [0.1, 0.2, 0.3, 0.4]
    path = tmp_path / "atlas.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert Anatomy.load(path).regions[3].box == (0.1, 0.2, 0.3, 0.4)
    content["regions"].reverse()
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(UserError, match="another order"):
        Anatomy.load(path)


@pytest.mark.parametrize(
    "text", ["regions: [1, 2]", "[]", "regions: [{name: a, side: null, mirror: null, box: [1, 0, 0, 1]}]"]
)
def test_a_file_that_is_no_anatomy_is_named(tmp_path, text):
    path = tmp_path / "atlas.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"atlas\.yaml is no anatomy"):
        Anatomy.load(path)


def test_a_missing_anatomy_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.yaml: No such file"):
        Anatomy.load(tmp_path / "gone.yaml")


def test_observations_are_alphabetical_and_map_to_existing_attributes():
    assert len(OBSERVATIONS) == 14 and list(OBSERVATIONS) == sorted(OBSERVATIONS)
    assert len(FIVE_OBSERVATIONS) == 5 and set(FIVE_OBSERVATIONS) < set(OBSERVATIONS)
    mapping = yaml.safe_load((vocabulary._FILES / "observations.yaml").read_text(encoding="utf-8"))["from_attributes"]
    labels = yaml.safe_load((vocabulary._FILES / "attributes.yaml").read_text(encoding="utf-8"))["categories"]
    assert set(mapping) == set(OBSERVATIONS) - {"No Finding"}
    for attribute in (attribute for attributes in mapping.values() for attribute in attributes):
        category, label = attribute.split("|")
        assert label in labels[category]


def test_the_attribute_file_holds_the_whole_vocabulary():
    content = yaml.safe_load((vocabulary._FILES / "attributes.yaml").read_text(encoding="utf-8"))
    sizes = {category: len(set(labels)) for category, labels in content["categories"].items()}
    assert sizes == {"anatomicalfinding": 43, "disease": 10, "technicalassessment": 5, "tubesandlines": 12, "device": 5,
                     "nlp": 2, "texture": 5, "severity": 4, "temporal": 2, "laterality": 3}
    assert set(content["rules"]["default"]) == set(sizes) - {"severity", "temporal", "laterality"}


def test_attribute_slots():
    attributes = AttributeVocabulary((("a", "b", "c"), (), ("b",)), "default")
    assert (attributes.sizes, attributes.offsets, attributes.largest) == ((3, 0, 1), (0, 3, 3), 3)
    assert attributes.slots().tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert attributes.index(0, "b") == 1 and attributes.index(2, "b") == 0
    assert attributes.index(1, "b") is None and attributes.index(2, "a") is None


def test_attributes_of_the_same_name_have_the_same_number():
    attributes = AttributeVocabulary((("a", "b"), (), ("b", "c"), ("a",)), "default")
    assert attributes.name_numbers == [[0, 1], [], [1, 2], [0]]


def test_without_any_attribute_the_axis_keeps_one_empty_slot():
    attributes = AttributeVocabulary(((), ()), "default")
    assert attributes.largest == 1
    assert not attributes.slots().any() and attributes.slots().shape == (2, 1)


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


def test_saved_as_json(vocabularies):
    again = Vocabularies.from_dict(json.loads(json.dumps(vocabularies.to_dict())))
    assert again.to_dict() == vocabularies.to_dict()
    assert again.attributes == vocabularies.attributes and again.anatomy == vocabularies.anatomy
    assert again.fingerprints() == vocabularies.fingerprints()
    assert set(vocabularies.fingerprints()) == {"anatomy", "attributes", "observations", "tokenizer"}
    assert vocabularies.fingerprints()["tokenizer"] == vocabularies.tokenizer.fingerprint


def test_fingerprints_say_which_part_differs(vocabularies, tiny_root):
    other = build_vocabularies(tiny_root, "corrected", 1, 3, True).fingerprints()
    differing = {part for part, value in vocabularies.fingerprints().items() if other[part] != value}
    assert differing == {"attributes"}


@pytest.mark.parametrize(("graph", "reason"), [
    ({"neck": region()}, "'neck' is none of the 29 regions"),
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


@pytest.mark.parametrize(("attribute", "abnormal"), [
    ("anatomicalfinding|yes|pleural effusion", True), ("anatomicalfinding|no|pleural effusion", False),
    ("disease|yes|pneumonia", True), ("disease|no|pneumonia", False), ("nlp|yes|abnormal", True),
    ("nlp|yes|normal", False), ("device|yes|prosthetic valve", False), ("technicalassessment|yes|rotated", False),
    ("spine/17", False),
])
def test_abnormal_attributes(attribute, abnormal):
    assert is_abnormal(attribute) == abnormal


def test_numbered_attributes_are_in_the_order_of_their_numbers_and_others_in_that_of_their_letters(tmp_path):
    numbered = [f"left lung/{number}" for number in range(12)]
    named = ["anatomicalfinding|yes|t10/l1", "anatomicalfinding|yes|t9/l1", "disease|yes|10", "disease|yes|9"]
    graph = {"left lung": region(attributes=reversed(numbered)), "spine": region(attributes=reversed(named))}
    by_region = build_vocabularies(write_records(tmp_path, [graph]), "corrected", 1, 1, True).attributes.by_region
    assert list(by_region[0]) == numbered
    assert list(by_region[28]) == named == sorted(named)
