"""Beam search, batch-wide and length-normalised; greedy and sampled decoding.

Shapes: B studies, K beams a study (rows of one study lie together), T tokens written at most, W words.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers.masking import all_true


class ReorderableState(Protocol):
    """What a step function remembers between words."""

    def reorder(self, rows: Tensor) -> None:
        """Let row i go on from the words of row rows[i]."""


@dataclass
class Hypotheses:
    """What the search wrote, the best of each study.

    token_ids [B, T] long: without BOS; EOS where it was written, padding after it
    scores [B]: summed log-probability / number of generated tokens, EOS counted
    token_log_probs [B, T]: of each written token, 0 after EOS
    """

    token_ids: Tensor
    scores: Tensor
    token_log_probs: Tensor


# step(token_ids [B * K], state) -> next-word logits [B * K, W]; the state moves on by one word.
Step = Callable[[Tensor, ReorderableState], Tensor]


def beam_search(
    step: Step, state: ReorderableState, studies: int, beams: int, longest: int, bos_id: int, eos_id: int, pad_id: int,
    device: torch.device,
) -> Hypotheses:
    """The best hypothesis of each study among `beams`.

    Hypotheses are ranked by summed log-probability / number of generated tokens (EOS counted). A finished hypothesis
    keeps its score and takes one slot; a live one is extended by its `beams` best words. The search ends when all slots
    are finished or `longest` words are written. One beam is greedy decoding.
    """
    rows = studies * beams
    tokens = torch.full((rows,), bos_id, device=device)
    written = torch.full((studies, beams, longest), pad_id, device=device)
    log_probs = torch.zeros(studies, beams, longest, device=device)
    sums = torch.full((studies, beams), -torch.inf, device=device)
    sums[:, 0] = 0.0  # all beams start alike: only the first may be extended at first
    lengths = torch.zeros(studies, beams, device=device)
    finished = torch.zeros(studies, beams, dtype=torch.bool, device=device)
    first_row = (torch.arange(studies, device=device) * beams).unsqueeze(1)

    for position in range(longest):
        words = _allowed_log_probs(step(tokens, state), bos_id, eos_id, pad_id)  # [B * K, W]
        best, best_ids = words.topk(min(beams, words.shape[-1]), dim=-1)  # [B * K, k]
        best, best_ids = best.view(studies, beams, -1), best_ids.view(studies, beams, -1)

        # Candidates: every live beam with each of its best words, every finished beam once, as it is.
        candidates = sums.unsqueeze(-1) + best  # [B, K, k]
        kept_as_is = torch.full_like(candidates, -torch.inf)
        kept_as_is[..., 0] = sums
        candidates = torch.where(finished.unsqueeze(-1), kept_as_is, candidates)
        candidate_lengths = (lengths + (~finished).to(lengths.dtype)).unsqueeze(-1)
        order = (candidates / candidate_lengths).flatten(1).topk(beams, dim=-1).indices  # [B, K]
        beam = order // best.shape[-1]

        was_finished = finished.gather(1, beam)
        word = best_ids.flatten(1).gather(1, order).masked_fill(was_finished, pad_id)
        word_log_prob = best.flatten(1).gather(1, order).masked_fill(was_finished, 0.0)
        sums = candidates.flatten(1).gather(1, order)
        lengths = candidate_lengths.squeeze(-1).gather(1, beam)
        written = written.gather(1, beam.unsqueeze(-1).expand_as(written))
        log_probs = log_probs.gather(1, beam.unsqueeze(-1).expand_as(log_probs))
        written[..., position] = word
        log_probs[..., position] = word_log_prob
        finished = was_finished | (word == eos_id)
        if all_true(finished):
            break
        state.reorder((first_row + beam).flatten())
        tokens = word.flatten()

    winner = (sums / lengths).argmax(-1)  # [B]
    pick = winner.view(-1, 1, 1).expand(-1, 1, longest)
    return Hypotheses(
        written.gather(1, pick).squeeze(1),
        (sums / lengths).gather(1, winner.unsqueeze(1)).squeeze(1),
        log_probs.gather(1, pick).squeeze(1),
    )


def sample(
    step: Step, state: ReorderableState, studies: int, longest: int, bos_id: int, eos_id: int, pad_id: int,
    device: torch.device, temperature: float = 1.0, generator: torch.Generator | None = None,
) -> Hypotheses:
    """One report a study, each word drawn from the model's distribution at `temperature` (> 0)."""
    assert temperature > 0, f"temperature {temperature} is not positive"
    tokens = torch.full((studies,), bos_id, device=device)
    written = torch.full((studies, longest), pad_id, device=device)
    log_probs = torch.zeros(studies, longest, device=device)
    finished = torch.zeros(studies, dtype=torch.bool, device=device)
    lengths = torch.zeros(studies, device=device)
    for position in range(longest):
        words = _allowed_log_probs(step(tokens, state), bos_id, eos_id, pad_id)
        drawn = torch.multinomial(F.softmax(words / temperature, -1), 1, generator=generator).squeeze(1)
        log_prob = words.gather(1, drawn.unsqueeze(1)).squeeze(1)
        written[:, position] = drawn.masked_fill(finished, pad_id)
        log_probs[:, position] = log_prob.masked_fill(finished, 0.0)
        lengths = lengths + (~finished).to(lengths.dtype)
        finished = finished | (drawn == eos_id)
        if all_true(finished):
            break
        tokens = drawn
    return Hypotheses(written, log_probs.sum(1) / lengths, log_probs)


def _allowed_log_probs(logits: Tensor, bos_id: int, eos_id: int, pad_id: int) -> Tensor:
    """Log-probabilities [rows, W] of the next word; padding and BOS are never written, unless they share EOS's id."""
    logits = logits.float()
    forbidden = [special for special in {bos_id, pad_id} if special != eos_id]
    if forbidden:
        logits = logits.index_fill(-1, torch.tensor(forbidden, device=logits.device), -torch.inf)
    return F.log_softmax(logits, -1)
