"""One of two gloo processes, started by `tests/modules/training/rewards/test_reward_training.py`.

    python -m tests.support.training.reward_processes FOLDER
"""

import sys
from pathlib import Path

import torch

from data.loaders import training_loader
from modules.runtime import distributed, gather_objects, is_rank_zero, rank
from tests.support.tiny_training import CPU, gradients
from tests.support.training.reward_runs import REPEATABLE, keep_running_statistics, reward_trainer


def main(folder: Path) -> None:
    """Save what each process samples and the gradient of both; then one has no reference; then train for two steps."""
    with distributed(CPU):
        trainer = reward_trainer(folder, *REPEATABLE)
        keep_running_statistics(trainer.model)
        batches = training_loader(trainer.train_dataset, 4, seed=0, epoch=0, rank=rank(), world_size=2)
        batch = next(iter(batches))
        drawn = trainer.stage.prepare(trainer.model, [batch], 0, torch.contiguous_format)
        sampled = drawn[0][0]
        rewards = sampled.pending.result()
        trainer.backward([batch])  # draws the same samples
        saved = {"batch": batch, "sampled": (sampled.studies, sampled.token_ids, sampled.texts), "rewards": rewards}
        torch.save(saved | {"gradients": gradients(trainer.model)}, folder / f"rank{rank()}.pt")
        texts = gather_objects(sampled.texts)
        assert texts[0] != texts[1]

        if not is_rank_zero():
            batch.references = [""] * len(batch)
        trainer.backward([batch])
        assert all(gradient.isfinite().all() for gradient in gradients(trainer.model).values())
        trainer.stage.close()

        trainer = reward_trainer(folder, "train.max_steps=2", "name=shared")
        assert trainer.fit() == 0
        weights = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
        first, second = gather_objects(weights)
        assert torch.equal(first, second)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
