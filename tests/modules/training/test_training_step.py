"""The training step: precision, and which outputs of the model it asks for."""

import pytest
import torch

from modules.checkpoint import load_checkpoint
from modules.training.training_step import TrainingStep
from tests.support.tiny_model import tiny_batch, tiny_config, tiny_model
from tests.support.tiny_training import tiny_trainer


@pytest.mark.parametrize(
    ("precision", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_of_the_forward_pass(tmp_path, precision, kind):
    trainer = tiny_trainer(tmp_path, f"train.precision={precision}", "train.epochs=1")
    before = trainer.model.decoder.weight.clone()
    seen = set()
    trainer.model.decoder.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    assert trainer.fit() == 0
    assert seen == {kind}
    assert trainer.model.decoder.weight.dtype == torch.float32
    assert not torch.equal(trainer.model.decoder.weight, before)
    scaler = load_checkpoint(tmp_path / "results/run/last", training=True).training_state["scaler"]
    assert bool(scaler) == (precision == "fp16")


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_attention_to_regions_is_computed_only_for_grounding(weight):
    outputs = []
    config = tiny_config(f"loss.grounding={weight}")
    step = TrainingStep(tiny_model(), lambda output, *_: outputs.append(output), config)
    step(tiny_batch(2), torch.ones(8), 0.0)
    assert (outputs[0].region_log_attention is not None) == (weight > 0)
