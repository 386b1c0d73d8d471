"""Who reads the 14 observations from a report: one interface for our rules and for trained labelers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data.ontology import observation_names
from data.text.report_labels import label_report
from data.worker_pool import ordered_map

# Reports that a worker process takes at a time.
_SHARE = 64


class ReportLabeler(Protocol):
    """Gives every report its labels.

    name   how results call it
    """

    name: str

    def label(self, reports: Sequence[str]) -> list[dict[str, int]]:
        """For every report: observation -> 1 (present), 0 (absent) or -1 (uncertain), those that it mentions."""


@dataclass(frozen=True)
class RuleLabeler:
    """The rules of `data/labeler.py`, in so many processes; their number changes no label."""

    workers: int = 1
    name: str = "rules"

    def label(self, reports: Sequence[str]) -> list[dict[str, int]]:
        """As `ReportLabeler.label`."""
        return [labels for share in ordered_map(_label, shares(reports), self.workers) for labels in share]


def shares(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """`texts` in parts that are worth sending to another process."""
    return (texts[start : start + _SHARE] for start in range(0, len(texts), _SHARE))


def _label(reports: Sequence[str]) -> list[dict[str, int]]:
    return [label_report(report) for report in reports]


def positives(labels: Sequence[dict[str, int]], uncertain: bool) -> NDArray:
    """[N, 14] bool: which observations the labels call present, or with `uncertain` present or uncertain."""
    values = (1, -1) if uncertain else (1,)
    return np.array([[each.get(name) in values for name in observation_names()] for each in labels], dtype=bool).reshape(
        len(labels), len(observation_names())
    )


def by_study(labels: Sequence[dict[str, int]], studies: NDArray) -> list[dict[str, int]]:
    """One study's labels for those of its images' reports: present wins over uncertain, uncertain over absent.

    studies [N] int, the study of every report: 0, 1, ... No Finding is the other way round, so it holds for a study if
    all its reports that have a label for it say so. What no report has a label for, the study has none for.
    """
    merged: list[dict[str, int]] = [{} for _ in range(int(studies.max()) + 1)]
    for study, each in zip(studies, labels, strict=True):
        for name, value in each.items():
            found = {value, merged[study].get(name, value)}
            strength = (0, -1, 1) if name == "No Finding" else (1, -1, 0)
            merged[study][name] = next(strongest for strongest in strength if strongest in found)
    return merged


def called_normal_or_not(labels: Sequence[dict[str, int]]) -> list[dict[str, int]]:
    """The `labels` of texts with one for No Finding: a report that a labeler gives none is not normal."""
    return [{"No Finding": 0} | each for each in labels]
