"""CIDEr-D, a consensus of n-grams weighted by how few reports contain them (Vedantam et al., CVPR 2015).

Computes the same values as pycocoevalcap, whose scorer can only count document frequencies in the references it scores.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MAX_LENGTH = 4  # of n-grams, in words
_SIGMA = 6.0  # width of the length penalty, in words
_SCALE = 10.0

Ngram = tuple[str, ...]


@dataclass(frozen=True)
class DocumentFrequencies:
    """How many of a collection of reports contain each n-gram.

    source     which reports these are ("references", "training reports")
    documents  number of reports
    counts     n-gram -> number of reports that contain it
    """

    source: str
    documents: int
    counts: Counter[Ngram]

    @classmethod
    def from_reports(cls, reports: Iterable[str], source: str) -> "DocumentFrequencies":
        """Count the n-grams of `reports`."""
        counts: Counter[Ngram] = Counter()
        documents = 0
        for report in reports:
            documents += 1
            counts.update(count_ngrams(report).keys())
        return cls(source, documents, counts)


def count_ngrams(text: str) -> Counter[Ngram]:
    """Count the n-grams of 1 to 4 words in `text`."""
    words = text.split()
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, _MAX_LENGTH + 1)
        for start in range(len(words) - length + 1)
    )


def cider_scores(references: Sequence[str], hypotheses: Sequence[str], frequencies: DocumentFrequencies) -> NDArray:
    """Return CIDEr-D [reports], 0..10, of each hypothesis against its reference; the corpus score is their mean."""
    return np.array([
        _similarity(_TfIdfVector(hypothesis, frequencies), _TfIdfVector(reference, frequencies))
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ])


class _TfIdfVector:
    """The n-grams of a text, weighted by count and log inverse document frequency.

    weights  n-gram -> weight, in a separate vector for each n-gram length from 1 to 4
    norms    of these vectors
    length   number of bigrams, which CIDEr-D uses as the length of the text
    """

    def __init__(self, text: str, frequencies: DocumentFrequencies):
        log_documents = math.log(frequencies.documents) if frequencies.documents else 0.0
        self.weights: list[dict[Ngram, float]] = [{} for _ in range(_MAX_LENGTH)]
        squared_norms = [0.0] * _MAX_LENGTH
        self.length = 0
        for ngram, count in count_ngrams(text).items():
            order = len(ngram) - 1
            weight = count * (log_documents - math.log(max(1, frequencies.counts[ngram])))
            self.weights[order][ngram] = weight
            squared_norms[order] += weight**2
            self.length += count * (order == 1)
        self.norms = [math.sqrt(square) for square in squared_norms]


def _similarity(hypothesis: _TfIdfVector, reference: _TfIdfVector) -> float:
    """Return the mean clipped cosine over n-gram lengths, times a penalty for different text lengths."""
    total = 0.0
    for order in range(_MAX_LENGTH):
        product = sum(
            min(weight, reference.weights[order].get(ngram, 0.0)) * reference.weights[order].get(ngram, 0.0)
            for ngram, weight in hypothesis.weights[order].items()
        )
        norms = hypothesis.norms[order] * reference.norms[order]
        total += product / norms if norms else product
    penalty = math.exp(-((hypothesis.length - reference.length) ** 2) / (2 * _SIGMA**2))
    return _SCALE * penalty * total / _MAX_LENGTH
