"""One of two gloo processes, started by `tests/modules/training/test_family_training.py`.

    python -m tests.support.family.two_processes FOLDER
"""

import sys
from pathlib import Path

import torch

from data.loaders import training_loader
from modules.runtime import distributed, is_rank_zero, rank
from tests.support.family.techniques import COMBINED, LIVELY
from tests.support.tiny_training import CPU, gradients, smallest_sgrrg_trainer


def main(folder: Path) -> None:
    """Save the gradients of half a batch of four per process, for every technique."""
    with distributed(CPU):
        found = {}
        for case, settings in COMBINED.items():
            trainer = smallest_sgrrg_trainer(folder, *settings, *LIVELY)
            (batch, *_) = training_loader(trainer.train_dataset, 4, seed=0, epoch=0, rank=rank(), world_size=2)
            trainer.backward([batch])
            found[case] = gradients(trainer.model)
        if is_rank_zero():
            torch.save(found, folder / "shared.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
