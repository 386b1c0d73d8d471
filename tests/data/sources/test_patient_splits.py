"""Splits that are drawn by patient."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.sources.patient_splits import draw_position, draw_split


@given(st.text())
def test_a_patient_is_always_in_the_same_split(patient):
    assert draw_split(patient) == draw_split(patient) in ("train", "val", "test")
    assert 0 <= draw_position(patient) < 1


def test_shares():
    splits = [draw_split(str(patient)) for patient in range(20_000)]
    shares = [np.mean([split == name for split in splits]) for name in ("train", "val", "test")]
    assert np.allclose(shares, (0.8, 0.1, 0.1), atol=0.01)


def test_drawn_splits_never_change():
    first = [draw_split(str(patient)) for patient in range(30)]
    assert [patient for patient, split in enumerate(first) if split == "val"] == [8]
    assert [patient for patient, split in enumerate(first) if split == "test"] == [9]
