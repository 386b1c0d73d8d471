"""The image encoder: masked patches, no positions, and graph attention before self-attention."""

import pytest
import torch
import torch.nn.functional as F

from models.graph_attention import GraphAttention
from models.image_encoder import ImageEncoder, ImageEncoderLayer
from models.layers.embeddings import sinusoidal_positions
from models.layers.norms import LayerStyle, StandardDeviationNorm
from tests.support.random_graph import random_graph


def encoder(layers: int = 2, with_graph: bool = False, input_dropout: float = 0.0) -> ImageEncoder:
    torch.manual_seed(0)
    attentions = [GraphAttention(8, 2) for _ in range(layers)] if with_graph else None
    return ImageEncoder(6, 8, 2, 12, layers, input_dropout=input_dropout, graph_attentions=attentions)


@pytest.fixture
def patches() -> torch.Tensor:
    return torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))


MASK = torch.tensor([[True] * 5, [True, True, True, False, False]])


def test_input_is_projected_normed_and_activated(patches):
    made = encoder(layers=0)
    rows = F.gelu(F.layer_norm(F.linear(patches, made.project.weight, made.project.bias), (8,)))
    torch.testing.assert_close(made(patches, MASK), F.layer_norm(rows, (8,)))


def test_masked_patches_change_nothing(patches):
    made = encoder()
    garbage = torch.where(MASK.unsqueeze(-1), patches, 30.0)
    torch.testing.assert_close(made(garbage, MASK)[MASK], made(patches, MASK)[MASK])
    alone = made(patches[1:, :3], MASK[1:, :3])
    torch.testing.assert_close(made(patches, MASK)[1, :3], alone[0], atol=1e-6, rtol=1e-5)


def test_patches_have_no_position_of_their_own(patches):
    made, order = encoder(), torch.tensor([3, 1, 4, 0, 2])
    mask = torch.ones(2, 5, dtype=torch.bool)
    torch.testing.assert_close(made(patches[:, order], mask), made(patches, mask)[:, order])


def test_graph_is_attended_to_before_self_attention(patches):
    graph = random_graph(torch.tensor([[True, True, False], [False, False, False]]), 8)
    torch.manual_seed(0)
    layer = ImageEncoderLayer(8, 2, 12, 0.0, GraphAttention(8, 2))
    rows, mask = F.pad(patches, (0, 2)), MASK.unsqueeze(1)
    informed = layer.graph_attention(rows, layer.graph_attention.project(graph))
    torch.testing.assert_close(layer(rows, mask, graph), layer.feed_forward(layer.self_attention(informed, mask)))
    plain = layer.feed_forward(layer.self_attention(rows, mask))
    torch.testing.assert_close(layer(rows, mask, None), plain)
    torch.testing.assert_close(layer(rows, mask, graph)[1], plain[1])
    assert not torch.allclose(layer(rows, mask, graph)[0], plain[0])


def test_every_layer_has_a_graph_attention_of_its_own(patches):
    made = encoder(with_graph=True)
    graph = random_graph(torch.ones(2, 3, dtype=torch.bool), 8)
    made(patches, MASK, graph).square().sum().backward()
    gradients = [layer.graph_attention.attention.query.weight.grad for layer in made.layers]
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_input_dropout_acts_in_training_alone(patches):
    made = encoder(input_dropout=0.5)
    assert not torch.equal(made(patches, MASK), made(patches, MASK))
    made.eval()
    assert torch.equal(made(patches, MASK), made(patches, MASK))


def test_relu_projection_gives_zeros_for_masked_patches(patches):
    made = ImageEncoder(6, 8, 2, 12, 0, projection="relu")
    rows = F.relu(F.linear(patches, made.project.weight, made.project.bias)) * MASK.unsqueeze(-1)
    torch.testing.assert_close(made(patches, MASK), F.layer_norm(rows, (8,)))


def test_positions_are_counted_over_all_patches(patches):
    plain, placed = ImageEncoder(6, 8, 2, 12, 0), ImageEncoder(6, 8, 2, 12, 0, positions=True)
    placed.load_state_dict(plain.state_dict())
    for encoder in (plain, placed):
        encoder.norm = torch.nn.Identity()
    torch.testing.assert_close(placed(patches, MASK), plain(patches, MASK) + sinusoidal_positions(5, 8))


def test_style_reaches_every_layer(patches):
    made = ImageEncoder(6, 8, 2, 12, 2, style=LayerStyle(StandardDeviationNorm, F.relu))
    assert not any(isinstance(layer, torch.nn.LayerNorm) for layer in made.layers.modules())
    assert isinstance(made.norm, StandardDeviationNorm)
    assert all(layer.feed_forward.feed_forward.activation is F.relu for layer in made.layers)
