"""Phantom patients and the magnification of the views."""

from data.sources.phantom.patient import depth_magnification


def test_the_heart_is_magnified_from_ap_more_than_from_pa():
    heart, ribs = 2.0, -6.0
    assert depth_magnification("AP", heart) > depth_magnification("AP", ribs) > 1
    assert 1 < depth_magnification("PA", heart) < depth_magnification("PA", ribs)
    assert depth_magnification("AP", heart) > depth_magnification("PA", heart) + 0.05
