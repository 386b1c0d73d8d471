"""Training with every technique of the R2Gen family: two processes, micro-batches, resuming."""

import signal

import pytest
import torch

from data.loaders import training_loader
from tests.support.family.techniques import COMBINED, LIVELY
from tests.support.tiny_training import ScriptedEvaluator, gradients, largest_difference, smallest_sgrrg_trainer
from tests.support.training.process_pair import run_two_processes


def test_two_processes_compute_the_gradients_of_one(tmp_path):
    expected = {}
    for case, settings in COMBINED.items():
        trainer = smallest_sgrrg_trainer(tmp_path, *settings, *LIVELY, "data.micro_batch_size=null")
        trainer.backward([next(iter(training_loader(trainer.train_dataset, 4, seed=0, epoch=0)))])
        expected[case] = gradients(trainer.model)
    run_two_processes("tests.support.family.two_processes", str(tmp_path), timeout=150)
    # Stretched values have few exact digits; a wrong divisor would change gradients by a tenth or more.
    for case, found in torch.load(tmp_path / "shared.pt", weights_only=True).items():
        (found, found_zero), (alone, alone_zero) = map(split_off_zero, (found, expected[case]))
        assert largest_difference(found, alone) < 1e-3, case
        assert max(found_zero, alone_zero) < 1e-6, case


def split_off_zero(found: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], float]:
    """Split off the gradients of the bias of attention keys: return the others, and the largest norm to that of all.

    A softmax does not change with this bias, so its gradient is rounding error, which differs among CPUs.
    """
    others = {name: gradient for name, gradient in found.items() if not name.endswith("key.bias")}
    total = torch.stack([gradient.norm() for gradient in found.values()]).norm()
    return others, max(float(found[name].norm() / total) for name in found.keys() - others.keys())


@pytest.mark.parametrize("settings", COMBINED.values(), ids=COMBINED)
def test_resuming_is_bit_equal(settings, tmp_path):
    """Also with dropout, and after a stop inside an epoch."""
    settings = (*settings, "train.epochs=1", "model.dropout=0.1", "train.precision=bf16")
    whole = smallest_sgrrg_trainer(tmp_path, *settings, "name=whole")
    assert whole.fit() == 0
    stopped = smallest_sgrrg_trainer(tmp_path, *settings, "name=parts")
    stopped.evaluator = ScriptedEvaluator(stop_in=1)
    assert stopped.fit() == 128 + signal.SIGTERM
    torch.manual_seed(99)  # the RNG state of the new process must not matter
    resumed = smallest_sgrrg_trainer(tmp_path, *settings, "name=parts", "train.resume=true")
    assert resumed.fit() == 0
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
