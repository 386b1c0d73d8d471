"""The report decoder: teacher forcing, cached decoding token by token, and beams."""

import pytest
import torch

from models.graph_attention import GraphAttention
from models.layers.packing import Packing
from models.outputs import SceneGraph
from models.report_decoder import ReportDecoder
from tests.support.random_graph import random_graph

WORDS, WIDTH, LONGEST = 11, 8, 7
MASK = torch.tensor([[True] * 5, [True, True, True, False, False]])
SELECTED = torch.tensor([[True, False, True], [False, False, False]])
SETTINGS = [
    None, {}, {"sentence_attention": "node"}, {"sentence_attention": "hierarchical"},
    {"sentence_attention": "hierarchical", "fuse": "concat", "gate": True},
]


def decoder(settings: dict | None) -> ReportDecoder:
    """Two layers; without graph attention if `settings` is None."""
    torch.manual_seed(0)
    attentions = None if settings is None else [GraphAttention(WIDTH, 2, **settings) for _ in range(2)]
    return ReportDecoder(WORDS, WIDTH, 2, 12, 2, LONGEST, graph_attentions=attentions).eval()


@pytest.fixture
def memory() -> torch.Tensor:
    return torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def graph() -> SceneGraph:
    return random_graph(SELECTED, WIDTH)


def written(made: ReportDecoder, token_ids: torch.Tensor, *memories) -> torch.Tensor:
    """Teacher forcing without any padding."""
    packing = Packing.from_mask(torch.ones_like(token_ids, dtype=torch.bool))
    return packing.unpack(made(token_ids, packing, *memories))


TOKENS = torch.tensor([[3, 5, 1, 7, 2, 9, 4], [3, 8, 8, 0, 6, 1, 10]])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_words_one_by_one_equal_teacher_forcing(settings, memory, graph):
    made = decoder(settings)
    expected = written(made, TOKENS, memory, MASK, graph)
    state = made.start(memory, MASK, graph, beams=1, longest=LONGEST)
    steps = [made.step(TOKENS[:, i], state) for i in range(LONGEST)]
    torch.testing.assert_close(torch.stack(steps, 1), expected, atol=1e-5, rtol=1e-4)
    assert expected.shape == (2, LONGEST, WORDS) and state.tokens.length == LONGEST


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_reordered_beams_go_on_from_the_words_they_took_over(settings, memory, graph):
    made, generator = decoder(settings), torch.Generator().manual_seed(2)
    state = made.start(memory, MASK, graph, beams=3, longest=LONGEST)
    prefixes = torch.empty(6, 0, dtype=torch.long)
    study = torch.arange(6) // 3
    for _ in range(LONGEST):
        tokens = torch.randint(0, WORDS, (6,), generator=generator)
        prefixes = torch.cat([prefixes, tokens.unsqueeze(1)], 1)
        picked = {name: value[study] for name, value in vars(graph).items()}
        expected = written(made, prefixes, memory[study], MASK[study], SceneGraph(**picked))[:, -1]
        torch.testing.assert_close(made.step(tokens, state), expected, atol=1e-5, rtol=1e-4)
        rows = torch.randint(0, 3, (6,), generator=generator) + 3 * study
        state.reorder(rows)
        prefixes = prefixes[rows]


def test_no_word_sees_those_after_it(memory, graph):
    made, changed = decoder({}), TOKENS.clone()
    changed[:, 4:] = 0
    before, after = written(made, TOKENS, memory, MASK, graph), written(made, changed, memory, MASK, graph)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])


def test_masked_patches_change_nothing(memory, graph):
    made = decoder({})
    garbage = torch.where(MASK.unsqueeze(-1), memory, 40.0)
    torch.testing.assert_close(written(made, TOKENS, garbage, MASK, graph), written(made, TOKENS, memory, MASK, graph))


def test_study_without_subgraph_skips_the_graph(memory, graph):
    made = decoder({})
    with_graph, without = written(made, TOKENS, memory, MASK, graph), written(made, TOKENS, memory, MASK, None)
    torch.testing.assert_close(with_graph[1], without[1])
    assert not torch.allclose(with_graph[0], without[0])


def test_decoder_without_graph_attention_ignores_graphs(memory, graph):
    made = decoder(None)
    assert torch.equal(written(made, TOKENS, memory, MASK, graph), written(made, TOKENS, memory, MASK, None))
    assert made.start(memory, MASK, graph, 2, LONGEST).graph_memories is None


def test_words_are_not_tied_to_their_embedding():
    made = decoder(None)
    assert made.word_head.weight.data_ptr() != made.embedding.tokens.weight.data_ptr()


def test_more_words_than_positions_is_an_error(memory):
    made = decoder(None)
    with pytest.raises(ValueError, match="a report of 8 tokens, but the model has 7 positions"):
        written(made, torch.zeros(2, 8, dtype=torch.long), memory, MASK, None)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_padding_changes_no_real_word(settings, memory, graph):
    made = decoder(settings)
    real = torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
    packed = made(TOKENS, Packing.from_mask(real), memory, MASK, graph)
    assert packed.shape == (7 + 3, WORDS)
    torch.testing.assert_close(packed, written(made, TOKENS, memory, MASK, graph)[real])


@pytest.mark.parametrize("settings", SETTINGS[1:], ids=str)
def test_region_attention_is_a_distribution_over_the_subgraphs_of_the_study(settings, memory, graph):
    token_mask = torch.ones_like(TOKENS, dtype=torch.bool)
    token_mask[0, 5:] = False
    made = decoder(settings)
    packing = Packing.from_mask(token_mask)
    logits, log_weights = made.with_region_attention(TOKENS, packing, memory, MASK, graph)
    assert torch.equal(logits, made(TOKENS, packing, memory, MASK, graph))
    weights = log_weights.exp()
    assert weights.shape == (*TOKENS.shape, SELECTED.shape[1])
    torch.testing.assert_close(weights[0, :5].sum(-1), torch.ones(5))
    assert weights[0, :5, 0].min() > 0 and not weights[0, :, 1].any()  # the middle region has no sub-graph
    assert not weights[1].any()  # a study without sub-graph


def test_region_attention_is_where_the_answer_comes_from(memory, graph):
    """With one-hot values the output of attention equals its weights."""
    made = decoder({})
    attention = made.layers[0].graph_attention
    rows = torch.randn(2, 4, WIDTH, generator=torch.Generator().manual_seed(3))
    projected = attention.project(graph)
    with torch.no_grad():
        attention.attention.output.weight.copy_(torch.eye(WIDTH))
        attention.attention.output.bias.zero_()
        projected.values = torch.eye(3, WIDTH // 2).expand(2, 2, -1, -1)  # head h: region r -> unit vector r
        answer = attention.attention.attend(attention.norm(rows), projected.keys, projected.values, projected.mask)
        by_head = answer.unflatten(-1, (2, -1))[..., :3]  # [B, Q, h, R]
        found = attention.region_log_weights(rows, projected).exp()  # [B, h, Q, R]
        torch.testing.assert_close(found.transpose(1, 2), by_head)
