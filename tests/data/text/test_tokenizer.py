"""The tokenizer: ids, encoding and decoding."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.text.tokenizer import Tokenizer, fingerprint

REPORTS = ["the heart is large .", "the lungs are clear .", "the heart is small ."]

words = st.text(alphabet="abcxyz.-09", min_size=1, max_size=5)
texts = st.lists(words, max_size=30).map(" ".join)


@pytest.fixture(params=[True, False], ids=["distinct", "shared"])
def tokenizer(request):
    return Tokenizer.from_reports(REPORTS, min_count=2, distinct_special_tokens=request.param)


def test_ids_follow_the_family_rule(tokenizer):
    assert tokenizer.words == (".", "<unk>", "heart", "is", "the")
    assert tokenizer.unk_id == 2
    assert tokenizer.encode("the heart is odd .", 10)[1:-1] == [5, 3, 4, 2, 1]


def test_special_ids():
    distinct = Tokenizer.from_reports(REPORTS, 2, distinct_special_tokens=True)
    shared = Tokenizer.from_reports(REPORTS, 2, distinct_special_tokens=False)
    assert (distinct.pad_id, distinct.bos_id, distinct.eos_id, len(distinct)) == (0, 6, 7, 8)
    assert (shared.pad_id, shared.bos_id, shared.eos_id, len(shared)) == (0, 0, 0, 6)


def test_a_cut_report_keeps_its_end(tokenizer):
    ids = tokenizer.encode("the heart is the heart is the heart", max_tokens=5)
    assert ids == [tokenizer.bos_id, 5, 3, 4, tokenizer.eos_id]


def test_the_protocol_reference_has_as_many_words_as_the_family_scores(tokenizer):
    assert tokenizer.protocol_reference("the heart is odd .", max_tokens=5) == "the heart is <unk>"
    assert tokenizer.protocol_reference("the heart .", max_tokens=5) == "the heart ."


@given(text=texts, distinct=st.booleans())
def test_round_trip(text, distinct):
    tokenizer = Tokenizer.from_reports([text], 1, distinct)
    ids = tokenizer.encode(text, max_tokens=40)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids[1:]) == text
    assert tokenizer.decode(torch.tensor(ids + [tokenizer.pad_id] * 3)) == text
    assert all(0 <= token < len(tokenizer) for token in ids)


@given(known=texts, other=texts, distinct=st.booleans(), max_tokens=st.integers(3, 20))
def test_encoding_never_exceeds_its_limit(known, other, distinct, max_tokens):
    tokenizer = Tokenizer.from_reports([known], 1, distinct)
    ids = tokenizer.encode(other, max_tokens)
    assert len(ids) <= max_tokens and ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id
    expected = tokenizer.protocol_reference(other, max_tokens).split()[: max_tokens - 2]
    assert tokenizer.decode(ids).split() == expected


def test_decoding_stops_at_the_end(tokenizer):
    assert tokenizer.decode([tokenizer.bos_id, 5, 3, tokenizer.eos_id, 4, 4]) == "the heart"
    assert tokenizer.decode([tokenizer.bos_id, tokenizer.eos_id]) == ""
    assert tokenizer.decode([]) == ""


def test_saved_as_json(tokenizer):
    again = Tokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again.words == tokenizer.words and again.bos_id == tokenizer.bos_id
    assert again.fingerprint == tokenizer.fingerprint


def test_fingerprints_tell_tokenizers_apart():
    fingerprints = {
        Tokenizer.from_reports(reports, count, distinct).fingerprint
        for reports in (REPORTS, REPORTS[:2]) for count in (1, 2) for distinct in (True, False)
    }
    assert len(fingerprints) == 8
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})


def test_a_word_list_must_be_sound():
    with pytest.raises(ValueError, match="every word once"):
        Tokenizer(["a", "a", "<unk>"], True)
    with pytest.raises(ValueError, match="<unk>"):
        Tokenizer(["a"], True)
