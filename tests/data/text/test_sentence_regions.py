"""The regions that the words of a report are about."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.ontology import Anatomy
from data.text.sentence_regions import word_regions

ANATOMY = Anatomy.load()


def names_of(row) -> set[str]:
    """The names of the regions in a row of `word_regions`."""
    return {ANATOMY.names[position] for position in np.flatnonzero(row)}


def test_every_word_is_about_the_regions_of_its_sentence():
    regions = word_regions("the heart is enlarged . the trachea is midline", ANATOMY)
    assert regions.shape == (9, 29)
    assert [names_of(row) for row in regions] == [{"cardiac silhouette"}] * 5 + [{"trachea"}] * 4


def test_a_sentence_about_no_region_has_none():
    assert not word_regions("comparison is made with the previous study . .", ANATOMY).any()
    assert word_regions("", ANATOMY).shape == (0, 29)


@pytest.mark.parametrize("sentence, regions", [
    ("there is a nodule in the left lower lung zone", {"left lower lung zone"}),
    ("there is a fracture of a left lower rib", {"left lung"}),
    ("there is a rib fracture", set()),
    ("both lungs are hyperinflated with flattened hemidiaphragms", {"left hemidiaphragm", "right hemidiaphragm"}),
    ("the lungs are clear", {"left lung", "right lung"}),
    ("the upper mediastinum is widened", {"upper mediastinum"}),
])
def test_a_whole_does_not_count_beside_its_part(sentence, regions):
    assert names_of(word_regions(sentence, ANATOMY)[0]) == regions


@given(st.lists(st.sampled_from(["heart", "no", "effusion", "left", "lung", ".", "trachea", "xyz"]), max_size=20))
def test_words_between_full_stops_agree(words):
    regions = word_regions(" ".join(words), ANATOMY)
    assert len(regions) == len(words)
    for position in range(1, len(words)):
        if words[position - 1] != ".":
            assert np.array_equal(regions[position], regions[position - 1])
