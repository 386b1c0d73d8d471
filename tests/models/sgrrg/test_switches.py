"""Every switch of the model, and training on batches with little annotation."""

import pytest
import torch

from data.batch import Batch
from models.outputs import Generation, GraphSource
from models.sgrrg import SGRRG
from modules.config import Config
from modules.training.losses import Losses

# Training on little
from tests.support.connected_model import CONNECTIONS, SENTENCE_ATTENTIONS, assert_finite_gradients, connected, generate
from tests.support.tiny_model import (
    LONGEST,
    losses_of,
    teacher_forced,
    tiny_batch,
    tiny_config,
    tiny_model,
    without_annotation,
    without_regions,
)


@pytest.mark.parametrize("graph_source", [GraphSource.ORACLE, GraphSource.MIXED])
@pytest.mark.parametrize("reduce", [without_regions, without_annotation])
@pytest.mark.parametrize(("encode", "sentence_attention"), CONNECTIONS)
def test_batches_without_regions_or_annotation_train(encode, sentence_attention, reduce, graph_source):
    overrides = ("model.graph_in=both", "model.fuse=concat", "model.gate=true", "model.dropout=0.1")
    model, batch = connected(encode, sentence_attention, *overrides), reduce(tiny_batch(3))
    losses = losses_of(model, batch, graph_source, mixing_probability=0.5)
    assert torch.isfinite(losses.total) and losses.terms["contrast"] == 0 and losses.terms["attributes"] == 0
    assert_finite_gradients(model, losses)


def test_fully_annotated_batch_reaches_every_parameter():
    model = tiny_model("model.graph_in=both", "model.fuse=concat", "model.gate=true")
    assert_finite_gradients(model, losses_of(model, tiny_batch(3)))
    # Softmax is invariant to a bias of the keys, so that gradient is zero up to rounding.
    silent = [name for name, p in model.named_parameters() if (p.grad == 0).all() and not name.endswith("key.bias")]
    assert silent == []


# Every switch


SWITCHES = {
    **{f"{encode}, {attention}": (f"model.encode={encode}", f"model.sentence_attention={attention}")
       for encode, attention in CONNECTIONS},
    **{f"{attention}, {graph_in}, {fuse}, gate {gate}": (
        f"model.sentence_attention={attention}", f"model.graph_in={graph_in}", f"model.fuse={fuse}",
        f"model.gate={gate}")
       for attention in SENTENCE_ATTENTIONS for graph_in, fuse, gate in
       (("encoder", "attention", False), ("both", "concat", True), ("both", "add", False), ("encoder", "add", True))},
    "mean pooling": ("model.pooling=mean",),
    "no graph": ("model.graph_in=none",),
    "no memory": ("model.memory=false",),
    "roi align": ("model.roi=align",),
    "no observation head": ("model.observation_head=false",),
    "no localizer": ("model.localizer=false", "eval.box_source=atlas"),
    "norm of the family": ("model.norm=std",),
    "relu": ("model.activation=relu",),
    "relu projection": ("model.patch_projection=relu",),
    "patch positions": ("model.patch_positions=true",),
    "dropout": ("model.dropout=0.2", "model.image_dropout=0.3"),
    **{f"grounding, {attention}": ("loss.grounding=0.5", f"model.sentence_attention={attention}")
       for attention in SENTENCE_ATTENTIONS},
    "nothing but words": ("model.graph_in=none", "model.observation_head=false"),
}


def step_and_generate(model: SGRRG, config: Config, batch: Batch) -> tuple[Losses, Generation]:
    """Take one training step, which must lower the loss of its batch, and generate a report for every study."""
    box_source = config.eval.box_source
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    losses = losses_of(model, batch, config.train.graph_source, box_source, 0.5, config)
    losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    optimizer.step()
    model.eval()
    generation = generate(model, batch, GraphSource.PREDICTED, box_source)
    assert generation.token_ids.shape == (len(batch), LONGEST - 1)
    assert torch.isfinite(generation.scores).all()
    return losses, generation


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_trains_and_generates(switch):
    config = tiny_config(*SWITCHES[switch])
    model, batch = tiny_model(*SWITCHES[switch]), tiny_batch(3)
    losses, generation = step_and_generate(model, config, batch)
    has_graph = config.model.graph_in != "none"
    expected = {"report"} | ({"observations"} if config.model.observation_head else set())
    if has_graph:
        expected |= {"regions", "attributes", "contrast"}
        expected |= {"boxes", "visibility"} if config.model.localizer else set()
        expected |= {"grounding"} if config.loss.grounding else set()
    assert set(losses.terms) == expected
    assert (generation.encoded.graph is not None) == has_graph
    assert (generation.encoded.observation_logits is not None) == config.model.observation_head


@pytest.mark.parametrize("term", ["report", "observations", "regions", "attributes", "contrast", "boxes", "visibility"])
def test_every_loss_can_be_switched_off(term):
    config = tiny_config(f"loss.{term}=0")
    losses, _ = step_and_generate(tiny_model(), config, tiny_batch(2))
    assert term not in losses.terms and len(losses.terms) == 6
    weighted = sum(getattr(config.loss, name) * value for name, value in losses.terms.items())
    torch.testing.assert_close(losses.total, weighted)


@pytest.mark.parametrize("overrides", SWITCHES.values(), ids=SWITCHES)
def test_every_switch_matters(overrides):
    """Other settings change the parameters, or the output for the same parameters."""
    plain, switched, batch = tiny_model(), tiny_model(*overrides), tiny_batch(2)
    if plain.state_dict().keys() != switched.state_dict().keys():
        return
    switched.load_state_dict(plain.state_dict())
    config = tiny_config(*overrides)
    torch.manual_seed(0)
    found = teacher_forced(switched, batch, box_source=config.eval.box_source).word_logits
    same = torch.allclose(found, teacher_forced(plain, batch).word_logits, atol=1e-5)
    # A loss changes what is learned, not what an untrained model generates.
    changes_nothing = {"model.encode=oa-c", "model.sentence_attention=subgraph", "loss.grounding=0.5"}
    assert same == (set(overrides) <= changes_nothing)
