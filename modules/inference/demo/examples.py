"""Simulated example X-rays for the web page, generated on request."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.sources.phantom.findings import Finding, draw_findings
from data.sources.phantom.patient import Patient, draw_patient
from data.sources.phantom.physics import simulate

# Sufficient for display; models see fewer pixels.
IMAGE_SIZE = 512
# Data sets draw patients from (seed, study number); this seed is larger than any that they use.
_SEED = 2**62


@dataclass(frozen=True)
class Example:
    """A chest to simulate. patient: number that the patient is drawn from."""

    title: str
    patient: int
    findings: tuple[Finding, ...]


EXAMPLES = (
    Example("Healthy chest", 1, ()),
    Example("Enlarged heart", 2, (Finding("cardiomegaly", severity="severe"),)),
    Example("Effusion, left", 3, (Finding("pleural effusion", "left", severity="moderate"),)),
    Example("Pneumothorax, right", 4, (Finding("pneumothorax", "right", severity="severe"),)),
    Example("Consolidation, right", 5, (Finding("consolidation", "right", "lower", "severe"),)),
)


def simulate_example(example: Example) -> bytes:
    """Simulate the X-ray as a PNG file; deterministic."""
    streams = np.random.default_rng([_SEED, example.patient]).spawn(2)
    return _png(draw_patient(streams[0]), example.findings, streams[1])


def simulate_random(rng: np.random.Generator) -> bytes:
    """Simulate an X-ray with a random patient and findings, as in a data set, as a PNG file."""
    patient = draw_patient(rng)
    return _png(patient, draw_findings(rng, patient.view), rng)


def _png(patient: Patient, findings: Sequence[Finding], rng: np.random.Generator) -> bytes:
    simulated = simulate(patient, findings, IMAGE_SIZE, int(rng.integers(2**63)))
    file = io.BytesIO()
    Image.fromarray(simulated.image).save(file, format="PNG")
    return file.getvalue()
