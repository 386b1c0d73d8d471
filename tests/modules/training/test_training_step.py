"""The training step: precision, which outputs of the model it asks for, and that it repeats itself."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.attribute_predictor import AttributePredictor
from modules.builders import build_criterion
from modules.checkpoint import load_checkpoint
from modules.training.losses import ReportCriterion
from modules.training.training_step import TrainingStep
from tests.support.family.techniques import CASES
from tests.support.tiny_model import tiny_batch, tiny_config, tiny_model, tiny_vocabularies
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
    step(tiny_batch(2), torch.ones(len(ReportCriterion.TERMS)), 0.0)
    assert (outputs[0].region_log_attention is not None) == (weight > 0)


class RepeatedPlaces(TorchDispatchMode):
    """Finds sums of values with equal indices that PyTorch computes with atomic additions on several threads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split(".")[0]
        if name in ("aten::index_put", "aten::index_put_", "aten::_index_put_impl_") and len(args) > 3 and args[3]:
            places = torch.stack(torch.broadcast_tensors(*(index for index in args[1] if index is not None)), -1)
            if places.dtype != torch.bool and len(places.flatten(0, -2).unique(dim=0)) < places[..., 0].numel():
                self.found.append(f"{name} of {list(args[0].shape)}")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("overrides", [
    ("model.share_attribute_names=true", "loss.grounding=0.5", "loss.contrast=1"),
    ("model.roi=align", "model.encode=oa-d"),
    *CASES.values(),
], ids=["shared names", "roi align", *CASES])  # fmt: skip
def test_gradients_are_sums_in_a_fixed_order(overrides):
    config, batch = tiny_config(*overrides), tiny_batch(3, views=2)
    criterion = build_criterion(config, tiny_vocabularies())
    step = TrainingStep(tiny_model(*overrides), criterion, config)
    with RepeatedPlaces() as places:
        step(batch, criterion.counts(batch), 0.5).total.backward()
    assert places.found == []


def test_shared_weights_of_attributes_get_equal_gradients_on_several_threads():
    """Without a fixed order, one in a few of these differed."""
    names = [[(region + slot) % 7 for slot in range(20)] for region in range(29)]
    heads = AttributePredictor(256, [20] * 29, names)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter)
    features, threads = torch.randn(4, 29, 256), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradients = []
        for _ in range(50):
            heads.zero_grad()
            heads(features).square().sum().backward()
            gradients.append(heads.name_weight.grad.clone())
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
