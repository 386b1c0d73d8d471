"""Region, attribute, box and grounding scores, computed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.evaluation.metrics.graph import (
    GROUNDING_NAMES,
    attribute_scores,
    box_iou,
    box_scores,
    centre_inside,
    grounding_scores,
    region_scores,
)

YES = np.array([True, True])


def test_regions_by_hand():
    mentioned = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=bool)
    probabilities = np.array([[0.9, 0.1, 0.3], [0.6, 0.8, 0.9], [0.0, 0.0, 0.0]])
    known = np.array([True, True, False])  # the last study has no annotated graph
    scores, absent = region_scores(probabilities > 0.5, probabilities, mentioned, known).compute(3)
    # Region 0: one true and one false positive; region 1: one true positive; region 2: one true positive, one missed.
    assert scores["region_micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert scores["region_macro_f1"] == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    assert scores["region_auroc"] == 1.0  # only regions 0 and 1: region 2 is always mentioned
    assert not absent


def test_attributes_count_on_mentioned_regions_and_known_graphs_only():
    reference = np.zeros((3, 2, 2), dtype=bool)
    reference[0, 0, 0] = reference[1, 0, 1] = reference[1, 1, 0] = reference[2] = True
    mentioned = np.array([[1, 0], [1, 0], [1, 1]], dtype=bool)  # study 1 does not mention region 1
    probabilities = np.zeros((3, 2, 2))
    probabilities[0, 0, 0] = 0.9  # true positive
    probabilities[1, 1, 0] = 0.8  # predicted for a region that is not mentioned
    probabilities[1, 0, 0] = 0.2
    scores, absent = attribute_scores(
        probabilities > 0.5, probabilities, reference, mentioned, np.array([True, True, False])
    ).compute(3)
    assert scores["attribute_micro_f1"] == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))  # (1, 0, 1) is missed
    assert scores["attribute_macro_f1"] == pytest.approx((1 + 0) / 2)  # (0, 0) and (0, 1); nothing else is annotated
    # Slot (0, 0): study 0 positive at .9 above study 1 at .2. Slot (0, 1): a tie at 0. Region 1 is never mentioned.
    assert scores["attribute_auroc"] == pytest.approx((1 + 0.5) / 2)
    assert set(absent) == {"attribute_abnormal_micro_f1", "attribute_abnormal_macro_f1"}


def test_abnormal_attributes_have_scores_of_their_own():
    """Two of three attributes are abnormal: one has a true positive, the other a false positive and a miss."""
    reference = np.array([[[1, 0, 1]], [[0, 1, 1]]], dtype=bool)
    predicted = np.array([[[1, 1, 0]], [[0, 0, 0]]], dtype=bool)
    mentioned = np.array([[True], [True]])
    abnormal = np.array([[True, True, False]])
    scores, absent = attribute_scores(predicted, predicted * 0.9, reference, mentioned, YES, abnormal).compute(2)
    assert scores["attribute_abnormal_micro_f1"] == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    assert scores["attribute_abnormal_macro_f1"] == pytest.approx((1 + 0) / 2)
    assert scores["attribute_macro_f1"] == pytest.approx((1 + 0 + 0) / 3)
    assert not absent
    scores, absent = attribute_scores(
        predicted, predicted * 0.9, reference, mentioned, YES, np.zeros_like(abnormal)
    ).compute(2)
    assert scores["attribute_abnormal_micro_f1"] is None
    assert absent["attribute_abnormal_macro_f1"] == "the vocabulary has no abnormal attributes"


def test_an_invisible_prediction_counts_zero():
    boxes = np.array([[[0, 0, 0.5, 0.5], [0, 0, 1, 1]], [[0, 0, 1, 1], [0, 0, 1, 1]]], dtype=np.float32)
    predicted = np.array([[[0, 0, 0.5, 1], [0, 0, 1, 1]], [[0, 0, 1, 1], [0, 0, 1, 1]]], dtype=np.float32)
    predicted_visible = np.array([[True, False], [True, True]])
    visible = np.array([[True, True], [False, True]])
    scores, _ = box_scores(predicted, predicted_visible, boxes, visible, YES).compute(2)
    assert scores["box_iou"] == pytest.approx((0.5 + 0 + 1) / 3)
    scores, _ = box_scores(predicted, predicted_visible, boxes, visible, np.array([True, False])).compute(2)
    assert scores["box_iou"] == pytest.approx((0.5 + 0) / 2)


def test_overlap_by_hand():
    first = np.array([[0.0, 0.0, 2.0, 2.0], [0, 0, 1, 1], [0, 0, 0, 0], [0.8, 0.8, 0.2, 0.2]])
    second = np.array([[1.0, 1.0, 3.0, 3.0], [2, 2, 3, 3], [0, 0, 0, 0], [0.2, 0.2, 0.8, 0.8]])
    assert box_iou(first, second) == pytest.approx([1 / 7, 0, 0, 0])


@given(st.lists(st.floats(0, 1), min_size=8, max_size=8))
def test_overlap_is_symmetric_bounded_and_one_with_itself(numbers):
    first, second = np.sort(np.array(numbers).reshape(2, 2, 2), axis=1).reshape(2, 4)
    overlap = box_iou(first, second)
    assert 0 <= overlap <= 1
    assert overlap == box_iou(second, first)
    area = (first[2] - first[0]) * (first[3] - first[1])
    assert box_iou(first, first) == pytest.approx(1.0 if area > 0 else 0.0)


def test_absence_is_explained():
    none_known = np.array([False, False])
    regions, attributes = np.zeros((2, 3), dtype=bool), np.zeros((2, 3, 4), dtype=bool)
    boxes = np.zeros((2, 3, 4))
    cases = [
        (region_scores(None, None, regions, YES), "not predicted"),
        (region_scores(regions, regions * 0.5, regions, none_known), "no study"),
        (attribute_scores(None, None, attributes, regions, YES), "not predicted"),
        (attribute_scores(attributes, attributes * 0.5, attributes, regions, none_known), "no study"),
        (box_scores(None, None, boxes, regions, YES), "not predicted"),
        (box_scores(boxes, regions, boxes, ~regions, none_known), "no study"),
        (box_scores(boxes, regions, boxes, regions, YES), "no study"),
    ]
    for part, reason in cases:
        scores, absent = part.compute(2)
        assert set(scores.values()) == {None}
        assert set(absent) == set(scores)
        assert all(reason in text for text in absent.values())


def test_grounding_by_hand():
    boxes = np.array([[[0, 0, 0.4, 0.4], [0.5, 0.5, 1, 1], [0, 0, 1, 1]]] * 2)
    predicted = np.array([[[0, 0, 0.4, 0.2], [0, 0, 0.4, 0.4], [0, 0, 1, 1]]] * 2)
    predicted_visible = np.array([[True, True, False], [True, True, True]])
    has_box = np.array([[True, True, True], [True, False, True]])
    in_reference = np.array([[True, True, True], [False, True, False]])  # the second study's region has no box
    in_generated = np.array([[True, False, False], [False, False, True]])
    scores, absent = grounding_scores(
        predicted, predicted_visible, boxes, has_box, in_reference, in_generated
    ).compute(2)
    assert not absent
    assert scores["grounding_iou"] == pytest.approx((1 / 2 + 0 + 0) / 3)  # the last box is predicted as not visible
    assert scores["grounding_pointing"] == pytest.approx(1 / 3)
    assert scores["grounding_generated_iou"] == pytest.approx((1 / 2 + 1) / 2)
    assert scores["grounding_generated_pointing"] == 1
    assert set(scores) == set(GROUNDING_NAMES)


def test_grounding_without_boxes_or_findings_is_absent():
    nothing, boxes = np.zeros((2, 3), dtype=bool), np.zeros((2, 3, 4))
    _, absent = grounding_scores(None, None, boxes, ~nothing, ~nothing, ~nothing).compute(2)
    assert absent == dict.fromkeys(GROUNDING_NAMES, "boxes are not predicted")
    _, absent = grounding_scores(boxes, ~nothing, boxes, ~nothing, nothing, nothing).compute(2)
    assert set(absent) == set(GROUNDING_NAMES) and all("no region" in reason for reason in absent.values())


@given(st.lists(st.floats(0, 1), min_size=8, max_size=8))
def test_a_box_points_at_itself_and_not_beside(numbers):
    first, second = np.sort(np.array(numbers).reshape(2, 2, 2), axis=1).reshape(2, 4)
    assert centre_inside(first, first)
    centre = (first[:2] + first[2:]) / 2
    inside = all(second[axis] <= centre[axis] <= second[axis + 2] for axis in (0, 1))
    assert bool(centre_inside(first, second)) is inside
