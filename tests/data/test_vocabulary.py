"""Attribute vocabularies, and vocabularies as JSON."""

import json

import pytest

from data.vocabulary import AttributeVocabulary, Vocabularies, is_abnormal
from data.vocabulary_builder import build_vocabularies


def test_attribute_slots():
    attributes = AttributeVocabulary((("a", "b", "c"), (), ("b",)), "default")
    assert (attributes.sizes, attributes.offsets, attributes.largest) == ((3, 0, 1), (0, 3, 3), 3)
    assert attributes.slots().tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert attributes.index(0, "b") == 1 and attributes.index(2, "b") == 0
    assert attributes.index(1, "b") is None and attributes.index(2, "a") is None


def test_attributes_of_the_same_name_have_the_same_number():
    attributes = AttributeVocabulary((("a", "b"), (), ("b", "c"), ("a",)), "default")
    assert attributes.name_ids == [[0, 1], [], [1, 2], [0]]


def test_without_any_attribute_the_axis_keeps_one_empty_slot():
    attributes = AttributeVocabulary(((), ()), "default")
    assert attributes.largest == 1
    assert not attributes.slots().any() and attributes.slots().shape == (2, 1)


def test_abnormal_slots_are_those_of_abnormal_names():
    finding = "anatomicalfinding|yes|atelectasis"
    vocabulary = AttributeVocabulary(((), ("nlp|yes|normal", finding), (finding,)), "default")
    assert vocabulary.abnormal_slots().tolist() == [[False, False], [False, True], [True, False]]


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


@pytest.mark.parametrize(("attribute", "abnormal"), [
    ("anatomicalfinding|yes|pleural effusion", True), ("anatomicalfinding|no|pleural effusion", False),
    ("disease|yes|pneumonia", True), ("disease|no|pneumonia", False), ("nlp|yes|abnormal", True),
    ("nlp|yes|normal", False), ("device|yes|prosthetic valve", False), ("technicalassessment|yes|rotated", False),
    ("spine/17", False),
])
def test_abnormal_attributes(attribute, abnormal):
    assert is_abnormal(attribute) == abnormal
