"""One of two gloo processes, started by `tests/modules/test_trainer.py` as `python -m tests.support.two_processes FOLDER`."""

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


def main(folder: Path) -> None:
    """Save the first step's gradients of this process's half of a batch of four; then what only two can show."""
    with distributed(CPU):
        trainer = smallest_sgrrg_trainer(folder, "data.batch_size=2", "optim.accumulate=1", "data.rotate=5")
        batch = next(iter(training_loader(trainer.train_dataset, 2, seed=0, epoch=0, rank=rank(), world_size=2)))
        terms = trainer.backward([batch])
        if is_rank_zero():
            torch.save({"terms": terms, "gradients": gradients(trainer.model)}, folder / "shared.pt")

        helpers_agree()
        loss_of_the_second_process_stops_both(trainer, batch)

        if not is_rank_zero():
            # This half has no region, no box and no label any more; the other must not wait for its gradients.
            for mask in (batch.regions.visible, batch.regions.mentioned, batch.regions.graph_known,
                         batch.regions.boxes_known, batch.observations_known):
                mask.fill_(False)
        trainer.backward([batch, batch])
        assert all(gradient.isfinite().all() for gradient in gradients(trainer.model).values())


def helpers_agree() -> None:
    """Both processes get the same answers; an error in the first is said once."""
    assert gather_objects(f"of {rank()}") == ["of 0", "of 1"]
    assert broadcast_object(rank()) == 0
    assert run_on_rank_zero(rank) == 0
    assert maximum_over_processes(15 * rank(), CPU) == 15
    assert sum_over_processes(torch.tensor(rank() + 1.0)) == 3

    def complain() -> None:
        raise UserError("no room")

    with pytest.raises(UserError if is_rank_zero() else SystemExit, match="no room" if is_rank_zero() else "1"):
        run_on_rank_zero(complain)


def loss_of_the_second_process_stops_both(trainer, batch) -> None:
    """A loss that is not finite in one process ends the run in all, with that process's studies."""
    ids = gather_objects(batch.study_ids)
    whole = trainer.training_step.module.criterion
    trainer.training_step.module.criterion = WatchedCriterion(whole, spoil_at=rank())
    with pytest.raises(UserError if is_rank_zero() else SystemExit) as caught:
        trainer.backward([batch])
    trainer.training_step.module.criterion = whole
    if is_rank_zero():
        assert "report nan" in str(caught.value) and f"(studies {', '.join(ids[1])})" in str(caught.value)
        assert not any(study_id in str(caught.value) for study_id in ids[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
