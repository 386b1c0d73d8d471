"""The words of report text."""

import pytest

from data.text.words import normalise_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Left-sided costo-phrenic", "left sided costo phrenic"),
        ("No edema - small effusion", "no edema - small effusion"),
        ("No edema—small effusion", "no edema - small effusion"),
        ("mid- and lower-lung", "mid and lower lung"),
        ("RUL/RML", "rul / rml"),
        ("edema / effusion", "edema , effusion"),
        ("w/o edema w/ effusion", "without edema with effusion"),
        ("since 6/7, XX/XX/XXXX or 2019-03-01", "since , or"),
        ("a 1.4 x 2.1 cm nodule, 5-6mm", "a mm nodule , mm"),
        ("?pneumonia", "question pneumonia"),
        ("pneumonia?", "pneumonia ?"),
        ("___ and [**Name**]", "xxxx and xxxx"),
        ("R > L", "r greater than l"),
        ("a <unk> mass", "a unk mass"),
        ("edema (-), nodule (+)", "edema : negative , nodule : positive"),
        ("pleura | clear", "pleura : clear"),
        ("T8", "t 8"),
    ],
)
def test_words(text, words):
    assert normalise_words(text) == words.split()


@pytest.mark.parametrize("dash", "‐‑‒–−-")
def test_all_dashes_are_alike(dash):
    assert normalise_words(f"left{dash}sided {dash} edema") == ["left", "sided", "-", "edema"]
