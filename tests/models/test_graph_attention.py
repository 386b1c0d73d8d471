"""Sentence-level attention: masks, fusion, and studies without a graph."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from models.graph_attention import GraphAttention
from models.layers.packing import Packing
from models.outputs import SceneGraph
from tests.support.random_graph import random_graph

WIDTH = 8
SENTENCE_ATTENTIONS = ["subgraph", "node", "hierarchical"]
SELECTED = torch.tensor([[True, False, True, True], [False, False, False, False], [False, True, False, False]])


@pytest.fixture
def graph() -> SceneGraph:
    return random_graph(SELECTED, WIDTH)


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(1))


def graph_attention(**settings) -> GraphAttention:
    torch.manual_seed(0)
    return GraphAttention(WIDTH, 2, **settings)


def attend(attention: GraphAttention, rows: torch.Tensor, graph: SceneGraph) -> torch.Tensor:
    return attention(rows, attention.project(graph))


def test_subgraph_attends_to_selected_vectors(rows, graph):
    attention = graph_attention()
    fused = attend(attention, rows, graph)
    normed = F.layer_norm(rows, (WIDTH,))
    for study in (0, 2):
        vectors = graph.embeddings[study, SELECTED[study]].unsqueeze(0)
        expected = rows[study] + attention.attention(normed[study].unsqueeze(0), vectors)[0]
        torch.testing.assert_close(fused[study], expected)


def test_node_attends_to_all_nodes_of_all_subgraphs(rows, graph):
    attention = graph_attention(sentence_attention="node")
    fused = attend(attention, rows, graph)
    normed = F.layer_norm(rows, (WIDTH,))
    for study in (0, 2):
        nodes = graph.nodes[study][graph.node_mask[study]].unsqueeze(0)
        expected = rows[study] + attention.attention(normed[study].unsqueeze(0), nodes)[0]
        torch.testing.assert_close(fused[study], expected)


def test_hierarchical_weighs_the_answers_of_subgraphs(rows, graph):
    attention = graph_attention(sentence_attention="hierarchical")
    fused = attend(attention, rows, graph)
    normed = F.layer_norm(rows, (WIDTH,))
    for study in (0, 2):
        regions = SELECTED[study].nonzero().flatten()
        queries = normed[study].unsqueeze(0)
        subgraphs = [graph.nodes[study, r][graph.node_mask[study, r]].unsqueeze(0) for r in regions]
        answers = torch.cat([attention.attention(queries, nodes) for nodes in subgraphs])  # [selected, Q, D]
        keys = attention.subgraph_key(graph.embeddings[study, regions])
        weights = F.softmax(attention.subgraph_query(normed[study]) @ keys.T / WIDTH**0.5, -1)  # [Q, selected]
        expected = rows[study] + torch.einsum("qr,rqd->qd", weights, answers)
        torch.testing.assert_close(fused[study], expected)


def test_hierarchical_weights_sum_to_one_over_selected_subgraphs(rows, graph, monkeypatch):
    attention = graph_attention(sentence_attention="hierarchical")
    monkeypatch.setattr(attention.attention, "attend", lambda queries, *_: torch.ones(*queries.shape))
    torch.testing.assert_close(attend(attention, rows, graph)[[0, 2]], rows[[0, 2]] + 1)
    marked = (~SELECTED)[:, :, None, None].float()
    monkeypatch.setattr(attention.attention, "attend", lambda queries, *_: marked.expand(queries.shape))
    assert torch.equal(attend(attention, rows, graph)[[0, 2]], rows[[0, 2]])


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("fuse", ["attention", "add", "concat"])
@pytest.mark.parametrize("sentence_attention", SENTENCE_ATTENTIONS)
def test_study_without_subgraph_passes_unchanged_and_others_do_not(rows, graph, sentence_attention, fuse, gate):
    attention = graph_attention(sentence_attention=sentence_attention, fuse=fuse, gate=gate)
    fused = attend(attention, rows, graph)
    assert torch.equal(fused[1], rows[1])
    assert (fused[[0, 2]] != rows[[0, 2]]).any(-1).all()
    fused.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in attention.parameters())


@pytest.mark.parametrize("sentence_attention", SENTENCE_ATTENTIONS)
def test_no_subgraph_in_the_whole_batch_leaves_every_gradient_finite(rows, sentence_attention):
    attention = graph_attention(sentence_attention=sentence_attention, fuse="concat", gate=True)
    nothing = random_graph(torch.zeros_like(SELECTED), WIDTH, largest=0)
    fused = attend(attention, rows.requires_grad_(), nothing)
    assert torch.equal(fused, rows)
    fused.sum().backward()
    assert torch.equal(rows.grad, torch.ones_like(rows))
    assert all((parameter.grad == 0).all() for parameter in attention.parameters())


@pytest.mark.parametrize("sentence_attention", SENTENCE_ATTENTIONS)
def test_unselected_regions_and_padding_nodes_change_nothing(rows, graph, sentence_attention):
    attention = graph_attention(sentence_attention=sentence_attention)
    garbage = replace(
        graph,
        embeddings=torch.where(graph.selected.unsqueeze(-1), graph.embeddings, 50.0),
        nodes=torch.where(graph.node_mask.unsqueeze(-1), graph.nodes, -50.0),
    )
    torch.testing.assert_close(attend(attention, rows, garbage), attend(attention, rows, graph), atol=1e-6, rtol=0)


def test_add_and_attention_give_the_same_numbers(rows, graph):
    assert torch.equal(attend(graph_attention(fuse="add"), rows, graph), attend(graph_attention(), rows, graph))


def test_concat_is_a_linear_layer_on_state_and_attended_state(rows, graph):
    attention = graph_attention(fuse="concat")
    plain = graph_attention()
    plain.load_state_dict({k: v for k, v in attention.state_dict().items() if not k.startswith("fuse")})
    attended = attend(plain, rows, graph)
    expected = attention.fuse(torch.cat([rows, attended], -1))
    torch.testing.assert_close(attend(attention, rows, graph)[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("fuse", ["attention", "concat"])
def test_gate_mixes_the_fused_answer_with_the_state(rows, graph, fuse):
    gated = graph_attention(fuse=fuse, gate=True)
    plain = graph_attention(fuse=fuse)
    plain.load_state_dict({k: v for k, v in gated.state_dict().items() if not k.startswith("gate")})
    gate = torch.sigmoid(F.linear(rows, gated.gate.weight, gated.gate.bias))
    expected = gate * attend(plain, rows, graph) + (1 - gate) * rows
    torch.testing.assert_close(attend(gated, rows, graph), expected)


def test_hierarchical_query_and_key_learn(rows, graph):
    attention = graph_attention(sentence_attention="hierarchical")
    attend(attention, rows, graph).square().sum().backward()
    assert attention.subgraph_query.weight.grad.abs().sum() > 0
    assert attention.subgraph_key.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("sentence_attention", SENTENCE_ATTENTIONS)
def test_packed_rows_get_the_answers_of_their_studies(sentence_attention, rows, graph):
    attention = graph_attention(sentence_attention=sentence_attention, fuse="concat", gate=True)
    packing = Packing.from_mask(torch.arange(5) < torch.tensor([[4], [2], [5]]))
    found = attention(packing.pack(rows), attention.project(graph), packing)
    torch.testing.assert_close(found, packing.pack(attend(attention, rows, graph)))
