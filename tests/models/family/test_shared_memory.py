"""The memory that patches and words share: its formula, and the rows that respond."""

import pytest
import torch
import torch.nn.functional as F

from models.family.cross_modal_memory import CrossModalMemory

WIDTH, HEADS = 8, 2


def cross_modal_memory(rows: int = 6, responding: int = 2, dropout: float = 0.0) -> CrossModalMemory:
    torch.manual_seed(0)
    made = CrossModalMemory(WIDTH, rows, HEADS, responding, dropout)
    torch.nn.init.normal_(made.memory)
    return made


def rows() -> torch.Tensor:
    return torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(1))


def test_rows_that_match_best_respond_head_by_head():
    made, x = cross_modal_memory(), rows()
    expected = torch.zeros(3, 5, WIDTH)
    keys, values = made.key(made.memory), made.value(made.memory)
    for study in range(3):
        for place in range(5):
            for head in range(HEADS):
                channels = slice(4 * head, 4 * head + 4)
                scores = keys[:, channels] @ made.query(x)[study, place, channels] / 2.0
                best = scores.argsort(descending=True)[:2]
                expected[study, place, channels] = F.softmax(scores[best], 0) @ values[best][:, channels]
    bound = made.for_studies()
    torch.testing.assert_close(bound.to_patches(x), x + made.output(expected))
    torch.testing.assert_close(bound.to_words(x), x + made.output(expected))
    torch.testing.assert_close(bound.patch_response, made.output(expected))


def test_gradient_reaches_the_responding_rows_alone():
    made = cross_modal_memory(rows=30)
    made.for_studies().to_patches(rows()[:1, :1]).sum().backward()
    assert 2 <= int((made.memory.grad != 0).any(-1).sum()) <= 4  # each of the two heads reads 2


def test_rows_that_are_not_allowed_do_not_respond():
    made, x = cross_modal_memory(), rows()
    bound = made.for_studies()
    bound.allowed = torch.tensor([[True] * 6, [False, True, True, False, True, False], [False] * 6])
    response = made.respond(x, bound.keys, bound.values, bound.allowed)
    torch.testing.assert_close(response[0], made.respond(x[:1], bound.keys, bound.values, None)[0])
    few = [1, 2, 4]
    torch.testing.assert_close(response[1], made.respond(x[1:2], bound.keys[few], bound.values[few], None)[0])
    torch.testing.assert_close(response[2], made.output(made.value.bias).expand(5, -1))


def test_fewer_rows_than_respond_all_count():
    one_row_allowed = torch.tensor([[True, False, False, False, False, False]])
    made = cross_modal_memory(responding=4)
    bound = made.for_studies()
    response = made.respond(rows()[:1], bound.keys, bound.values, one_row_allowed)
    torch.testing.assert_close(response, made.output(bound.values[0].flatten()).expand(1, 5, -1))


def test_dropout_acts_on_weights_in_training_alone():
    made, x = cross_modal_memory(dropout=0.5), rows()
    bound = made.for_studies()
    assert not torch.equal(bound.to_words(x), bound.to_words(x))
    made.eval()
    assert torch.equal(bound.to_words(x), bound.to_words(x))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(AssertionError, match="width 8 is not a multiple of 3 memory heads"):
        CrossModalMemory(8, 6, 3, 2)
    with pytest.raises(AssertionError, match="the best 7 of 6 memory rows"):
        CrossModalMemory(8, 6, 2, 7)
