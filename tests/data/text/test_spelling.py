"""Correcting misspelt names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.text.lexicon import Lexicon
from data.text.spelling import Spelling, typing_errors

_WORDS = st.text("abcde", max_size=8)


@pytest.mark.parametrize(
    ("first", "second", "errors"), [("edema", "edema", 0), ("edmea", "edema", 1), ("pnuemotorax", "pneumothorax", 2)]
)
def test_typing_errors(first, second, errors):
    assert typing_errors(first, second, limit=3) == errors


@given(_WORDS, _WORDS)
def test_typing_errors_are_symmetric_and_bounded(first, second):
    errors = typing_errors(first, second, limit=8)
    assert errors == typing_errors(second, first, limit=8) and (errors == 0) == (first == second)
    assert abs(len(first) - len(second)) <= errors <= max(len(first), len(second))


@given(_WORDS, _WORDS, st.integers(0, 3))
def test_typing_errors_are_exact_up_to_the_limit(first, second, limit):
    errors = typing_errors(first, second, limit=8)
    assert min(typing_errors(first, second, limit), limit + 1) == min(errors, limit + 1)


def test_one_error_in_short_words_and_two_in_long_ones():
    spelling = Spelling(["edema", "consolidation"], ["enema"], ["edemas"])
    assert spelling.correct(["edemma", "dema", "emdma"]) == ["edema", "dema", "emdma"]
    assert spelling.correct(["consoldatoin", "onsolidation"]) == ["consolidation", "consolidation"]
    assert spelling.correct(["cnsldatn"]) == ["cnsldatn"]
    assert spelling.correct(["enema", "edemas"]) == ["enema", "edemas"]


def test_words_that_resemble_names_are_left():
    words = "infusion confusion perfusion transfusion enema module infarction diffusion suggestion structure".split()
    assert Lexicon.load().correct(words) == words


def test_words_of_the_lexicon_are_left():
    words = "effusive pneumonitis nodular opacified fibrotic bronchitis sarcoid hilar apical tracheal".split()
    assert Lexicon.load().correct(words) == words
