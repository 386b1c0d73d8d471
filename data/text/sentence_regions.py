"""Which regions each word of a cleaned report is about: those of its sentence, as `data/text_graph.py` reads it.

A finding in a zone is one of the lung as well. Only the zone counts here: the lung has what is found anywhere in it.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data.ontology import Anatomy
from data.text.report_graph import read_report

SENTENCE_END = "."
# Regions that hold others: {whole: parts}.
_PARTS = {
    f"{side} lung": frozenset(f"{side} {part}" for part in (
        "apical zone", "upper lung zone", "mid lung zone", "lower lung zone", "hilar structures", "costophrenic angle",
        "hemidiaphragm",
    ))
    for side in ("left", "right")
} | {
    "mediastinum": frozenset((
        "upper mediastinum", "cardiac silhouette", "aortic arch", "trachea", "carina", "svc", "right atrium",
        "cavoatrial junction",
    )),
}


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
    """The regions that the sentence is about, without those of which it names a part."""
    report = read_report(sentence)
    about = {name for part in report for name in part.regions}
    # Ribs are none of the 29 regions: they are seen over the lung of their side.
    about |= {f"{finding.side} lung" for part in report for finding in part.findings if "ribs" in finding.regions}
    return frozenset(name for name in about if not about & _PARTS.get(name, frozenset()))
