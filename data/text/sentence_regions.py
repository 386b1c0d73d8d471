"""What the sentences of a cleaned report are about: the regions of each word, and whether its sentence compares.

A finding in a zone of the lung is also a finding of the lung. Here only the zone counts.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data.ontology import Anatomy
from data.sections.marked_text import MARKERS, mark_sections, split_sections
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

_EARLIER = r"(?:prior|previous|earlier|preceding|last|most recent|yesterday)"
_STUDY = r"(?:studies|study|(?:examination|exam|radiograph|film|image|prior)s?|x-rays?)"
# General remarks: what the images were compared with, and that nothing has changed, without naming a region.
_REMARK = re.compile(
    rf"\bcompar(?:ed|ison) (?:(?:is|was) )?(?:made )?(?:with|to) (?:\w+ ){{0,3}}?(?:{_EARLIER}|{_STUDY})\b"
    rf"|^(?!.*\b(?:no|not)\b).*\b{_EARLIER} (?:\w+ ){{0,2}}?{_STUDY} (?:is|are|was|were) available\b"
    r"|\binterval (?:change|development|progression|improvement|worsening)\b"
)


def word_regions(report: str, anatomy: Anatomy) -> NDArray:
    """Return the regions that each word is about, [words, R] bool.

    report  cleaned: full stops are separate words and end sentences; markers of sections are about no region
    """
    words = report.split()
    regions = np.zeros((len(words), len(anatomy.regions)), dtype=bool)
    for span in _sentence_spans(words):
        names = _regions_of(" ".join(words[span]))
        regions[span] = [name in names for name in anatomy.names]
    return regions


def word_comparisons(report: str) -> NDArray:
    """Return whether the sentence of each word compares with an earlier study, [words] bool.

    It states the change of a region, or remarks in general that there is an earlier study.

    report  cleaned, as for `word_regions`
    """
    words = report.split()
    compares = np.zeros(len(words), dtype=bool)
    for span in _sentence_spans(words):
        compares[span] = _compares(" ".join(words[span]))
    return compares


def without_remarks(report: str) -> str:
    """Return a cleaned report without its general remarks on an earlier study.

    Sentences that also state something of this study stay, and sections that would be empty are left out. What
    consists of remarks alone becomes "".
    """
    words = report.split()
    remarks = [span for span in _sentence_spans(words) if _is_remark(" ".join(words[span]))]
    for span in reversed(remarks):
        del words[span]
    text = " ".join(words)
    return mark_sections(sections) if (sections := split_sections(text)) else text


def _sentence_spans(words: list[str]) -> Iterator[slice]:
    """Yield the positions of each sentence; markers of sections belong to none."""
    start = 0
    for position, word in enumerate(words):
        if word in MARKERS.values():
            if start < position:
                yield slice(start, position)
            start = position + 1
        elif word == SENTENCE_END or position == len(words) - 1:
            yield slice(start, position + 1)
            start = position + 1


@lru_cache(maxsize=1 << 16)
def _compares(sentence: str) -> bool:
    states_change = any(part.changes_of(region) for part in read_report(sentence) for region in part.regions)
    return states_change or _REMARK.search(sentence) is not None


@lru_cache(maxsize=1 << 16)
def _is_remark(sentence: str) -> bool:
    says_more = any(part.regions or part.findings for part in read_report(sentence))
    return not says_more and _REMARK.search(sentence) is not None


@lru_cache(maxsize=1 << 16)  # reports repeat sentences, and every epoch repeats the reports
def _regions_of(sentence: str) -> frozenset[str]:
    """Return the regions that the sentence is about; regions of which it names a part are left out."""
    report = read_report(sentence)
    names = {name for part in report for name in part.regions}
    # The ribs are not one of the 29 regions: in the image they overlap the lung of their side.
    names |= {f"{finding.side} lung" for part in report for finding in part.findings if "ribs" in finding.regions}
    return frozenset(name for name in names if not names & _PARTS.get(name, frozenset()))
