"""The regions that the words of a report are about."""

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data.ontology import Anatomy
from data.sources.phantom.reports import PHRASE_FILE, _fill_template
from data.text.cleaning import clean
from data.text.sentence_regions import without_remarks, word_comparisons, word_regions

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


def test_words_of_sentences_that_compare():
    text = "small left effusion , unchanged from prior . no new effusion . the lungs are clear . heart is stable"
    compares = word_comparisons(text)
    sentences = [1] * 8 + [0] * 4 + [0] * 5 + [1] * 3
    assert compares.astype(int).tolist() == sentences
    assert word_comparisons("").shape == (0,)


@pytest.mark.parametrize("sentence", [
    "the exam is compared with the previous study", "comparison is made with the prior radiograph",
    "an earlier examination is available for review", "prior studies were available for comparison",
    "compared to the last chest radiograph from the archive", "as compared to the most recent study , there is a line",
    "in comparison with the study of yesterday , there is little overall change", "no significant interval change",
    "no change compared with the prior study", "there has been no interval development of anything",
])
def test_general_remarks_compare_though_they_are_about_no_region(sentence):
    assert word_comparisons(sentence).all()


@pytest.mark.parametrize(("report", "expected"), [
    ("the exam is compared with the previous study . the lungs are clear .", "the lungs are clear ."),
    ("the heart is enlarged . no significant interval change", "the heart is enlarged ."),
    ("comparison is made with the prior radiograph .", ""),
    ("compared to the previous study , the left effusion has increased .", None),
    ("in comparison with the prior study , the heart is enlarged .", None),
    ("no prior study is available for comparison . the lungs are clear .", None),
    ("<findings> the lungs are clear . <impression> no interval change .", "<findings> the lungs are clear ."),
    ("<findings> comparison is made with the prior radiograph . <impression> pneumonia .", "<impression> pneumonia ."),
    ("<findings> no interval change . the lungs are clear . <impression> pneumonia .",
     "<findings> the lungs are clear . <impression> pneumonia ."),
    ("", ""),
])
def test_general_remarks_are_removed_and_what_states_more_stays(report, expected):
    assert without_remarks(report) == (report if expected is None else expected)


@pytest.mark.parametrize("sentence", [
    "no prior study is available for comparison", "there are no previous studies for comparison", "comparison is none",
    "a previous radiograph is not available", "the left lung is small compared with the right",
    "the right hemidiaphragm is raised compared to the left on the frontal view", "no new effusion",
    "prior sternotomy", "the patient has had previous surgery", "the left mid zone <unk> a solitary nodule",
])
def test_what_says_that_nothing_is_compared_or_compares_sides_does_not(sentence):
    assert not word_comparisons(sentence).any()


def test_the_remarks_of_phantom_reports_are_told_apart():
    words = yaml.safe_load(PHRASE_FILE.read_text(encoding="ascii"))
    for key, compares in (("compared with prior", True), ("no prior", False)):
        for template in words["remarks"][key]:
            for seed in range(20):
                text = _fill_template(template, {}, np.random.default_rng(seed))
                assert word_comparisons(clean(text, "corrected")).all() == compares, text


def test_markers_of_sections_are_about_no_region_and_end_sentences():
    text = "<findings> the left lung is clear . <impression> right effusion , increased since the prior ."
    regions, compares = word_regions(text, ANATOMY), word_comparisons(text)
    words = text.split()
    for marker in ("<findings>", "<impression>"):
        assert not regions[words.index(marker)].any() and not compares[words.index(marker)]
    assert regions[1:7, ANATOMY.index("left lung")].all() and not regions[8:, ANATOMY.index("left lung")].any()
    assert compares[8:].all() and not compares[:8].any()
    plain = "the left lung is clear . right effusion , increased since the prior ."
    is_word = [not word.startswith("<") for word in words]
    assert (word_regions(plain, ANATOMY) == regions[is_word]).all()
