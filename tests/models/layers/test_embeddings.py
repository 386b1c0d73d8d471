"""Word embeddings and sinusoidal positions."""

import math

import pytest
import torch

from models.layers.embeddings import WordEmbedding, sinusoidal_positions


def test_positions_follow_the_formula():
    table = sinusoidal_positions(9, 6)
    assert table.shape == (9, 6)
    for position in (0, 1, 8):
        for pair in range(3):
            angle = position / 10000 ** (2 * pair / 6)
            assert table[position, 2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, 2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_embedding_is_scaled_and_placed():
    torch.manual_seed(0)
    embedding = WordEmbedding(7, 4, longest=5)
    ids = torch.tensor([[3, 0, 6]])
    expected = embedding.tokens.weight[ids[0]] * 2.0 + sinusoidal_positions(5, 4)[:3]
    torch.testing.assert_close(embedding(ids)[0], expected)


def test_words_one_by_one_get_the_positions_of_the_whole():
    torch.manual_seed(0)
    embedding, ids = WordEmbedding(7, 4, longest=5), torch.tensor([[3, 0, 6, 6, 1]])
    one_by_one = [embedding(ids[:, i : i + 1], first_position=i) for i in range(5)]
    torch.testing.assert_close(torch.cat(one_by_one, 1), embedding(ids))


def test_report_longer_than_the_table_is_an_error():
    embedding = WordEmbedding(7, 4, longest=5)
    with pytest.raises(ValueError, match="a report of 6 tokens, but the model has 5 positions"):
        embedding(torch.zeros(1, 6, dtype=torch.long))
    with pytest.raises(ValueError, match="6 tokens"):
        embedding(torch.zeros(1, 1, dtype=torch.long), first_position=5)


def test_positions_are_no_weights():
    assert list(WordEmbedding(7, 4, longest=5).state_dict()) == ["tokens.weight"]


def test_odd_width_is_refused():
    with pytest.raises(AssertionError, match="even width, not 5"):
        WordEmbedding(7, 5, longest=5)
