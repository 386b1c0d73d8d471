"""Indications: mostly unspecific, more often right the more informative they are."""

import numpy as np
import pytest

from data.sources.phantom.findings import FINDING_KINDS, Finding
from data.sources.phantom.patient import draw_patient
from data.sources.phantom.patients.indication import context_phrases, write_indication

PATIENT = draw_patient(np.random.default_rng(0))
FRACTURE = [Finding("rib fracture", "left", "mid")]


def indications(findings, informativeness, has_prior=False, count=300):
    return [
        write_indication(PATIENT, findings, has_prior, informativeness, np.random.default_rng(seed))
        for seed in range(count)
    ]


def share(texts, *words):
    return np.mean([any(word in text.lower() for word in words) for text in texts])


@pytest.mark.parametrize(("informativeness", "low", "high"), [(0.0, 0.0, 0.15), (0.5, 0.4, 0.65), (1.0, 1.0, 1.0)])
def test_an_informative_indication_names_a_cause(informativeness, low, high):
    assert low <= share(indications(FRACTURE, informativeness), "fall", "trauma") <= high


def test_indications_mislead_too_and_most_of_healthy_patients_say_little():
    texts = indications([], 1.0)
    assert 0.1 < share(texts, *(
        phrase for entry in context_phrases()["indications"]["complaints"].values() for phrase in entry["phrases"]
    )) < 0.35
    assert len(set(texts)) > 40


def test_follow_up_needs_an_earlier_study():
    words = context_phrases()["indications"]["follow up"]
    assert share(indications([], 0.5), *words) == 0 and share(indications([], 0.5, has_prior=True), *words) > 0.1


def test_phrases_are_plain_text_about_known_findings():
    phrases = context_phrases()["indications"]
    named = [kind for entry in phrases["complaints"].values() for kind in entry["of"]]
    assert set(named) <= set(FINDING_KINDS) and len(named) == len(set(named))
    assert all(not text[0].islower() and "{" not in text and text.isascii() for text in indications(FRACTURE, 0.7))
