"""Beam search on plain lists, one study at a time, every prefix scored from scratch."""

from collections.abc import Callable

import torch
from torch import Tensor

Logits = Callable[[list[int]], Tensor]  # the tokens so far, without BOS -> next-token logits [W]


def allowed_log_probs(logits: Tensor, forbidden: set[int]) -> Tensor:
    """Log-probabilities with the tokens of `forbidden` excluded."""
    allowed = torch.tensor([word not in forbidden for word in range(len(logits))])
    return torch.log_softmax(logits.double().masked_fill(~allowed, -torch.inf), -1)


def reference_search(
    logits: Logits, beams: int, longest: int, eos_id: int, forbidden: set[int]
) -> tuple[list[int], float, list[float]]:
    """The tokens of the best hypothesis, its score, and the log-probability of each token."""
    hypotheses: list[tuple[list[int], list[float]]] = [([], [])]

    def finished(words: list[int]) -> bool:
        return bool(words) and words[-1] == eos_id

    def score(hypothesis: tuple[list[int], list[float]]) -> float:
        return sum(hypothesis[1]) / len(hypothesis[1])

    for _ in range(longest):
        candidates = []
        for words, log_probs in hypotheses:
            if finished(words):
                candidates.append((words, log_probs))
                continue
            following = allowed_log_probs(logits(words), forbidden)
            for word in following.argsort(descending=True)[:beams].tolist():
                if word not in forbidden:
                    candidates.append(([*words, word], [*log_probs, following[word].item()]))
        hypotheses = sorted(candidates, key=score, reverse=True)[:beams]
        if all(finished(words) for words, _ in hypotheses):
            break
    best = max(hypotheses, key=score)
    return best[0], score(best), best[1]


def greedy(logits: Logits, longest: int, eos_id: int, forbidden: set[int]) -> list[int]:
    """Greedy decoding: the most probable token at every step."""
    words: list[int] = []
    while len(words) < longest and (not words or words[-1] != eos_id):
        words.append(int(allowed_log_probs(logits(words), forbidden).argmax()))
    return words
