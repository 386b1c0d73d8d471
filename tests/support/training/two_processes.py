"""One of two gloo processes, started by `tests/modules/training/test_trainer.py`.

    python -m tests.support.training.two_processes FOLDER OVERRIDE...
"""

import sys
from pathlib import Path

import pytest
import torch

from data.errors import UserError
from data.loaders import training_loader
from modules.runtime import (
    broadcast_object,
    distributed,
    gather_objects,
    is_rank_zero,
    maximum_over_processes,
    rank,
    run_on_rank_zero,
    sum_over_processes,
)
from tests.support.tiny_training import CPU, WatchedCriterion, gradients, smallest_sgrrg_trainer


def main(folder: Path, overrides: list[str]) -> None:
    """Save the first step's gradients, from half a batch of four per process, and train for three steps.

    Then check what needs two processes.
    """
    with distributed(CPU):
        trainer = smallest_sgrrg_trainer(folder, "data.rotate=5")
        (batch, *_) = training_loader(trainer.train_dataset, 4, seed=0, epoch=0, rank=rank(), world_size=2)
        losses = trainer.backward([batch])
        sums = (sum_over_processes(losses.table[0]) / 2).tolist()
        if is_rank_zero():
            terms = dict(zip(losses.names, sums, strict=True))
            torch.save({"terms": terms, "gradients": gradients(trainer.model)}, folder / "shared.pt")
        assert smallest_sgrrg_trainer(folder, *overrides, "name=shared", "train.max_steps=3").fit() == 0

        check_distributed_helpers()
        check_that_a_bad_loss_stops_both_processes(trainer, batch)

        if not is_rank_zero():
            # This half no longer has regions, boxes or labels; the other process must not wait for their gradients.
            for mask in (batch.regions.visible, batch.regions.mentioned, batch.regions.graph_known,
                         batch.regions.boxes_known, batch.observations_known):
                mask.fill_(False)
        trainer.backward([batch, batch])
        assert all(gradient.isfinite().all() for gradient in gradients(trainer.model).values())


def check_distributed_helpers() -> None:
    """Both processes get the same results; an error on rank zero is reported once."""
    assert gather_objects(f"of {rank()}") == ["of 0", "of 1"]
    assert broadcast_object(rank()) == 0
    assert run_on_rank_zero(rank) == 0
    assert maximum_over_processes(15 * rank(), CPU) == 15
    assert sum_over_processes(torch.tensor(rank() + 1.0)) == 3

    def fail() -> None:
        raise UserError("no space")

    with pytest.raises(UserError if is_rank_zero() else SystemExit, match="no space" if is_rank_zero() else "1"):
        run_on_rank_zero(fail)


def check_that_a_bad_loss_stops_both_processes(trainer, batch) -> None:
    """A non-finite loss in one process stops all of them; the message lists that process's studies."""
    ids = gather_objects(batch.study_ids)
    criterion = trainer.training_step.module.criterion
    trainer.training_step.module.criterion = WatchedCriterion(criterion, spoil_at=rank())
    with pytest.raises(UserError if is_rank_zero() else SystemExit) as caught:
        trainer.train_step([batch])
    trainer.training_step.module.criterion = criterion
    if is_rank_zero():
        assert "report nan" in str(caught.value) and f"(studies {', '.join(ids[1])})" in str(caught.value)
        assert not any(study_id in str(caught.value) for study_id in ids[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
