"""The vocabulary of a converted release checkpoint: from a list of words, from their ids, or from an annotation."""

import json

import pytest

from data.errors import UserError
from modules.checkpoint import load_checkpoint
from modules.release.conversion import convert
from tests.support.release_files import OVERRIDES, WORDS


def annotation(words: list[str]) -> dict:
    """A training split in which `words` and the full stop occur ten times each, and another word nine times."""
    reports = [" ".join(words) + ".", *["rare " + " ".join(words) + "."] * 9]
    return {"train": [{"id": str(number), "report": report} for number, report in enumerate(reports)], "val": []}


@pytest.mark.parametrize("vocabulary", [
    WORDS,
    {word: index for index, word in enumerate(WORDS, start=1)},
    dict(reversed([(word, index) for index, word in enumerate(WORDS, start=1)])),
    annotation(WORDS[2:]),
])
def test_words_by_list_by_id_and_by_annotation(vocabulary, small_trunk, release, tmp_path):
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(vocabulary))
    convert(release, path, tmp_path / "out", OVERRIDES)
    assert load_checkpoint(tmp_path / "out").vocabularies.tokenizer.words == tuple(WORDS)


@pytest.mark.parametrize("vocabulary, said", [
    (WORDS[:-1], r"gives 20 ids, but .* was trained with 21"),
    ([*WORDS, "more"], r"gives 22 ids, but .* was trained with 21"),
    ([word for word in WORDS if word != "<unk>"], "<unk>"),
    ([*WORDS[:-1], WORDS[0]], "every word once"),
    ({word: index for index, word in enumerate(WORDS)}, "ids are not 1 to 20"),
    ({word: index * 2 for index, word in enumerate(WORDS, start=1)}, "ids are not 1 to 20"),
    ({word: [index] for index, word in enumerate(WORDS, start=1)}, "ids are not 1 to 20"),
    ({"train": [{"id": "1"}]}, "report"),
    ({"train": [{"report": None}]}, "a report is not a string"),
    ({"train": [{"report": 5}]}, "a report is not a string"),
    ([*WORDS[:-1], 7], "7 is not a word"),
    ([*WORDS[:-1], None], "None is not a word"),
    ([*WORDS[:-1], True], "True is not a word"),
    ([*WORDS[:-1], ""], "'' is not a word"),
    ([*WORDS[:-1], "two words"], "'two words' is not a word"),
    (3, "not a vocabulary"),
])
def test_a_vocabulary_that_cannot_be_the_trained_one_is_refused(vocabulary, said, small_trunk, release, tmp_path):
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(vocabulary))
    with pytest.raises(UserError, match=said):
        convert(release, path, tmp_path / "out", OVERRIDES)


def test_an_annotation_may_begin_with_a_byte_order_mark(small_trunk, release, tmp_path):
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(annotation(WORDS[2:])), encoding="utf-8-sig")
    convert(release, path, tmp_path / "out", OVERRIDES)
    assert load_checkpoint(tmp_path / "out").vocabularies.tokenizer.words == tuple(WORDS)


def test_a_word_may_be_called_train(small_trunk, release, tmp_path):
    path = tmp_path / "vocabulary.json"
    words = [*WORDS[:-1], "train"]
    path.write_text(json.dumps({word: index for index, word in enumerate(words, start=1)}))
    convert(release, path, tmp_path / "out", OVERRIDES)
    assert load_checkpoint(tmp_path / "out").vocabularies.tokenizer.words == tuple(words)


@pytest.mark.parametrize("content", [None, "not json", "[" * 100_000], ids=["absent", "text", "deep"])
def test_a_vocabulary_that_cannot_be_read_is_refused(content, small_trunk, release, tmp_path):
    path = tmp_path / "vocabulary.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="vocabulary.json"):
        convert(release, path, tmp_path / "out", OVERRIDES)
