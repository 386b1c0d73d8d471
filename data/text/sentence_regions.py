"""The regions that each word of a cleaned report is about: those of its sentence.

A finding in a zone of the lung is also a finding of the lung. Here only the zone counts.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data.ontology import Anatomy
from data.text.report_graph import read_report

SENTENCE_END = "."
# Regions that contain other regions: whole -> parts.
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
    """Return the regions that each word is about, [words, R] bool.

    report  cleaned: full stops are separate words and end sentences
    """
    words = report.split()
    regions = np.zeros((len(words), len(anatomy.regions)), dtype=bool)
    start = 0
    for position, word in enumerate(words):
        if word == SENTENCE_END or position == len(words) - 1:
            names = _regions_of(" ".join(words[start : position + 1]))
            regions[start : position + 1] = [name in names for name in anatomy.names]
            start = position + 1
    return regions


@lru_cache(maxsize=1 << 16)  # reports repeat sentences, and every epoch repeats the reports
def _regions_of(sentence: str) -> frozenset[str]:
    """Return the regions that the sentence is about; regions of which it names a part are left out."""
    report = read_report(sentence)
    names = {name for part in report for name in part.regions}
    # The ribs are not one of the 29 regions: in the image they overlap the lung of their side.
    names |= {f"{finding.side} lung" for part in report for finding in part.findings if "ribs" in finding.regions}
    return frozenset(name for name in names if not names & _PARTS.get(name, frozenset()))
