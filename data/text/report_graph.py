"""The scene graph that a report describes.

A report is split into sentences (`data/text/sentences.py`), each of which is read by itself
(`data/text/sentence_reader.py`); the graph collects what they state about every region.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from data.ontology import Anatomy, combine_changes
from data.text.findings import Sentence
from data.text.lexicon import Lexicon
from data.text.sentence_reader import read_sentence
from data.text.sentences import KEPT_LINES, split_sentences


def read_report(text: str) -> list[Sentence]:
    """Return what each sentence of a report states.

    Sentences without words and sections about history, comparison and technique are left out.
    """
    return [_read_line(line, words) for line, words in split_sentences(text)]


@lru_cache(KEPT_LINES)
def _read_line(line: str, words: tuple[str, ...]) -> Sentence:
    return replace(read_sentence(words), text=line)


def scene_graph(report: Sequence[Sentence]) -> dict:
    """Return a record's graph for the sentences of a report: {"regions": {name: ...}} with all 29 regions, no boxes.

    The last mention decides between conflicting polarities; a region is abnormal if any sentence calls it so; its
    `change` is left out if sentences state none, or several. In addition to a record's keys, each region has its
    `phrases`: the sentences about it.
    """
    return {"regions": {name: _region_entry(name, report) for name in Anatomy.load().names}}


def region_groups() -> dict[str, str]:
    """Return region -> "lung", "heart", "mediastinal" or "bone", for the 29 regions and those without a box."""
    return Lexicon.load().groups


def _region_entry(name: str, report: Sequence[Sentence]) -> dict:
    """Return the entry of one region in a graph."""
    sentences = [sentence for sentence in report if sentence.mentions(name)]
    attributes = [attribute for sentence in sentences for attribute in sentence.attributes_of(name)]
    polarities: dict[tuple[str, str], str] = {}
    for attribute in attributes:
        category, polarity, label = attribute.split("|")
        polarities[category, label] = polarity
    change = combine_changes(change for sentence in sentences for change in sentence.changes_of(name))
    return {
        "box": None,
        "mentioned": bool(sentences),
        "abnormal": "nlp|yes|abnormal" in attributes,
        "attributes": [f"{category}|{polarity}|{label}" for (category, label), polarity in polarities.items()],
        "phrases": [sentence.text for sentence in sentences],
        **({} if change is None else {"change": change}),
    }
