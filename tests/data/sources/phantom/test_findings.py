"""The random findings of phantom studies."""

from collections import Counter
from itertools import combinations

import numpy as np

from data.sources.phantom.findings import (
    EXCLUSIVE,
    EXCLUSIVE_ON_A_SIDE,
    FINDING_KINDS,
    MAX_FINDINGS,
    Finding,
    draw_findings,
)
from data.sources.phantom.patient import AP_SHARE


def draw_studies(prevalence: float = 1.0, studies: int = 1500) -> list[tuple[str, list[Finding]]]:
    """Draw (view, findings) of several studies."""
    rng = np.random.default_rng(0)
    views = ["AP" if rng.random() < AP_SHARE else "PA" for _ in range(studies)]
    return [(view, draw_findings(rng, view, prevalence)) for view in views]


def test_most_studies_are_abnormal_and_kinds_come_as_often_as_stated():
    studies = draw_studies()
    normal = np.mean([not findings for _, findings in studies])
    assert 0.18 <= normal <= 0.26
    counts = Counter(kind for _, findings in studies for kind in {finding.kind for finding in findings})
    for kind, properties in FINDING_KINDS.items():
        assert 0.6 * properties.prevalence < counts[kind] / len(studies) < 1.4 * properties.prevalence, kind


def test_the_bedridden_have_more_devices():
    lines_by_view = {view: np.mean([any(f.kind == "central line" for f in findings) for v, findings in draw_studies()
                                    if v == view]) for view in ("AP", "PA")}
    assert lines_by_view["AP"] > 2 * lines_by_view["PA"]


def test_prevalence_scales_the_findings():
    assert not any(findings for _, findings in draw_studies(prevalence=0.0, studies=200))
    few, usual, many = (sum(len(findings) for _, findings in draw_studies(p, 400)) for p in (0.4, 1.0, 2.0))
    assert few < 0.7 * usual < 0.7 * many


def test_findings_are_well_formed_and_compatible():
    for _, findings in draw_studies(prevalence=2.0, studies=600):
        assert len(findings) <= MAX_FINDINGS + 1
        for finding in findings:
            properties = FINDING_KINDS[finding.kind]
            assert (finding.side in properties.sides) if properties.sides else finding.side is None
            assert (finding.place in properties.places) if properties.places else finding.place is None
            assert (finding.severity is not None) == properties.graded
        for one, other in combinations(findings, 2):
            kinds = {one.kind, other.kind}
            assert kinds not in EXCLUSIVE
            assert one.side != other.side or kinds not in EXCLUSIVE_ON_A_SIDE
