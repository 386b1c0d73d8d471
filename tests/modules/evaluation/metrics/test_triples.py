"""Triples of a report's scene graph, and their agreement, computed by hand."""

import pytest

from modules.evaluation.metrics.triples import NAMES, TABLES, abnormal_regions, extract_triples, triple_scores

LEFT, RIGHT = "left lung", "right lung"


def test_triples_are_read_from_the_text_with_any_number_of_workers():
    reports = ["There is a small left pleural effusion.", "No pneumothorax.", ""] * 50
    read = extract_triples(reports)
    assert extract_triples(reports, workers=2) == read
    assert ("left costophrenic angle", "anatomicalfinding|pleural effusion", "yes") in read[0]
    assert abnormal_regions(read[0]) >= {"left costophrenic angle"}
    assert ("left lung", "anatomicalfinding|pneumothorax", "no") in read[1] and not abnormal_regions(read[1])
    assert read[2] == frozenset()


def test_agreement_by_hand():
    references = [frozenset({(LEFT, "a", "yes"), (RIGHT, "a", "no")}), frozenset({(LEFT, "b", "yes")}), frozenset()]
    generated = [frozenset({(LEFT, "a", "yes"), (RIGHT, "a", "yes")}), frozenset(), frozenset({("spine", "c", "no")})]
    part = triple_scores(references, generated)
    scores, absent = part.compute(3)
    assert set(scores) == set(NAMES) and not absent
    assert scores["triple_precision"] == scores["triple_recall"] == scores["triple_f1"] == pytest.approx(1 / 3)
    # Left lung: one correct, one missed. Right lung: one wrong, one missed. No reference has the spine.
    assert scores["triple_region_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert scores["triple_attribute_f1"] == pytest.approx((2 / 4 + 0) / 2)  # a, b
    assert part.per_study["triple_f1"] == pytest.approx([1 / 2, 0, 0])
    assert part.tables[TABLES[0]]["left lung"] == {
        "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "positives": 2
    }
    assert part.tables[TABLES[0]]["spine"]["f1"] is None and set(part.tables[TABLES[1]]) == {"a", "b", "c"}


def test_without_a_described_region_there_is_a_reason():
    for generated in (frozenset(), frozenset({(LEFT, "a", "yes")})):
        scores, absent = triple_scores([frozenset()], [generated]).compute(1)
        assert set(scores.values()) == {None}
        assert absent == dict.fromkeys(NAMES, "no reference report describes a region")


def test_the_interval_of_a_mean_over_rare_attributes_is_around_it():
    references = [frozenset({(LEFT, f"rare {study}", "yes"), (LEFT, "common", "yes")}) for study in range(30)]
    generated = [frozenset({(LEFT, f"rare {study}", "yes")} if study % 3 else set()) for study in range(30)]
    scored = triple_scores(references, generated).evaluate(30)
    low, high = scored.intervals["triple_attribute_f1"]
    assert low < scored.scores["triple_attribute_f1"] < high
    assert (low + high) / 2 == pytest.approx(scored.scores["triple_attribute_f1"], abs=0.05)
