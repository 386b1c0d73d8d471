"""The cache of written tokens against a plain list of each hypothesis's keys."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from models.token_cache import TokenCache

STUDIES, HEADS, CHANNELS, LONGEST, LAYERS = 2, 2, 3, 5, 2


def empty_cache(beams: int) -> TokenCache:
    return TokenCache.for_memories([torch.zeros(STUDIES, HEADS, 4, CHANNELS)] * LAYERS, beams, LONGEST)


def random_tokens(beams: int, generator: torch.Generator) -> torch.Tensor:
    """Keys [B, h, beams, d] of one position."""
    return torch.randn(STUDIES, HEADS, beams, CHANNELS, generator=generator)


@settings(deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(0, 100))
def test_every_beam_sees_the_tokens_of_its_hypothesis(data, beams, seed):
    generator = torch.Generator().manual_seed(seed)
    cache = empty_cache(beams)
    hypotheses = {(study, beam): [] for study in range(STUDIES) for beam in range(beams)}
    for _ in range(LONGEST):
        cache.advance()
        for layer in range(LAYERS):
            new = random_tokens(beams, generator)
            keys, values = cache.append(layer, new, -new)
        for (study, beam), tokens in hypotheses.items():
            tokens.append(new[study, :, beam])  # of the last layer
            visible = cache.mask().allowed[study, beam] if beams > 1 else slice(None)
            assert torch.equal(keys[study][:, visible], torch.stack(tokens, 1))
            assert torch.equal(values[study][:, visible], -torch.stack(tokens, 1))
        parents = data.draw(st.lists(st.integers(0, beams - 1), min_size=STUDIES * beams, max_size=STUDIES * beams))
        rows = torch.tensor([row // beams * beams + parent for row, parent in enumerate(parents)])
        cache.reorder(rows)
        hypotheses = {
            (study, beam): list(hypotheses[study, parents[study * beams + beam]]) for study, beam in hypotheses
        }


@pytest.mark.parametrize("beams", [2, 3])
def test_one_slot_per_position_is_visible_and_none_beyond(beams):
    cache = empty_cache(beams)
    for length in range(1, LONGEST + 1):
        cache.advance()
        by_position = cache.visible.unflatten(-1, (LONGEST, beams)).sum(-1)  # [B, beams, longest]
        assert (by_position[..., :length] == 1).all() and not by_position[..., length:].any()
        cache.reorder(torch.tensor([study * beams for study in range(STUDIES) for _ in range(beams)]))


def test_written_keys_are_never_moved():
    generator, cache = torch.Generator().manual_seed(0), empty_cache(2)
    cache.advance()
    first, _ = cache.append(0, *(random_tokens(2, generator) for _ in range(2)))
    before = first.clone()
    cache.reorder(torch.tensor([1, 0, 3, 3]))
    cache.advance()
    both, _ = cache.append(0, *(random_tokens(2, generator) for _ in range(2)))
    assert torch.equal(both[:, :, :2], before) and both.shape[2] == 4


def test_a_single_beam_needs_no_mask():
    cache = empty_cache(1)
    cache.advance()
    assert cache.mask() is None
