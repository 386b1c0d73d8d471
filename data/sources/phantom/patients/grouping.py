"""Which studies belong to one patient, and the splits of patients."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Distinguishes these draws from those of the splits of single studies.
_STREAM = 1


@dataclass(frozen=True)
class StudyOfPatient:
    """A study: its number in the data set, that of the patient's first study, and its position among the patient's."""

    number: int
    first: int

    @property
    def position(self) -> int:
        """0 for the patient's first study; the studies of a patient have consecutive numbers."""
        return self.number - self.first


def group_by_patient(studies: int, seed: int, priors: float) -> list[StudyOfPatient]:
    """Return the patient of every study; a share `priors` of the patients have two or three studies, the others one."""
    if priors == 0:
        return [StudyOfPatient(number, number) for number in range(studies)]
    rng = np.random.default_rng([seed, studies, _STREAM])
    grouped: list[StudyOfPatient] = []
    while len(grouped) < studies:
        first = len(grouped)
        count = int(rng.integers(2, 4)) if rng.random() < priors else 1
        grouped += [StudyOfPatient(number, first) for number in range(first, min(first + count, studies))]
    return grouped


def split_patients(grouped: list[StudyOfPatient], seed: int, counts: Mapping[str, int]) -> list[str]:
    """Return the split of every study, so that patients are in one split only.

    counts   split -> the number of studies from which it is full; the last split gets all others
    """
    firsts = sorted({study.first for study in grouped})
    sizes = np.bincount([study.first for study in grouped])
    order = np.random.default_rng([seed, len(grouped), _STREAM, 0]).permutation(firsts)
    *limited, last = counts
    split_of: dict[int, str] = {}
    filled = dict.fromkeys(counts, 0)
    for first in order.tolist():
        split = next((name for name in limited if filled[name] < counts[name]), last)
        split_of[first] = split
        filled[split] += int(sizes[first])
    return [split_of[study.first] for study in grouped]
