"""Initial weights as in the R2Gen family. Those of SGRRG's release: `tests/modules/test_builders.py`."""

import pytest
import torch
from torch import nn

from modules import builders
from tests.support.tiny_model import tiny_config, tiny_vocabularies

SETTINGS = (
    "model.patch_encoder.backbone=small_resnet", "model.patch_encoder.weights=none", "model.width=64",
    "model.initial_std=null", "model.decoder.norms=memory", "model.decoder.memory_heads=2",
    "model.prototypes={per_observation: 20, channels: 32, heads: 2}",
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return builders.build_model(tiny_config(*SETTINGS), tiny_vocabularies())


def is_in(weight: torch.Tensor, bound: float) -> bool:
    """Whether the largest of many uniform numbers is just below `bound`."""
    return 0.9 * bound < float(weight.detach().abs().max()) <= bound


def test_matrices_are_uniform_within_xaviers_bound(model):
    for part in (model.decoder.layers[0].image_attention.query, model.decoder.embedding.tokens,
                 model.decoder.relational_memory.word_gates, model.shared_memory.patch_fusion):
        assert is_in(part.weight, (6 / sum(part.weight.shape)) ** 0.5)


def test_first_and_last_layer_and_biases_are_pytorchs(model):
    for part in (model.image_encoder.project, model.decoder.word_head):
        assert is_in(part.weight, part.in_features**-0.5)
    linears = [part for name, part in model.named_modules()
               if isinstance(part, nn.Linear) and not name.startswith(("patch_encoder", "graph"))]
    assert all(part.bias.any() for part in linears)


def test_biases_of_conditional_norms_are_a_tenth_and_prototypes_have_unit_variance(model):
    norm = model.decoder.layers[0].image_norm
    assert all((mlp[index].bias == 0.1).all() for mlp in (norm.weight_change, norm.bias_change) for index in (0, 2))
    assert model.shared_memory.prototypes.std().item() == pytest.approx(1, rel=0.05)
