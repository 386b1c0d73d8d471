"""Agreement of the scene graphs that generated and reference reports describe.

`data/text_graph.py` reads triples (region, attribute, polarity) from both texts, such as (left lung, pleural effusion,
no). A generated triple is correct if the reference has it too.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data.processes.worker_pool import ordered_map
from data.text.report_graph import read_report, scene_graph
from modules.evaluation.metrics.labelers import split_into_chunks
from modules.evaluation.metrics.multilabel import example_values, label_table, macro_scores, micro_scores
from modules.evaluation.metrics.weighted import ScoreSet

NAMES = ("triple_precision", "triple_recall", "triple_f1", "triple_region_f1", "triple_attribute_f1")
TABLES = ("triples by region", "triples by attribute")

_UNDEFINED = "no reference report describes a region"

# (region, category|label, "yes" or "no")
Triple = tuple[str, str, str]


def extract_triples(reports: Sequence[str], workers: int = 1) -> list[frozenset[Triple]]:
    """Return the triples of every report, using `workers` processes."""
    chunks = ordered_map(_extract_from_chunk, split_into_chunks(reports), workers)
    return [triples for chunk in chunks for triples in chunk]


def abnormal_regions(triples: frozenset[Triple]) -> set[str]:
    """Return the regions with a finding."""
    return {region for region, attribute, polarity in triples if (attribute, polarity) == ("nlp|abnormal", "yes")}


def triple_scores(references: Sequence[frozenset[Triple]], generated: Sequence[frozenset[Triple]]) -> ScoreSet:
    """Return precision, recall and F1 of all triples of all studies pooled, and the mean F1 over regions and
    attributes.

    The means are over the regions, and the attributes, of the reference triples.
    """
    _, pooled = _group_counts(references, generated, lambda triple: "all")
    regions, by_region = _group_counts(references, generated, lambda triple: triple[0])
    attributes, by_attribute = _group_counts(references, generated, lambda triple: triple[1])
    scores = {f"triple_{measure}": score for measure, score in micro_scores(pooled).items()}
    scores["triple_region_f1"] = macro_scores(by_region)["f1"]
    scores["triple_attribute_f1"] = macro_scores(by_attribute)["f1"]
    return ScoreSet(
        {name: replace(score, undefined_reason=_UNDEFINED) for name, score in scores.items()},
        per_study={"triple_f1": example_values(pooled)["f1"]},
        tables={TABLES[0]: label_table(by_region, regions), TABLES[1]: label_table(by_attribute, attributes)},
    )


def _group_counts(
    references: Sequence[frozenset[Triple]], generated: Sequence[frozenset[Triple]], group: Callable[[Triple], str]
) -> tuple[list[str], NDArray]:
    """Return the sorted names of all groups, and `multilabel.label_counts` of their triples, [studies, groups, 3]."""
    names = sorted({group(triple) for triples in (*references, *generated) for triple in triples})
    index = {name: number for number, name in enumerate(names)}
    counts = np.zeros((len(references), len(names), 3))
    for study, (reference, predicted) in enumerate(zip(references, generated, strict=True)):
        for column, triples in enumerate((reference & predicted, predicted, reference)):
            for triple in triples:
                counts[study, index[group(triple)], column] += 1
    return names, counts


def _extract_from_chunk(reports: Sequence[str]) -> list[frozenset[Triple]]:
    return [_extract_from_report(report) for report in reports]


def _extract_from_report(report: str) -> frozenset[Triple]:
    triples = set()
    for region, description in scene_graph(read_report(report))["regions"].items():
        for attribute in description["attributes"]:
            category, polarity, label = attribute.split("|")
            triples.add((region, f"{category}|{label}", polarity))
    return frozenset(triples)
