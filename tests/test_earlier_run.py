"""A run of version 0.1: its checkpoints, metrics.json and predictions.jsonl are still read.

`tests/support/earlier_run` holds what that version wrote for invented and simulated studies, with the names and sizes
of its weights in place of their values.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from modules.builders import load_model
from modules.checkpoint import load_checkpoint
from modules.compare import main as compare
from modules.evaluation.predictions import read_predictions
from modules.evaluation.score_tables import format_score_table

EARLIER = Path(__file__).parent / "support" / "earlier_run"


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """The checkpoint with random weights."""
    folder = tmp_path / "best"
    folder.mkdir()
    for name in ("config.yaml", "vocabularies.json"):
        shutil.copy(EARLIER / name, folder)
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in json.loads((EARLIER / "weights.json").read_text()).items():
        counter = name.endswith("num_batches_tracked")
        weights[name] = torch.tensor(3) if counter else torch.rand(shape, generator=generator)
    torch.save(weights, folder / "weights.pt")
    return folder


def test_a_checkpoint_fits_the_model_of_its_configuration(checkpoint):
    loaded = load_checkpoint(checkpoint)
    model = load_model(loaded, loaded.config)
    expected = torch.load(checkpoint / "weights.pt", weights_only=True)
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_predictions_and_metrics_are_read(capsys, tmp_path):
    predictions = read_predictions(EARLIER / "predictions.jsonl")
    assert len(predictions) == 2 and all(predictions.generated)
    metrics = json.loads((EARLIER / "metrics.json").read_text())
    assert f"{metrics['scores']['bleu_1']:.3f}" in format_score_table(metrics)
    runs = [shutil.copytree(EARLIER, tmp_path / name) for name in ("one", "other")]
    assert compare([*map(str, runs), "--resamples", "20"]) == 0
    assert "bleu_4" in capsys.readouterr().out
