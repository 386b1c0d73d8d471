"""Labelers extract the 14 observations from a report: one interface for our rules and for trained labelers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from data.ontology import observation_names
from data.processes.worker_pool import ordered_map
from data.text.report_labels import label_report

Item = TypeVar("Item")

# Number of reports that a worker process receives at once.
_CHUNK_SIZE = 64


class ReportLabeler(Protocol):
    """Labels reports with the 14 observations.

    name   the labeler's name in results
    """

    name: str

    def label(self, reports: Sequence[str]) -> list[dict[str, int]]:
        """Return the observations that each report mentions: name -> 1 (present), 0 (absent) or -1 (uncertain)."""


@dataclass(frozen=True)
class RuleLabeler:
    """The rules of `data/labeler.py`, run in `workers` processes; their number does not change the labels."""

    workers: int = 1
    name: str = "rules"

    def label(self, reports: Sequence[str]) -> list[dict[str, int]]:
        """See `ReportLabeler.label`."""
        chunks = ordered_map(_label_all, split_into_chunks(reports), self.workers)
        return [labels for chunk in chunks for labels in chunk]


def split_into_chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Split `items` (reports) into chunks large enough to be worth sending to another process."""
    return (items[start : start + _CHUNK_SIZE] for start in range(0, len(items), _CHUNK_SIZE))


def _label_all(reports: Sequence[str]) -> list[dict[str, int]]:
    return [label_report(report) for report in reports]


def positive_mask(labels: Sequence[dict[str, int]], uncertain: bool) -> NDArray:
    """Return [reports, 14] bool: the observation is present or, with `uncertain`, present or uncertain."""
    values = (1, -1) if uncertain else (1,)
    names = observation_names()
    mask = np.array([[each.get(name) in values for name in names] for each in labels], dtype=bool)
    return mask.reshape(len(labels), len(names))


def merge_labels_by_study(labels: Sequence[dict[str, int]], studies: NDArray) -> list[dict[str, int]]:
    """Merge the labels of each study's reports: present wins over uncertain, and uncertain over absent.

    No Finding is the other way round: it holds for a study only if it holds for all its reports that have a label for
    it. A study has no label for an observation that none of its reports has a label for.
    studies [reports] int: the study of every report, numbered 0, 1, ...
    """
    merged: list[dict[str, int]] = [{} for _ in range(int(studies.max()) + 1)]
    for study, report_labels in zip(studies, labels, strict=True):
        for name, value in report_labels.items():
            candidates = {value, merged[study].get(name, value)}
            by_strength = (0, -1, 1) if name == "No Finding" else (1, -1, 0)
            merged[study][name] = next(strongest for strongest in by_strength if strongest in candidates)
    return merged


def fill_missing_no_finding(labels: Sequence[dict[str, int]]) -> list[dict[str, int]]:
    """Return `labels` with No Finding set to 0 where missing: a text without that label does not state normality."""
    return [{"No Finding": 0} | each for each in labels]
