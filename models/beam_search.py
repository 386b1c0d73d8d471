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

# Added to the sums of leading hypotheses, so that they come before all others; larger than any sum.
_LEAD = 1e6


class ReorderableState(Protocol):
    """The state that a step function keeps between tokens."""

    def reorder(self, rows: Tensor) -> None:
        """Row i continues hypothesis rows[i]."""


# step(token_ids [B * beams], state) -> next-token logits [B * beams, W]; advances the state by one token.
Step = Callable[[Tensor, ReorderableState], Tensor]


@dataclass
class Hypotheses:
    """One report per study.

    token_ids        [B, T] long, without BOS; EOS unless the length limit was reached, then padding
    scores           [B]  summed log-probability / number of generated tokens, EOS counted
    token_log_probs  [B, T]  log-probability of each token, 0 after EOS
    """

    token_ids: Tensor
    scores: Tensor
    token_log_probs: Tensor


@dataclass
class Decoding:
    """What every way of decoding needs to know.

    studies, longest         number of reports, and the most tokens of one
    words                    W, the ids of the tokenizer
    bos_id, eos_id, pad_id   special tokens; BOS and padding are never generated unless they share the id of EOS
    excluded_ids             further tokens that are never generated
    """

    studies: int
    longest: int
    words: int
    bos_id: int
    eos_id: int
    pad_id: int
    device: torch.device
    excluded_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self._penalties = torch.zeros(self.words, device=self.device)
        for excluded in {self.bos_id, self.pad_id, *self.excluded_ids} - {self.eos_id}:
            self._penalties[excluded] = -torch.inf

    def log_probs(self, logits: Tensor) -> Tensor:
        """Log-probabilities [rows, W] of the next token, -inf for excluded ones."""
        return F.log_softmax(logits.float() + self._penalties, -1)

    def is_over(self, finished: Tensor, position: int) -> bool:
        """Whether all reports are `finished` (bool) after the step at `position`, as far as is known."""
        return (position + 1) % steps_between_checks(self.device) == 0 and is_all_true(finished)


def steps_between_checks(device: torch.device) -> int:
    """Every how many steps to ask whether all reports are finished. Asking makes the CPU wait for a GPU."""
    return 1 if device.type == "cpu" else 8


def beam_search(step: Step, state: ReorderableState, decoding: Decoding, beams: int) -> Hypotheses:
    """Return the best hypothesis of each study by summed log-probability / number of generated tokens (EOS counted).

    Each step extends `beams` unfinished hypotheses. Every way to end one of them is kept if it is the best so far, so
    a finished hypothesis is never lost and never takes the place of an unfinished one.

    Some of the hypotheses lead: those that would be left if finished and unfinished ones competed for `beams` places.
    They are always extended, the other places go to the next best unfinished hypotheses, and the search of a study ends
    when all that lead have ended, or after `longest` tokens. The result is therefore never worse than that of the
    competition, and equals an exhaustive search if there is a beam for every unfinished hypothesis.
    """
    shape, device, longest = (decoding.studies, beams), decoding.device, decoding.longest
    token_ids = torch.full((*shape, longest), decoding.pad_id, device=device)
    log_probs = torch.zeros(*shape, longest, device=device)
    sums = torch.full(shape, -torch.inf, device=device)
    sums[:, 0] = 0.0  # all beams start equal, so only the first is extended in the first step
    leads = sums == 0.0
    ended_leading = torch.full(shape, -torch.inf, device=device)  # scores of ended hypotheses that lead
    best = Hypotheses(
        token_ids[:, 0].clone(), torch.full(shape[:1], -torch.inf, device=device), log_probs[:, 0].clone()
    )
    first_row = (torch.arange(decoding.studies, device=device) * beams).unsqueeze(1)
    tokens = torch.full((decoding.studies * beams,), decoding.bos_id, device=device)

    for position in range(longest):
        next_log_probs = decoding.log_probs(step(tokens, state)).view(*shape, -1)  # [B, beams, W]
        is_running = leads.any(1)

        end_log_probs = next_log_probs[..., decoding.eos_id].clone()
        ended = (sums + end_log_probs) / (position + 1)
        _keep_best(best, is_running, ended, end_log_probs, token_ids, log_probs, position, decoding.eos_id)

        next_log_probs[..., decoding.eos_id] = -torch.inf
        extensions, extension_ids = next_log_probs.topk(min(beams, next_log_probs.shape[-1]), dim=-1)
        candidates = (sums.unsqueeze(-1) + extensions).flatten(1)  # [B, beams * choices]
        candidate_leads, ended_leading = _compete(candidates, ended, leads, ended_leading, position + 1)

        order = (candidates + candidate_leads * _LEAD).topk(beams, dim=-1).indices  # [B, beams]
        parent = order // extensions.shape[-1]  # the hypothesis that each new one continues
        token = extension_ids.flatten(1).gather(1, order)
        sums, leads = candidates.gather(1, order), candidate_leads.gather(1, order)
        token_ids = token_ids.gather(1, parent.unsqueeze(-1).expand_as(token_ids))
        log_probs = log_probs.gather(1, parent.unsqueeze(-1).expand_as(log_probs))
        token_ids[..., position] = token
        log_probs[..., position] = extensions.flatten(1).gather(1, order)
        if decoding.is_over(~leads, position):
            break
        state.reorder((first_row + parent).flatten())
        tokens = token.flatten()

    _keep_best(best, leads.any(1), sums / longest, log_probs[..., -1], token_ids, log_probs, longest - 1)
    return best


