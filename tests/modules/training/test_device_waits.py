"""How often the CPU would wait for a GPU: operations whose result has a size or a value that Python needs."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models import beam_search
from models.outputs import BoxSource, GraphSource
from modules.builders import build_criterion
from modules.model_inputs import count_sizes, model_inputs
from modules.training.training_step import TrainingStep
from tests.support.connected_model import ENCODES, generate
from tests.support.tiny_model import tiny_batch, tiny_config, tiny_model, tiny_vocabularies, without_annotation

WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::equal"}


class WaitCounter(TorchDispatchMode):
    """Counts operations after which a GPU would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split(".")[0]
        has_bool_index = name == "aten::index" and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITING or has_bool_index:
            self.waits.append(name)
        return function(*args, **(kwargs or {}))


def training_waits(*overrides: str, batch=None, mixing: float = 0.0) -> list[str]:
    """The waits of one forward and backward pass."""
    config = tiny_config(*overrides)
    batch = batch or tiny_batch(3, views=2)
    criterion = build_criterion(config, tiny_vocabularies())
    step = TrainingStep(tiny_model(*overrides), criterion, config)
    counts, sizes = criterion.counts(batch), count_sizes(batch)
    with WaitCounter() as counter:
        step(batch, counts, mixing, sizes).total.backward()
    return counter.waits


@pytest.mark.parametrize("encode", ENCODES)
def test_a_step_with_the_annotated_graph_never_waits(encode):
    overrides = (f"model.encode={encode}", "train.graph_source=oracle", "loss.grounding=0.5")
    assert training_waits(*overrides) == []


def test_a_step_with_predicted_graphs_waits_for_their_sizes():
    """Regions to pool, sub-graphs, the largest of them, and nodes are known only when they are predicted."""
    waits = training_waits("train.graph_source=mixed", mixing=0.5)
    assert len(waits) == 4


def test_counted_sizes_change_no_loss():
    config = tiny_config("train.graph_source=oracle")
    batch = tiny_batch(3, views=2)
    criterion = build_criterion(config, tiny_vocabularies())
    step = TrainingStep(tiny_model("train.graph_source=oracle").eval(), criterion, config)
    for studies in (batch, without_annotation(batch), replace(batch, view_mask=batch.view_mask.clone().fill_(True))):
        counts = criterion.counts(studies)
        with_sizes, without = (step(studies, counts, 0.0, sizes).terms for sizes in (count_sizes(studies), None))
        assert with_sizes.keys() == without.keys()
        assert all(torch.equal(with_sizes[name], without[name]) for name in without)


@pytest.mark.parametrize("beams", [1, 3])
def test_decoding_waits_once_in_eight_tokens(beams, monkeypatch):
    monkeypatch.setattr(beam_search, "steps_between_checks", lambda device: 8)
    model, batch = tiny_model("data.max_tokens=40").eval(), tiny_batch(2)
    with torch.no_grad():
        encoded = model.encode(
            model_inputs(batch, GraphSource.PREDICTED, BoxSource.LOCALIZER), GraphSource.PREDICTED, BoxSource.LOCALIZER
        )
        state = model.decoder.start(encoded.memory, encoded.memory_mask, encoded.graph, beams, 16)
        model.decoder.word_head.bias[model.eos_id] = -50.0  # no report ends
        decoding = beam_search.Decoding(
            2, 16, model.decoder.word_head.out_features, model.bos_id, model.eos_id, model.pad_id, torch.device("cpu")
        )
        with WaitCounter() as counter:
            if beams == 1:
                beam_search.greedy_search(model.decoder.step, state, decoding)
            else:
                beam_search.beam_search(model.decoder.step, state, decoding, beams)
    assert len(counter.waits) == 2


@pytest.mark.parametrize("beams", [1, 3])
def test_asking_less_often_changes_no_report(beams, monkeypatch):
    model, batch = tiny_model().eval(), tiny_batch(3)
    expected = generate(model, batch, beam_size=beams)
    monkeypatch.setattr(beam_search, "steps_between_checks", lambda device: 8)
    found = generate(model, batch, beam_size=beams)
    assert torch.equal(found.token_ids, expected.token_ids)
    torch.testing.assert_close(found.scores, expected.scores)
