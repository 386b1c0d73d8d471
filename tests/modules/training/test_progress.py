"""The progress of a run: its position, its best validation, and its saved form."""

import pytest
import torch

from modules.training.progress import Phase, RunProgress

# What a run saved in its training state before phases had names.
OLD = {"epoch": 3, "batch": 4, "step": 25, "best": 0.5, "best_epoch": 2, "validations_without_gain": 1}


@pytest.mark.parametrize(("pending", "phase"), [(True, Phase.VALIDATE), (False, Phase.TRAIN)])
def test_position_saved_in_the_old_form_is_read(pending, phase):
    progress = RunProgress.from_dict(OLD | {"validation_pending": pending})
    assert progress == RunProgress(3, 4, 25, phase, best=0.5, best_epoch=2, validations_without_gain=1)


@pytest.mark.parametrize("phase", list(Phase))
def test_saved_form_is_the_old_one_and_reads_back(tmp_path, phase):
    progress = RunProgress(epoch=1, batch=2, step=3, phase=phase)
    torch.save(progress.to_dict(), tmp_path / "position.pt")
    saved = torch.load(tmp_path / "position.pt", weights_only=True)
    assert saved.keys() == {*OLD, "validation_pending"}
    assert RunProgress.from_dict(saved) == progress


def test_next_epoch_starts_after_the_last_batch_only():
    progress = RunProgress(epoch=1, batch=5, phase=Phase.VALIDATE)
    progress.end_epoch(batches_per_epoch=6)
    assert (progress.epoch, progress.batch, progress.phase) == (1, 5, Phase.TRAIN)
    progress.batch = 6
    progress.end_epoch(batches_per_epoch=6)
    assert (progress.epoch, progress.batch, progress.phase) == (2, 0, Phase.TRAIN)


def test_a_validation_without_a_value_is_not_counted():
    progress = RunProgress()
    assert not progress.record_validation(None) and progress.best is None
    progress.record_validation(0.5)
    progress.record_validation(0.4)
    assert not progress.record_validation(None)
    assert (progress.best, progress.validations_without_gain) == (0.5, 1)


def test_a_validation_before_the_first_step_is_of_epoch_0():
    progress = RunProgress(phase=Phase.VALIDATE)
    assert progress.record_validation(0.3) and progress.best_epoch == 0
    progress.end_epoch(batches_per_epoch=4)
    assert (progress.phase, progress.epoch, progress.batch) == (Phase.TRAIN, 0, 0)


def test_what_reward_training_has_is_saved_and_read_back():
    progress = RunProgress(start_scores={"bleu_4": 0.1}, broken_guard="bleu_4 fell")
    assert RunProgress.from_dict(progress.to_dict()) == progress


def test_best_validation_is_the_first_of_the_highest():
    progress = RunProgress(batch=4)
    best = []
    for progress.epoch, monitored in enumerate([0.1, 0.4, 0.3, 0.4, float("nan"), 0.5]):
        best.append(progress.record_validation(monitored))
        if progress.epoch == 4:
            assert (progress.best, progress.best_epoch, progress.validations_without_gain) == (0.4, 2, 3)
    assert best == [True, True, False, False, False, True]
    assert (progress.best, progress.best_epoch, progress.validations_without_gain) == (0.5, 6, 0)
