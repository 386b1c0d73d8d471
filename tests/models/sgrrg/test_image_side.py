"""A model without report decoder: the trunk, the observation head and the localizer."""

import pytest
import torch

from data.errors import UserError
from models.outputs import BoxSource, GraphSource
from modules.builders import build_model
from modules.checkpoint import save_checkpoint
from modules.config import load_config
from modules.model_inputs import model_inputs
from modules.weights import init_weights_from
from tests.support.tiny_model import losses_of, tiny_batch, tiny_config, tiny_model, tiny_vocabularies

SOURCES = (GraphSource.PREDICTED, BoxSource.LOCALIZER)


def test_it_has_only_what_reads_the_image():
    model = tiny_model("model.report=false")
    parts = {name.partition(".")[0] if not name.startswith("graph") else ".".join(name.split(".")[:2])
             for name in model.state_dict()}
    assert parts == {"patch_encoder", "observation_head", "graph.localizer", "graph.atlas"}
    assert model.decoder is None and model.image_encoder is None
    full = tiny_model().state_dict()
    assert all(full[name].shape == value.shape for name, value in model.state_dict().items())


def test_it_reads_the_image_as_a_model_with_the_same_weights_that_writes_reports():
    full, alone = tiny_model().eval(), tiny_model("model.report=false").eval()
    alone.load_state_dict({name: full.state_dict()[name] for name in alone.state_dict()})
    inputs = model_inputs(tiny_batch(2, views=2), *SOURCES)
    with torch.no_grad():
        expected, encoded = full.encode(inputs, *SOURCES), alone.encode(inputs, *SOURCES)
    for name in ("observation_logits", "boxes", "visible_logits"):
        assert torch.equal(getattr(encoded, name), getattr(expected, name)), name
    assert encoded.graph is None and encoded.region_logits is None
    with pytest.raises(ValueError, match="this model writes no reports"):
        alone.generate(inputs, *SOURCES)


def test_observations_and_boxes_are_its_losses_and_train_all_of_it():
    model = tiny_model("model.report=false")
    losses = losses_of(model, tiny_batch(3))
    assert set(losses.terms) == {"observations", "boxes", "visibility"}
    losses.total.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("override", "terms"),
    [("model.localizer=false", {"observations"}), ("model.observation_head=false", {"boxes", "visibility"})],
)
def test_either_head_can_be_alone(override, terms):
    assert set(losses_of(tiny_model("model.report=false", override), tiny_batch(2)).terms) == terms


def test_without_any_head_there_is_nothing_to_train():
    with pytest.raises(UserError, match="model.report=false leaves nothing to train: set model.observation_"):
        load_config(None, ["model.report=false", "model.observation_head=false", "model.localizer=false"])
    with pytest.raises(UserError, match="eval.int8=true concerns the report decoder"):
        load_config(None, ["model.report=false", "eval.int8=true"])


def test_a_report_run_starts_from_it(tmp_path):
    settings = ("model.patch_encoder.backbone=small_resnet", "model.patch_encoder.weights=none")
    config, vocabularies = tiny_config(*settings, "model.report=false"), tiny_vocabularies()
    torch.manual_seed(0)
    alone = build_model(config, vocabularies)
    save_checkpoint(tmp_path, alone, config, vocabularies)
    torch.manual_seed(1)
    model = build_model(tiny_config(*settings), vocabularies)
    lines = init_weights_from(model, vocabularies, tmp_path)
    assert all(line.endswith("is not in the checkpoint") for line in lines)
    assert not any(line.startswith(("patch_encoder", "observation_head", "graph.localizer")) for line in lines)
    own = model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in alone.state_dict().items())
