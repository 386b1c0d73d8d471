"""Do generated reports describe the scene graph that the references describe?

Of both texts, `data/text_graph.py` reads triples (region, attribute, polarity), such as (left lung, pleural effusion,
no). A triple is right where the reference has it too.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data.text.report_graph import read_report, scene_graph
from data.worker_pool import ordered_map
from modules.evaluation.metrics.labelers import shares
from modules.evaluation.metrics.multilabel import example_values, label_table, macro_scores, micro_scores
from modules.evaluation.metrics.weighted import ScoreSet

NAMES = ("triple_precision", "triple_recall", "triple_f1", "triple_region_f1", "triple_attribute_f1")
TABLES = ("triples by region", "triples by attribute")

_UNDEFINED = "no reference report describes a region"

# Region, category|label, yes or no.
Triple = tuple[str, str, str]


def triples_of(reports: Sequence[str], workers: int = 1) -> list[frozenset[Triple]]:
    """The triples of every report, read by so many processes."""
    return [triples for share in ordered_map(_read, shares(reports), workers) for triples in share]


def abnormal_regions(triples: frozenset[Triple]) -> set[str]:
    """The regions that a report gives a finding."""
    return {region for region, attribute, polarity in triples if (attribute, polarity) == ("nlp|abnormal", "yes")}


def triple_scores(references: Sequence[frozenset[Triple]], generated: Sequence[frozenset[Triple]]) -> ScoreSet:
    """Precision, recall and F1 of all triples of N studies together, and F1 by region and by attribute (means).

    The means are over the regions, and over the attributes, that some reference has.
    """
    _, whole = _counts(references, generated, lambda triple: "all")
    regions, by_region = _counts(references, generated, lambda triple: triple[0])
    attributes, by_attribute = _counts(references, generated, lambda triple: triple[1])
    scores = {f"triple_{measure}": score for measure, score in micro_scores(whole).items()}
    scores["triple_region_f1"] = macro_scores(by_region)["f1"]
    scores["triple_attribute_f1"] = macro_scores(by_attribute)["f1"]
    return ScoreSet(
        {name: replace(score, undefined=_UNDEFINED) for name, score in scores.items()},
        per_study={"triple_f1": example_values(whole)["f1"]},
        tables={TABLES[0]: label_table(by_region, regions), TABLES[1]: label_table(by_attribute, attributes)},
    )


def _counts(
    references: Sequence[frozenset[Triple]], generated: Sequence[frozenset[Triple]], group: Callable[[Triple], str]
) -> tuple[list[str], NDArray]:
    """The groups that triples fall into, in alphabetical order, and [N, K, 3] as `multilabel.label_counts` has it."""
    names = sorted({group(triple) for triples in (*references, *generated) for triple in triples})
    position = {name: number for number, name in enumerate(names)}
    counts = np.zeros((len(references), len(names), 3))
    for study, (reference, written) in enumerate(zip(references, generated, strict=True)):
        for column, triples in enumerate((reference & written, written, reference)):
            for triple in triples:
                counts[study, position[group(triple)], column] += 1
    return names, counts


def _read(reports: Sequence[str]) -> list[frozenset[Triple]]:
    """The triples of some reports."""
    read = []
    for report in reports:
        triples = set()
        for region, said in scene_graph(read_report(report))["regions"].items():
            for attribute in said["attributes"]:
                category, polarity, label = attribute.split("|")
                triples.add((region, f"{category}|{label}", polarity))
        read.append(frozenset(triples))
    return read
