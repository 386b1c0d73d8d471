"""Tiny models with every kind of graph attention, and helpers for their tests."""

import torch
from torch import Tensor

from data.batch import Batch
from models.outputs import BoxSource, Generation, GraphSource
from models.sgrrg import SGRRG
from modules.model_inputs import model_inputs
from modules.training.losses import Losses
from tests.support.tiny_model import LONGEST, tiny_model

ENCODES = ["oa-c", "oa-d", "oa-pm"]
SENTENCE_ATTENTIONS = ["subgraph", "hierarchical", "node"]
CONNECTIONS = [(encode, attention) for encode in ENCODES for attention in SENTENCE_ATTENTIONS]


def connected(encode: str, sentence_attention: str, *overrides: str, seed: int = 0) -> SGRRG:
    settings = (f"model.encode={encode}", f"model.sentence_attention={sentence_attention}", *overrides)
    return tiny_model(*settings, seed=seed)


def generate(
    model: SGRRG, batch: Batch, graph_source: GraphSource = GraphSource.PREDICTED,
    box_source: BoxSource = BoxSource.LOCALIZER, beam_size: int = 2, max_tokens: int = LONGEST, **settings,
) -> Generation:
    inputs = model_inputs(batch, graph_source, box_source)
    with torch.no_grad():
        return model.generate(inputs, graph_source, box_source, beam_size, max_tokens, **settings)


def graph_of(encoded) -> dict[str, Tensor]:
    return vars(encoded.graph)


def assert_finite_gradients(model: SGRRG, losses: Losses) -> None:
    """Backpropagate and check that every parameter has a finite gradient."""
    model.zero_grad()
    losses.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} is cut off"
        assert torch.isfinite(parameter.grad).all(), name
