"""The simulated examples of the page."""

import io

import numpy as np
import pytest
from PIL import Image

from data.sources.phantom.findings import FINDING_KINDS
from modules.inference.demo import examples


@pytest.fixture(autouse=True)
def small_images(monkeypatch):
    monkeypatch.setattr(examples, "IMAGE_SIZE", 64)


def pixels_of(png):
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG" and image.mode == "L"
        return np.array(image)


@pytest.mark.parametrize("example", examples.EXAMPLES, ids=lambda example: example.title)
def test_examples_have_findings_that_exist_and_are_the_same_every_time(example):
    for finding in example.findings:
        kind = FINDING_KINDS[finding.kind]
        assert (finding.side in kind.sides) if kind.sides else finding.side is None
        assert (finding.place in kind.places) if kind.places else finding.place is None
        assert (finding.severity is not None) == kind.graded
    first = examples.simulate_example(example)
    assert first == examples.simulate_example(example)
    assert pixels_of(first).shape == (64, 64) and pixels_of(first).std() > 20


def test_examples_are_different_patients():
    assert len({example.patient for example in examples.EXAMPLES}) == len(examples.EXAMPLES)
    assert len({example.title for example in examples.EXAMPLES}) == len(examples.EXAMPLES)


def test_chance_gives_another_chest_each_time():
    rng = np.random.default_rng(0)
    assert (pixels_of(examples.simulate_random(rng)) != pixels_of(examples.simulate_random(rng))).any()
