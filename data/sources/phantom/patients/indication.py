"""Writes why phantom studies were requested: realistic, and only partly informative about what is there."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy

from data.ontology import FILES, read_yaml
from data.sources.phantom.findings import Finding
from data.sources.phantom.patient import Patient

# Probability of a complaint whose findings are not there, and of a history beside the complaint.
MISLEADING_RATE, HISTORY_RATE = 0.2, 0.35
FOLLOW_UP_RATE = 0.3


@cache
def context_phrases() -> dict[str, Any]:
    """Return the content of `files/phantom_context.yaml`."""
    return read_yaml(FILES / "phantom_context.yaml")


def write_indication(
    patient: Patient, findings: Sequence[Finding], has_prior: bool, informativeness: float, rng: numpy.random.Generator
) -> str:
    """Write the indication of a study.

    informativeness   0..1, probability that the complaint is one of those that a finding of the study causes, if it has
                      any such finding
    """
    phrases = context_phrases()["indications"]
    complaints = phrases["complaints"]
    causes = {kind: name for name, entry in complaints.items() for kind in entry["of"]}
    named = list(dict.fromkeys(causes[finding.kind] for finding in findings if finding.kind in causes))
    chosen: list[str] = []
    if named and rng.random() < informativeness:
        chosen = [str(name) for name in rng.permutation(named)[:2]]
    elif rng.random() < MISLEADING_RATE:
        chosen = [str(rng.choice(list(complaints)))]
    texts = [str(rng.choice(complaints[name]["phrases"])) for name in chosen]
    if not texts:
        follow_up = has_prior and rng.random() < FOLLOW_UP_RATE
        texts = [str(rng.choice(phrases["follow up" if follow_up else "unspecific"]))]
    complaint = texts[0]
    others = [phrase for phrase in phrases["unspecific"] if phrase != complaint]
    history = texts[1] if len(texts) > 1 else str(rng.choice(others))
    if len(texts) > 1 or rng.random() < HISTORY_RATE:
        complaint = str(rng.choice(phrases["histories"])).format(complaint=complaint, history=history)
    sex = {"F": "woman", "M": "man"}[patient.sex]
    text = str(rng.choice(phrases["patients"])).format(age=patient.age, sex=sex, complaint=complaint)
    return text[0].upper() + text[1:]
