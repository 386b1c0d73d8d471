"""Splitting a generated report into sentences: texts, regions attended to, and a confidence computed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.text.tokenizer import Tokenizer
from modules.evaluation.sentences import split_into_sentences, subgraph_certainty

WORDS = (".", "<unk>", "clear", "heart", "large", "lungs")
TOKENIZER = Tokenizer(WORDS, distinct_special_tokens=True)


def ids(text, *after):
    return np.array([*TOKENIZER.encode(text, 100)[1:], *after])


def read(token_ids, log_probs=None, attention=None, certainty=(1.0, 1.0)):
    length = len(token_ids)
    log_probs = np.zeros(length) if log_probs is None else np.array(log_probs)
    attention = np.zeros((length, 2)) if attention is None else np.array(attention)
    return split_into_sentences(token_ids, log_probs, attention, np.array(certainty), TOKENIZER)


def test_each_sentence_has_its_words_regions_and_confidence():
    first, second = read(
        ids("heart large . lungs clear .", TOKENIZER.pad_id),
        log_probs=np.log([0.5, 0.5, 1, 0.8, 1, 1, 0.1, 1]),
        attention=[[1, 0], [0.5, 0.5], [0, 1], [0, 1], [0, 1], [1, 0], [1, 0], [0, 0]],
        certainty=(0.8, 0.4),
    )
    assert (first.text, second.text) == ("heart large .", "lungs clear .")
    # The attention of the full stop does not count, its probability does; EOS belongs to no sentence.
    np.testing.assert_allclose(first.regions, [0.75, 0.25])
    np.testing.assert_allclose(second.regions, [0, 1])
    assert first.log_probability == pytest.approx(np.log(0.25) / 3)
    assert first.confidence == pytest.approx(0.25 ** (1 / 3) * 0.8)
    assert second.confidence == pytest.approx(0.8 ** (1 / 3) * 0.4)


def test_without_a_graph_the_tokens_alone_decide():
    (sentence,) = read(ids("lungs clear"), log_probs=np.log([0.25, 0.25, 0.5]))
    assert sentence.text == "lungs clear"
    assert not sentence.regions.any()
    assert sentence.confidence == pytest.approx(0.25)


@pytest.mark.parametrize("distinct", [True, False])
def test_an_empty_report_has_no_sentence(distinct):
    tokenizer = Tokenizer(WORDS, distinct)
    empty = np.array([tokenizer.eos_id, tokenizer.pad_id])
    assert split_into_sentences(empty, np.zeros(2), np.zeros((2, 3)), np.ones(3), tokenizer) == []


def test_stops_in_a_row_end_one_sentence():
    assert [sentence.text for sentence in read(ids("heart large . . lungs"))] == ["heart large . .", "lungs"]
    assert [sentence.text for sentence in read(ids(". . lungs ."))] == [". .", "lungs ."]


@given(
    st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=15), st.booleans(), st.integers(0, 2**32 - 1),
)
def test_the_sentences_together_are_the_report(tokens, with_graph, seed):
    generator = np.random.default_rng(seed)
    token_ids = np.array(tokens, dtype=int)
    attention = generator.dirichlet(np.ones(3), len(tokens)) if with_graph else np.zeros((len(tokens), 3))
    log_probs = -generator.exponential(size=len(tokens))
    sentences = split_into_sentences(token_ids, log_probs, attention.reshape(-1, 3), generator.random(3), TOKENIZER)
    assert " ".join(sentence.text for sentence in sentences) == TOKENIZER.decode([TOKENIZER.bos_id, *tokens])
    for sentence in sentences:
        assert 0 <= sentence.confidence <= np.exp(sentence.log_probability) + 1e-12
        assert sentence.regions.sum() == pytest.approx(float(with_graph))


def test_the_certainty_of_a_subgraph():
    probabilities = np.array([[0.9, 0.4, 0.5], [0.2, 0.5, 0.5], [0.5, 0.5, 0.5]])
    predicted = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=bool)
    np.testing.assert_allclose(subgraph_certainty(probabilities, predicted), [0.9 * 0.6 * 0.5, 0.8, 1])


def test_sentences_have_the_section_whose_marker_is_before_them():
    tokenizer = Tokenizer((".", "<findings>", "<impression>", "<unk>", "clear", "lungs"), True)

    def read_sections(text):
        token_ids = np.array(tokenizer.encode(text, 100)[1:])
        count = len(token_ids)
        return split_into_sentences(token_ids, np.log(np.arange(1, count + 1) / 10), np.eye(count), None, tokenizer)

    first, second = read_sections("<findings> lungs clear <impression> clear .")
    assert (first.section, first.text, second.section, second.text) == (
        "findings", "lungs clear", "impression", "clear ."
    )
    assert first.confidence == pytest.approx((0.2 * 0.3) ** 0.5)  # the markers do not count
    assert first.regions.nonzero()[0].tolist() == [1, 2] and second.regions.nonzero()[0].tolist() == [4]
    (only,) = read_sections("lungs clear .")
    assert only.section == "findings"
    assert read_sections("<findings> <impression>") == []
