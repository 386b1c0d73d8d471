"""A predictor with an untrained model, and images for it."""

import json

import pytest

from modules.inference.predictor import Predictor
from tests.support.tiny_run import write_tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder whose model generates complete reports that differ between images, and the root of its data set."""
    return write_tiny_run(tmp_path_factory.mktemp("predictor"), lively=True)


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor(run[0], device="cpu")


@pytest.fixture(scope="module")
def images(run):
    """The paths of the test images of the data set."""
    records = [json.loads(line) for line in (run[1] / "records.jsonl").read_text().splitlines()]
    return [run[1] / record["images"][0] for record in records if record["split"] == "test"]
