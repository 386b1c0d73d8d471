"""Splits for data sets without official ones: drawn by patient, so that no patient is in two of them."""

import hashlib

# Shares of validation and test patients.
_VALIDATION, _TEST = 0.1, 0.1


def draw_position(patient: str) -> float:
    """Return a number in 0..1 that depends only on the name of the patient, and is distributed uniformly."""
    digest = hashlib.sha256(patient.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def draw_split(patient: str) -> str:
    """Return the split of a patient: "train" for about 80 % of them, "val" and "test" for about 10 % each.

    It does not depend on the other patients: when a data set grows, everyone keeps their split.
    """
    position = draw_position(patient)
    if position < _TEST:
        return "test"
    return "val" if position < _TEST + _VALIDATION else "train"
