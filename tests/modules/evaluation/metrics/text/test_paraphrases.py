"""The filter keeps the paraphrases that METEOR can match between the texts, and only these."""

import gzip
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modules.evaluation.metrics.text import paraphrases
from modules.evaluation.metrics.text.meteor import meteor_jar, one_line
from modules.evaluation.metrics.text.paraphrases import filter_paraphrases, word_runs

WORDS = ["heart", "lung", "x-ray", "us", "1,000", "é", "don't", "x", "ray"]
PHRASE = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
PAIRS = st.lists(st.tuples(st.sampled_from(["0.1", "0.25"]), PHRASE, PHRASE), max_size=20)


def filtered(folder: Path, content: str, text: str) -> str:
    """Return what is left of the table `content` for `text`."""
    table, part = folder / "table.gz", folder / "part.gz"
    table.write_bytes(gzip.compress(content.encode()))
    pairs = filter_paraphrases(table, part, text)
    remaining = gzip.decompress(part.read_bytes()).decode()
    assert remaining.count("\n") == 3 * pairs
    return remaining


def test_both_phrases_must_be_of_words_of_the_texts(tmp_path):
    content = (
        "0.1\nheart\ncardiac\n"
        "0.2\nheart\ncardiac contour\n"  # no "contour"
        "0.3\nlarge heart\ncardiac\n"  # no "large"
        "0.4\ncardiac\nthe heart\n"
    )
    assert filtered(tmp_path, content, "The heart .\ncardiac size") == (
        "0.1\nheart\ncardiac\n0.4\ncardiac\nthe heart\n"
    )
    assert filtered(tmp_path, content, "") == ""


def test_the_last_line_needs_no_end(tmp_path):
    assert filtered(tmp_path, "0.1\na\nb\n0.2\nb\na", "a b") == "0.1\na\nb\n0.2\nb\na\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(pairs=PAIRS, text=PHRASE, block=st.integers(1, 50))
def test_pairs_stay_in_order_whatever_the_blocks(pairs, text, block, tmp_path, monkeypatch):
    monkeypatch.setattr(paraphrases, "_BLOCK_SIZE", block)
    runs = word_runs(text)

    def possible(phrase: str) -> bool:
        return all(run.encode() in runs for run in re.findall("[a-z0-9]+", phrase))

    table, expected = (
        "".join("\n".join(pair) + "\n" for pair in chosen)
        for chosen in (pairs, [pair for pair in pairs if possible(pair[1]) and possible(pair[2])])
    )
    assert filtered(tmp_path, table, text) == expected


def test_abbreviations_lose_their_dots():
    assert {b"u", b"s", b"us", b"a", b"1", b"000"} == word_runs("(U.S.) a. 1,000")


@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs Java, which is not on PATH")
def test_no_word_of_meteor_is_missed():
    """Compared with METEOR's normaliser, on texts full of the characters that it treats specially."""
    generator = random.Random(0)
    parts = [
        *"abkKs019....,,''`‘’“”--–/:()<>&|éÉßİıΣàЖ\u212a\u212b\u3000\x85",
        *" " * 8,
        "mr",
        "e.g.",
        "U.S.",
        "&quot;",
    ]
    texts = [one_line("".join(generator.choices(parts, k=30))) for _ in range(4000)]
    normalised = subprocess.run(
        ["java", "-Dfile.encoding=UTF-8", "-cp", meteor_jar(), "edu.cmu.meteor.util.Normalizer", "en", "true"],
        input="\n".join(texts),
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
        timeout=300,
    ).stdout.split("\n")
    assert len(normalised) >= len(texts)
    for text, words in zip(texts, normalised, strict=False):
        runs = {run.encode() for run in re.findall("[a-z0-9]+", words.lower())}
        assert runs <= word_runs(text), (text, words)


def test_the_module_is_a_program(tmp_path):
    table, part = tmp_path / "table.gz", tmp_path / "part.gz"
    table.write_bytes(gzip.compress(b"0.1\nlung\nlungs\n0.2\nlung\nheart\n"))
    command = [sys.executable, "-I", paraphrases.__file__, table, part]
    subprocess.run(command, input="Lung\nlungs \ud800", encoding="utf-8", errors="replace", check=True, timeout=60)
    assert gzip.decompress(part.read_bytes()) == b"0.1\nlung\nlungs\n"
    table.unlink()
    failed = subprocess.run(command, input=b"", stderr=subprocess.PIPE, check=False, timeout=60)
    assert failed.returncode != 0 and b"FileNotFoundError" in failed.stderr