def _compete(
    candidates: Tensor, ended: Tensor, leads: Tensor, ended_leading: Tensor, length: int
) -> tuple[Tensor, Tensor]:
    """Which extensions lead, [B, beams * choices] bool, and the scores of ended hypotheses that lead [B, beams].

    For the `beams` places compete what has ended before (`ended_leading`), the endings of leading hypotheses (`ended`),
    and their extensions (`candidates`: sums), by score.
    """
    studies, beams = ended.shape
    is_extension_of_leading = leads.repeat_interleave(candidates.shape[1] // beams, 1)
    scores, winners = torch.cat([
        ended_leading,
        ended.masked_fill(~leads, -torch.inf),
        (candidates / length).masked_fill(~is_extension_of_leading, -torch.inf),
    ], 1).topk(beams, dim=-1)
    is_extension = (winners >= 2 * beams) & (scores > -torch.inf)
    # One more column takes the winners that are not extensions.
    column = torch.where(is_extension, winners - 2 * beams, candidates.shape[1])
    leading = torch.zeros(studies, candidates.shape[1] + 1, dtype=torch.bool, device=candidates.device)
    return leading.scatter(1, column, True)[:, :-1], scores.masked_fill(is_extension, -torch.inf)


def _keep_best(
    best: Hypotheses, is_running: Tensor, scores: Tensor, last_log_probs: Tensor, token_ids: Tensor, log_probs: Tensor,
    position: int, eos_id: int | None = None,
) -> None:
    """Replace what is in `best` where a hypothesis of a running search [B] is better.

    scores, last_log_probs [B, beams] are of the hypotheses token_ids, log_probs [B, beams, T] with a last token at
    `position`: EOS if `eos_id` is given, otherwise the token that is there.
    """
    score, beam = scores.max(1)
    is_better = is_running & (score > best.scores)
    pick = beam.view(-1, 1, 1).expand(-1, 1, token_ids.shape[-1])
    ids, probs = token_ids.gather(1, pick).squeeze(1), log_probs.gather(1, pick).squeeze(1)
    if eos_id is not None:
        ids[:, position] = eos_id
    probs[:, position] = last_log_probs.gather(1, beam.unsqueeze(1)).squeeze(1)
    best.token_ids = torch.where(is_better.unsqueeze(1), ids, best.token_ids)
    best.token_log_probs = torch.where(is_better.unsqueeze(1), probs, best.token_log_probs)
    best.scores = torch.where(is_better, score, best.scores)


def greedy_search(step: Step, state: ReorderableState, decoding: Decoding) -> Hypotheses:
    """Return one report per study, each token the most probable one."""
    return _write_one_by_one(step, state, decoding, lambda log_probs: log_probs.argmax(-1))


def sample(
    step: Step, state: ReorderableState, decoding: Decoding, temperature: float = 1.0,
    generator: torch.Generator | None = None, is_greedy: Tensor | None = None,
) -> Hypotheses:
    """Return one report per study, each token sampled from the model's distribution at `temperature` (> 0).

    is_greedy   [B] bool, the reports of which each token is the most probable one; None: no report
    """
    assert temperature > 0, f"temperature {temperature} is not positive"

    def draw(log_probs: Tensor) -> Tensor:
        drawn = torch.multinomial(F.softmax(log_probs / temperature, -1), 1, generator=generator).squeeze(1)
        return drawn if is_greedy is None else torch.where(is_greedy, log_probs.argmax(-1), drawn)

    return _write_one_by_one(step, state, decoding, draw)


def _write_one_by_one(
    step: Step, state: ReorderableState, decoding: Decoding, choose: Callable[[Tensor], Tensor]
) -> Hypotheses:
    """Extend one hypothesis per study by the token that `choose` picks from log-probabilities [B, W]."""
    studies, longest, device = decoding.studies, decoding.longest, decoding.device
    tokens = torch.full((studies,), decoding.bos_id, device=device)
    token_ids = torch.full((studies, longest), decoding.pad_id, device=device)
    log_probs = torch.zeros(studies, longest, device=device)
    finished = torch.zeros(studies, dtype=torch.bool, device=device)
    lengths = torch.zeros(studies, device=device)
    for position in range(longest):
        next_log_probs = decoding.log_probs(step(tokens, state))
        tokens = choose(next_log_probs)
        log_prob = next_log_probs.gather(1, tokens.unsqueeze(1)).squeeze(1)
        token_ids[:, position] = tokens.masked_fill(finished, decoding.pad_id)
        log_probs[:, position] = log_prob.masked_fill(finished, 0.0)
        lengths = lengths + (~finished).to(lengths.dtype)
        finished = finished | (tokens == decoding.eos_id)
        if decoding.is_over(finished, position):
            break
    return Hypotheses(token_ids, log_probs.sum(1) / lengths, log_probs)
