"""Phantom patients, findings and images for tests."""

from functools import cache

import numpy as np

from data.sources.phantom.findings import FINDING_KINDS, SEVERITIES, Finding
from data.sources.phantom.patient import Patient, draw_patient
from data.sources.phantom.physics import SimulatedView, simulate

SIZE = 64


@cache
def patient(number: int) -> Patient:
    return draw_patient(np.random.default_rng([7, number]))


@cache
def healthy(number: int) -> SimulatedView:
    """The frontal image of a patient without findings."""
    return simulate(patient(number), [], SIZE, noise_seed=number)


def draw_finding_of(kind: str, rng: np.random.Generator) -> Finding:
    """A finding of a kind, with random side, place and severity."""
    properties = FINDING_KINDS[kind]
    return Finding(
        kind,
        str(rng.choice(properties.sides)) if properties.sides else None,
        str(rng.choice(properties.places)) if properties.places else None,
        str(rng.choice(SEVERITIES)) if properties.graded else None,
    )
