"""Searches on plain lists, one study at a time, every prefix scored from scratch."""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

Logits = Callable[[list[int]], Tensor]  # the tokens so far, without BOS -> next-token logits [W]
Hypothesis = tuple[list[int], list[float]]  # tokens and their log-probabilities


def allowed_log_probs(logits: Tensor, forbidden: set[int]) -> Tensor:
    """Log-probabilities with the tokens of `forbidden` excluded."""
    allowed = torch.tensor([token not in forbidden for token in range(len(logits))])
    return torch.log_softmax(logits.double().masked_fill(~allowed, -torch.inf), -1)


def score_of(hypothesis: Hypothesis) -> float:
    """The mean log-probability."""
    return sum(hypothesis[1]) / len(hypothesis[1])


def competing_search(logits: Logits, beams: int, longest: int, eos_id: int, forbidden: set[int]) -> Hypothesis:
    """The search of the textbooks, in which finished hypotheses compete with unfinished ones for `beams` places."""
    hypotheses: list[Hypothesis] = [([], [])]

    def is_finished(hypothesis: Hypothesis) -> bool:
        return hypothesis[0][-1:] == [eos_id]

    for _ in range(longest):
        candidates = []
        for hypothesis in hypotheses:
            if is_finished(hypothesis):
                candidates.append(hypothesis)
                continue
            tokens, log_probs = hypothesis
            following = allowed_log_probs(logits(tokens), forbidden)
            for token in following.argsort(descending=True)[:beams].tolist():
                if token not in forbidden:
                    candidates.append(([*tokens, token], [*log_probs, following[token].item()]))
        hypotheses = sorted(candidates, key=score_of, reverse=True)[:beams]
        if all(map(is_finished, hypotheses)):
            break
    return max(hypotheses, key=score_of)


def leading_search(logits: Logits, beams: int, longest: int, eos_id: int, forbidden: set[int]) -> Hypothesis:
    """The search of `models.beam_search.beam_search`."""
    unfinished: list[tuple[Hypothesis, bool]] = [(([], []), True)]  # and whether it leads
    ended_leading: list[Hypothesis] = []
    finished: list[Hypothesis] = []
    for _ in range(longest):
        extensions: list[tuple[Hypothesis, bool]] = []
        ends: list[Hypothesis] = []
        for (tokens, log_probs), leads in unfinished:
            following = allowed_log_probs(logits(tokens), forbidden)
            finished.append(([*tokens, eos_id], [*log_probs, following[eos_id].item()]))
            ends += [finished[-1]] * leads
            for token in set(range(len(following))) - forbidden - {eos_id}:
                extensions.append((([*tokens, token], [*log_probs, following[token].item()]), leads))
        competitors = [*ended_leading, *ends, *(hypothesis for hypothesis, leads in extensions if leads)]
        leading = sorted(competitors, key=score_of, reverse=True)[:beams]
        ended_leading = [hypothesis for hypothesis in leading if hypothesis[0][-1] == eos_id]
        unfinished = sorted(
            ((hypothesis, hypothesis in leading) for hypothesis, _ in extensions),
            key=lambda entry: (entry[1], score_of(entry[0])), reverse=True,
        )[:beams]
        if len(ended_leading) == len(leading):
            return max(finished, key=score_of)
    return max([*finished, *(hypothesis for hypothesis, _ in unfinished)], key=score_of)


def exhaustive_search(logits: Logits, longest: int, eos_id: int, forbidden: set[int]) -> Hypothesis:
    """The best of all reports of at most `longest` tokens."""
    words = len(logits([]))
    tokens = sorted(set(range(words)) - forbidden - {eos_id})
    reports = [[*body, eos_id] for length in range(longest) for body in product(tokens, repeat=length)]
    reports += [list(body) for body in product(tokens, repeat=longest)]

    def scored(report: list[int]) -> Hypothesis:
        steps = (allowed_log_probs(logits(report[:i]), forbidden) for i in range(len(report)))
        return report, [step[token].item() for step, token in zip(steps, report, strict=True)]

    return max(map(scored, reports), key=score_of)


def greedy(logits: Logits, longest: int, eos_id: int, forbidden: set[int]) -> list[int]:
    """The most probable token at every step."""
    tokens: list[int] = []
    while len(tokens) < longest and tokens[-1:] != [eos_id]:
        tokens.append(int(allowed_log_probs(logits(tokens), forbidden).argmax()))
    return tokens
