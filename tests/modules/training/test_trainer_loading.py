"""How the trainer loads studies: the workers of a run, damaged studies, and killed workers."""

import json
import multiprocessing
import os
import signal

import pytest
import torch

from data.errors import UserError
from tests.support.tiny_training import ScriptedEvaluator, tiny_settings, tiny_trainer


def messages(folder):
    lines = (folder / "results/run/log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["text"] for entry in map(json.loads, lines) if entry["kind"] == "message"]


@pytest.fixture
def folder(tmp_path):
    """The folder of a run whose data set has a damaged training study and a damaged validation study."""
    tiny_settings(tmp_path)
    for study in ("train4", "val1"):
        (tmp_path / f"data/images/{study}_0.png").write_bytes(b"not an image")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_studies_are_replaced_in_training_and_left_out_in_validation(folder, workers):
    trainer = tiny_trainer(folder, f"data.workers={workers}", "train.epochs=2")
    assert trainer.fit() == 0
    assert trainer.progress.step == 2 * trainer.plan.steps
    warnings = [text for text in messages(folder) if text.startswith("Warning: study")]
    assert len(warnings) == 2
    assert "study train4 cannot be read, training replaces it by the next readable study: " in warnings[0]
    assert "study val1 cannot be read, the validation leaves it out: Study val1: the image" in warnings[1]
    batches = [study for studies in trainer.criterion.studies for study in studies]
    assert "train4" not in batches and len(batches) == 2 * trainer.plan.steps * trainer.plan.step_size
    assert multiprocessing.active_children() == []


def test_too_many_damaged_studies_end_the_run(folder):
    with pytest.raises(UserError, match=r"^Study train4: the image .*train4_0.png is damaged") as caught:
        tiny_trainer(folder, "data.most_skipped=0", "train.epochs=2").fit()
    assert "\n" not in str(caught.value)


def test_a_run_has_one_set_of_workers_for_training(tmp_path):
    seen = []

    class WatchingEvaluator(ScriptedEvaluator):
        def validate(self, *arguments, **settings):
            seen.append({child.pid for child in multiprocessing.active_children()})
            return super().validate(*arguments, **settings)

    tiny_trainer(tmp_path, "data.workers=2", "train.epochs=3", evaluator=WatchingEvaluator()).fit()
    assert len(seen) == 3 and seen[0] == seen[1] == seen[2] and len(seen[0]) == 2
    assert multiprocessing.active_children() == []


def test_a_killed_worker_ends_the_run_with_one_line(tmp_path):
    trainer = tiny_trainer(tmp_path, "data.workers=1", "train.epochs=50")
    train_step = trainer.train_step

    def kill_workers(window):
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
        return train_step(window)

    trainer.train_step = kill_workers
    with pytest.raises(UserError, match="^A data loader process was killed") as caught:
        trainer.fit()
    assert "\n" not in str(caught.value)


def test_cached_images_give_the_same_run(tmp_path):
    plain, cached = (
        tiny_trainer(tmp_path, f"name={name}", f"data.cache_images={name == 'cached'}", "train.epochs=2")
        for name in ("plain", "cached")
    )
    plain.fit()
    cached.fit()
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(weight, cached.model.state_dict()[name]), name
