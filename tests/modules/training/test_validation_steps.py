"""Validations inside an epoch."""

import json

import torch

from tests.support.tiny_training import ScriptedEvaluator, tiny_trainer


def test_validations_inside_an_epoch_change_nothing_in_what_is_learned(tmp_path):
    """9 steps an epoch."""
    settings = ("optim.batch_size=1", "data.micro_batch_size=1", "train.epochs=2")
    expected = tiny_trainer(tmp_path, *settings, "name=epochs")
    assert expected.fit() == 0
    trainer = tiny_trainer(tmp_path, *settings, "train.validate_steps=4", evaluator=ScriptedEvaluator([0.1, 0.3, 0.2]))
    assert trainer.fit() == 0
    lines = (tmp_path / "results/run/log.jsonl").read_text(encoding="utf-8").splitlines()
    validated = [
        (entry["epoch"], entry["step"]) for entry in map(json.loads, lines) if entry["kind"] == "validation"
    ]
    assert validated == [(1, 4), (1, 8), (1, 9), (2, 12), (2, 16), (2, 18)]
    assert trainer.progress.best == 0.3 and trainer.progress.epoch == 2
    for name, value in expected.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name
