"""Which regions each word of a cleaned report is about: those of its sentence, as `data/text_graph.py` reads it."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data.text_graph import read_report
from data.vocabulary import Anatomy

SENTENCE_END = "."


def word_regions(report: str, anatomy: Anatomy) -> NDArray:
    """[W, R] bool for the W words of a cleaned report, in which full stops are words that end sentences."""
    words = report.split()
    regions = np.zeros((len(words), len(anatomy.regions)), dtype=bool)
    start = 0
    for position, word in enumerate(words):
        if word == SENTENCE_END or position == len(words) - 1:
            about = _regions_of(" ".join(words[start : position + 1]))
            regions[start : position + 1] = [name in about for name in anatomy.names]
            start = position + 1
    return regions


@lru_cache(maxsize=1 << 16)  # reports repeat their sentences, and training its reports
def _regions_of(sentence: str) -> frozenset[str]:
    """All regions that the sentence is about."""
    return frozenset(name for part in read_report(sentence) for name in part.regions)
