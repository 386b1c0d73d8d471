"""Priors: from each study to the latest earlier study of the same patient, checked while records are indexed."""

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError

_FIX = "correct the source's patients, times and priors, then prepare the data set again"


class PriorLinks:
    """Collects the records of a data set and resolves their `prior` ids."""

    def __init__(self) -> None:
        # Split and id -> patient, time, and position in the split.
        self._studies: dict[tuple[str, str], tuple[str | None, str | None, int]] = {}
        # Split, id, id of the prior, and the place of the record for messages.
        self._links: list[tuple[str, str, str, str]] = []

    def add(self, record: dict, where: str, position: int) -> None:
        """Add a record; `where` is its place for messages, `position` its number within its split."""
        self._studies[record["split"], record["id"]] = record.get("patient"), record.get("taken"), position
        prior = record.get("prior")
        if prior is not None:
            self._links.append((record["split"], record["id"], prior, where))

    def offsets(self, record_offsets: dict[str, NDArray]) -> dict[str, NDArray]:
        """Return split -> the offsets of each study's prior, zeros if it has none; without the splits without priors.

        A prior whose record was removed counts as none.

        record_offsets   split -> int64 [records, 2]

        Raises UserError if a prior is not in the same split, is of another patient, or was not taken earlier.
        """
        found: dict[str, NDArray] = {}
        for split, study, prior, where in self._links:
            position = self._check(split, study, prior, where)
            if position is None:
                continue
            rows = found.setdefault(split, np.zeros_like(record_offsets[split]))
            rows[self._studies[split, study][2]] = record_offsets[split][position]
        return found

    def _check(self, split: str, study: str, prior: str, where: str) -> int | None:
        """Return the position of the prior within the split; None if it is not in the data set.

        Raises UserError if it is not a valid prior.
        """
        patient, taken, _ = self._studies[split, study]
        place = f"{where}: study {study}"
        if (split, prior) not in self._studies:
            others = sorted(other for other, name in self._studies if name == prior)
            if not others:
                return None
            raise UserError(f"{place}: its prior {prior} is in the split '{others[0]}', not '{split}': {_FIX}")
        prior_patient, prior_taken, position = self._studies[split, prior]
        if patient is None or patient != prior_patient:
            raise UserError(f"{place}: its prior {prior} is of another patient: {_FIX}")
        if taken is None or prior_taken is None or prior_taken >= taken:
            raise UserError(f"{place}: its prior {prior} was not taken earlier: {_FIX}")
        return position
