"""Directions of scores."""

import pytest

from modules.evaluation.metrics.directions import arrow, higher_is_better
from modules.evaluation.scoring import SCORE_NAMES


@pytest.mark.parametrize("name, higher", [
    ("bleu_4", True), ("report_14_micro_f1", True), ("distinct_reports", True), ("box_iou", True),
    ("abnormal_as_normal", False), ("most_frequent_share", False), ("region_ece", False),
    ("sentence_error_area", False), ("generated_words_mean", None), ("empty_references", None),
])
def test_directions_are_those_of_the_definitions(name, higher):
    assert name in SCORE_NAMES and higher_is_better(name) is higher


def test_an_arrow_points_to_better_values():
    assert [arrow(True), arrow(False), arrow(None)] == ["↑", "↓", ""]
