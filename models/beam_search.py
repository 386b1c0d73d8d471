"""Batched beam search with length normalisation; greedy and sampled decoding.

Shapes as in `models/outputs.py`. The beams of a study are rows next to each other, [B * beams].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers.packing import is_all_true


class ReorderableState(Protocol):
    """The state that a step function keeps between tokens."""

    def reorder(self, rows: Tensor) -> None:
        """Row i continues hypothesis rows[i]."""


@dataclass
class Hypotheses:
    """The best hypothesis of each study.

    token_ids        [B, T] long, without BOS; EOS unless the length limit was reached, then padding
    scores           [B]  summed log-probability / number of generated tokens, EOS counted
    token_log_probs  [B, T]  log-probability of each token, 0 after EOS
    """

    token_ids: Tensor
    scores: Tensor
    token_log_probs: Tensor


# step(token_ids [B * beams], state) -> next-token logits [B * beams, W]; advances the state by one token.
Step = Callable[[Tensor, ReorderableState], Tensor]


def beam_search(
    step: Step, state: ReorderableState, studies: int, beams: int, longest: int, bos_id: int, eos_id: int, pad_id: int,
    device: torch.device,
) -> Hypotheses:
    """Return the best hypothesis of each study.

    Hypotheses are ranked by summed log-probability / number of generated tokens (EOS counted). A finished hypothesis
    keeps its score and its place among the `beams`; an unfinished one is extended by its `beams` most probable tokens.
    The search ends when all hypotheses are finished or have `longest` tokens. One beam is greedy decoding.
    """
    rows = studies * beams
    tokens = torch.full((rows,), bos_id, device=device)
    token_ids = torch.full((studies, beams, longest), pad_id, device=device)
    log_probs = torch.zeros(studies, beams, longest, device=device)
    sums = torch.full((studies, beams), -torch.inf, device=device)
    sums[:, 0] = 0.0  # all beams start equal, so only the first is extended in the first step
    lengths = torch.zeros(studies, beams, device=device)
    finished = torch.zeros(studies, beams, dtype=torch.bool, device=device)
    first_row = (torch.arange(studies, device=device) * beams).unsqueeze(1)

    for position in range(longest):
        next_log_probs = _next_token_log_probs(step(tokens, state), bos_id, eos_id, pad_id)  # [B * beams, W]
        best, best_ids = next_log_probs.topk(min(beams, next_log_probs.shape[-1]), dim=-1)
        best, best_ids = best.view(studies, beams, -1), best_ids.view(studies, beams, -1)  # [B, beams, choices]

        # Candidates: each unfinished hypothesis with each of its best tokens, each finished one once and unchanged.
        candidates = sums.unsqueeze(-1) + best
        unchanged = torch.full_like(candidates, -torch.inf)
        unchanged[..., 0] = sums
        candidates = torch.where(finished.unsqueeze(-1), unchanged, candidates)
        candidate_lengths = (lengths + (~finished).to(lengths.dtype)).unsqueeze(-1)
        order = (candidates / candidate_lengths).flatten(1).topk(beams, dim=-1).indices  # [B, beams]
        parent = order // best.shape[-1]  # the hypothesis that each new one continues

        was_finished = finished.gather(1, parent)
        token = best_ids.flatten(1).gather(1, order).masked_fill(was_finished, pad_id)
        token_log_prob = best.flatten(1).gather(1, order).masked_fill(was_finished, 0.0)
        sums = candidates.flatten(1).gather(1, order)
        lengths = candidate_lengths.squeeze(-1).gather(1, parent)
        token_ids = token_ids.gather(1, parent.unsqueeze(-1).expand_as(token_ids))
        log_probs = log_probs.gather(1, parent.unsqueeze(-1).expand_as(log_probs))
        token_ids[..., position] = token
        log_probs[..., position] = token_log_prob
        finished = was_finished | (token == eos_id)
        if is_all_true(finished):
            break
        state.reorder((first_row + parent).flatten())
        tokens = token.flatten()

    winner = (sums / lengths).argmax(-1)  # [B]
    pick = winner.view(-1, 1, 1).expand(-1, 1, longest)
    return Hypotheses(
        token_ids.gather(1, pick).squeeze(1),
        (sums / lengths).gather(1, winner.unsqueeze(1)).squeeze(1),
        log_probs.gather(1, pick).squeeze(1),
    )


def sample(
    step: Step, state: ReorderableState, studies: int, longest: int, bos_id: int, eos_id: int, pad_id: int,
    device: torch.device, temperature: float = 1.0, generator: torch.Generator | None = None,
) -> Hypotheses:
    """Return one report per study, each token sampled from the model's distribution at `temperature` (> 0)."""
    assert temperature > 0, f"temperature {temperature} is not positive"
    tokens = torch.full((studies,), bos_id, device=device)
    token_ids = torch.full((studies, longest), pad_id, device=device)
    log_probs = torch.zeros(studies, longest, device=device)
    finished = torch.zeros(studies, dtype=torch.bool, device=device)
    lengths = torch.zeros(studies, device=device)
    for position in range(longest):
        next_log_probs = _next_token_log_probs(step(tokens, state), bos_id, eos_id, pad_id)
        sampled = torch.multinomial(F.softmax(next_log_probs / temperature, -1), 1, generator=generator).squeeze(1)
        log_prob = next_log_probs.gather(1, sampled.unsqueeze(1)).squeeze(1)
        token_ids[:, position] = sampled.masked_fill(finished, pad_id)
        log_probs[:, position] = log_prob.masked_fill(finished, 0.0)
        lengths = lengths + (~finished).to(lengths.dtype)
        finished = finished | (sampled == eos_id)
        if is_all_true(finished):
            break
        tokens = sampled
    return Hypotheses(token_ids, log_probs.sum(1) / lengths, log_probs)


def _next_token_log_probs(logits: Tensor, bos_id: int, eos_id: int, pad_id: int) -> Tensor:
    """Log-probabilities [rows, W] of the next token; padding and BOS are excluded unless they share the id of EOS."""
    logits = logits.float()
    excluded = [special for special in {bos_id, pad_id} if special != eos_id]
    if excluded:
        logits = logits.index_fill(-1, torch.tensor(excluded, device=logits.device), -torch.inf)
    return F.log_softmax(logits, -1)
