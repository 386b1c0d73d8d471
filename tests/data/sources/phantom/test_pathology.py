"""The effects of findings on phantom chests."""

import numpy as np
import pytest

from data.sources.phantom.findings import FINDING_KINDS, SEVERITIES, Finding
from data.sources.phantom.pathology import EFFECTS, ENLARGED_CARDIOTHORACIC_RATIO, build_chest
from data.sources.phantom.patient import NORMAL_CARDIOTHORACIC_RATIO, depth_magnification
from tests.support.sources.phantoms import patient


def test_every_kind_has_an_effect():
    assert set(EFFECTS) == set(FINDING_KINDS)
    with pytest.raises(ValueError, match="no physics for the finding 'gout'"):
        build_chest(patient(0), [Finding("gout")])


def test_cardiothoracic_ratio_agrees_with_label_and_picture():
    ratios = []
    for number in range(60):
        findings = [Finding("cardiomegaly", severity=SEVERITIES[number % 3])] if number % 2 else []
        chest = build_chest(patient(number), findings)
        low, high = ENLARGED_CARDIOTHORACIC_RATIO[SEVERITIES[number % 3]] if findings else NORMAL_CARDIOTHORACIC_RATIO
        assert low <= chest.cardiothoracic_ratio <= high
        edges = np.concatenate([part.outline() for part in chest.heart])
        heart = np.ptp(edges[:, 0]) * depth_magnification(chest.patient.view, edges[0, 2])
        cage = 2 * chest.patient.half_width * depth_magnification(chest.patient.view, 0.0)
        assert heart / cage == pytest.approx(chest.cardiothoracic_ratio, abs=0.005)
        ratios.append(chest.cardiothoracic_ratio)
    assert min(ratios) < 0.42 and max(ratios) > 0.62
