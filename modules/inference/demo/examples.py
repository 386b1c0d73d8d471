"""Simulated chests for the page to show: made when they are asked for, from no data set."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.sources.phantom.anatomy import Patient, draw_patient
from data.sources.phantom.dataset import draw_findings
from data.sources.phantom.findings import Finding
from data.sources.phantom.physics import simulate

# Fine enough to look at; models see fewer pixels.
IMAGE_SIZE = 512
# Data sets draw patients from (seed, number of the study); this keeps examples apart from those of any small seed.
_SEED = 2**62


@dataclass(frozen=True)
class Example:
    """A chest to simulate.

    patient   number that the patient is drawn from
    findings  what is wrong with it
    """

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
    """The picture as a PNG file; the same bytes whenever the example is the same."""
    streams = np.random.default_rng([_SEED, example.patient]).spawn(2)
    return _png(draw_patient(streams[0]), example.findings, streams[1])


def simulate_any(rng: np.random.Generator) -> bytes:
    """A patient and findings by chance, as in a data set, as a PNG file."""
    patient = draw_patient(rng)
    return _png(patient, draw_findings(rng, patient.view), rng)


def _png(patient: Patient, findings: Sequence[Finding], rng: np.random.Generator) -> bytes:
    picture = simulate(patient, findings, IMAGE_SIZE, int(rng.integers(2**63)))
    file = io.BytesIO()
    Image.fromarray(picture.image).save(file, format="PNG")
    return file.getvalue()
