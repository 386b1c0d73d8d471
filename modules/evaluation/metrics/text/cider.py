"""CIDEr-D, the consensus of n-grams weighed by how few reports hold them (Vedantam et al., CVPR 2015).

The arithmetic is pycocoevalcap's; its scorer can take document frequencies from the references it scores only.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LONGEST = 4  # of the n-grams
_SIGMA = 6.0  # words of difference in length that the penalty forgives
_SCALE = 10.0

Ngram = tuple[str, ...]


@dataclass(frozen=True)
class DocumentFrequencies:
    """How many of `documents` reports hold each n-gram; `source` says which reports they are."""

    source: str
    documents: int
    counts: Counter[Ngram]

    @classmethod
    def of(cls, reports: Iterable[str], source: str) -> "DocumentFrequencies":
        """Counted in `reports`."""
        counts: Counter[Ngram] = Counter()
        documents = 0
        for report in reports:
            documents += 1
            counts.update(ngrams(report).keys())
        return cls(source, documents, counts)


def ngrams(text: str) -> Counter[Ngram]:
    """How often each run of 1 to 4 words occurs in `text`."""
    words = text.split()
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, _LONGEST + 1)
        for start in range(len(words) - length + 1)
    )


def cider_scores(references: Sequence[str], hypotheses: Sequence[str], frequencies: DocumentFrequencies) -> NDArray:
    """[N] 0..10: CIDEr-D of every hypothesis against its reference; their mean is the score of all."""
    return np.array([
        _similarity(_Vector(hypothesis, frequencies), _Vector(reference, frequencies))
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ])


class _Vector:
    """The n-grams of a text, each weighed by its count and by the logarithm of its inverse document frequency.

    weights  by length of the n-grams, 1 to 4; norms: of each of these vectors
    length   number of pairs of words, which stands for the length of the text
    """

    def __init__(self, text: str, frequencies: DocumentFrequencies):
        everything = math.log(frequencies.documents) if frequencies.documents else 0.0
        self.weights: list[dict[Ngram, float]] = [{} for _ in range(_LONGEST)]
        squares = [0.0] * _LONGEST
        self.length = 0
        for ngram, count in ngrams(text).items():
            size = len(ngram) - 1
            weight = count * (everything - math.log(max(1, frequencies.counts[ngram])))
            self.weights[size][ngram] = weight
            squares[size] += weight**2
            self.length += count * (size == 1)
        self.norms = [math.sqrt(square) for square in squares]


def _similarity(hypothesis: _Vector, reference: _Vector) -> float:
    """The mean over n-gram lengths of the clipped cosine, times a penalty for a difference in length."""
    total = 0.0
    for size in range(_LONGEST):
        product = sum(
            min(weight, reference.weights[size].get(ngram, 0.0)) * reference.weights[size].get(ngram, 0.0)
            for ngram, weight in hypothesis.weights[size].items()
        )
        norms = hypothesis.norms[size] * reference.norms[size]
        total += product / norms if norms else product
    penalty = math.exp(-((hypothesis.length - reference.length) ** 2) / (2 * _SIGMA**2))
    return _SCALE * penalty * total / _LONGEST
