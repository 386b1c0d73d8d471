"""METEOR has the package's scores, and nothing makes it hang."""

import gzip
import json
import os
import random
import shutil
import stat
from contextlib import nullcontext
from pathlib import Path

import pytest

from modules.evaluation.metrics.text import meteor, paraphrases
from modules.evaluation.metrics.text.meteor import (
    MeteorError,
    MeteorProcess,
    MeteorUnavailable,
    meteor_from_sums,
    meteor_jar,
    meteor_statistics,
    one_line,
)

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs Java, which is not on PATH")

IU_REPORTS = Path(__file__).resolve().parents[6] / "shared" / "real" / "iu_xray" / "annotation.json"

# The last two pairs match only by paraphrases: "physician" and "doctor", "carried out" and "performed".
REFERENCES = [
    "the heart is normal in size .", "no pleural effusion or pneumothorax .", "lungs are clear .", "café naïve .",
    "the physician was informed .", "the examination was carried out in the u.s. in the past .",
]
HYPOTHESES = [
    "heart size is normal .", "there is no pneumothorax or effusion .", "the lungs are clear .", "cafe naïve",
    "a doctor has been notified .", "previously , the test has been performed in the united states .",
]


@pytest.fixture(scope="module")
def package():
    """The package's scorer. It reads the whole paraphrase table, which takes seconds: once for all tests."""
    from pycocoevalcap.meteor.meteor import Meteor

    return Meteor()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table with one pair of paraphrases."""
    path = tmp_path / "table.gz"
    path.write_bytes(gzip.compress(b"0.5\nlung\nlungs\n"))
    return path


def meteor_scores(references: list[str], hypotheses: list[str], **settings) -> tuple[float, list[float]]:
    """Return the score of the corpus and of every pair."""
    statistics = meteor_statistics(references, hypotheses, **settings)
    return float(meteor_from_sums(statistics.sum(axis=0))), meteor_from_sums(statistics).tolist()


def package_scores(package, references: list[str], hypotheses: list[str]) -> tuple[float, list[float]]:
    return package.compute_score(
        {study: [text] for study, text in enumerate(references)},
        {study: [text] for study, text in enumerate(hypotheses)},
    )


def assert_equal_scores(package, references: list[str], hypotheses: list[str]) -> None:
    corpus, each = meteor_scores(references, hypotheses)
    expected_corpus, expected_each = package_scores(package, references, hypotheses)
    assert corpus == pytest.approx(expected_corpus, abs=1e-12)
    assert each == pytest.approx(expected_each, abs=1e-12)


def fake_java(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace Java by a shell script, and skip reading the paraphrases."""
    monkeypatch.setattr(meteor, "_filtered_paraphrases", lambda *_: nullcontext(folder / "table.gz"))
    path = folder / "java"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


@needs_java
def test_scores_are_those_of_the_package(package):
    assert_equal_scores(package, REFERENCES, HYPOTHESES)


@needs_java
@pytest.mark.parametrize("seed", range(4))
def test_any_part_of_a_corpus_has_the_packages_score(package, seed):
    """Scores from summed statistics. Some pairs match perfectly: the jar has a special rule for summing these."""
    generator = random.Random(seed)
    references = REFERENCES + ["", "a", "the heart", "", "lungs are clear ."]
    hypotheses = HYPOTHESES + ["a", "", "the heart", "", "lungs are clear ."]
    statistics = meteor_statistics(references, hypotheses)
    for _ in range(5):
        drawn = generator.choices(range(len(references)), k=generator.randint(1, 12))
        expected, _ = package_scores(
            package, [references[study] for study in drawn], [hypotheses[study] for study in drawn]
        )
        assert meteor_from_sums(statistics[drawn].sum(axis=0)) == pytest.approx(expected, abs=1e-12)


@needs_java
def test_paraphrases_that_the_texts_can_use_are_found(table):
    """The tests above would notice a lost paraphrase: without paraphrases the score of their texts is lower."""
    with_paraphrases, _ = meteor_scores(REFERENCES, HYPOTHESES)
    table.write_bytes(gzip.compress(b""))
    lines = [f"SCORE ||| {reference} ||| {text}" for reference, text in zip(REFERENCES, HYPOTHESES, strict=True)]
    with MeteorProcess(table) as process:
        statistics = process.ask(lines, replies=len(lines))
        *_, without = process.ask([" ||| ".join(["EVAL", *statistics])], replies=len(lines) + 1)
    assert float(without) < with_paraphrases - 0.01


@needs_java
@pytest.mark.skipif(not IU_REPORTS.is_file(), reason=f"the IU X-ray reports are not at {IU_REPORTS}")
def test_scores_of_real_reports_are_those_of_the_package(package):
    """Each uncleaned report, with all its punctuation, against the next one."""
    reports = [study["report"] for study in json.loads(IU_REPORTS.read_text())["test"]]
    references = [one_line(report) for report in reports]
    hypotheses = references[1:] + references[:1]
    assert_equal_scores(package, references, hypotheses)


@needs_java
def test_newlines_separators_and_empty_texts_are_scored():
    references = ["a clear lung", "a ||| b", "", "one two\r\nthree", "four", "x\x85y\u2028z\x0cw\ud800"]
    hypotheses = ["a clear\nlung", "a b", "", "one two three", "|||", "x y z w ?"]
    corpus, each = meteor_scores(references, hypotheses)
    assert each[:5] == pytest.approx([1.0, 1.0, 0.0, 1.0, 0.0], abs=0.05)
    assert len(each) == 6
    assert 0 < corpus <= 1


@needs_java
def test_a_killed_process_is_an_error(table):
    with MeteorProcess(table, timeout=120) as process:

        def lines():
            yield "SCORE ||| a b ||| a b"
            process.process.kill()
            process.process.wait()
            yield "SCORE ||| a b ||| a b"

        with pytest.raises(MeteorError, match="ended with exit status -9"):
            process.ask(lines(), replies=2)


def test_without_java_the_reason_says_what_mends_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeteorUnavailable, match="Java.*install"):
        meteor_scores(["a"], ["a"])


def test_silence_ends_at_the_timeout_and_leaves_no_process(tmp_path, monkeypatch):
    fake_java(tmp_path, "echo thinking >&2\nexec /bin/sleep 100", monkeypatch)
    with MeteorProcess(tmp_path / "table.gz", timeout=0.5) as process:
        with pytest.raises(MeteorError, match="silent for 0.5 s and was killed; last line of stderr: thinking"):
            process.ask(["SCORE ||| a ||| a"], replies=1)
        pid = process.process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_silent_process_that_does_not_read_cannot_block_the_writer(tmp_path, monkeypatch):
    fake_java(tmp_path, "exec /bin/sleep 100", monkeypatch)
    with pytest.raises(MeteorError, match="silent"):
        meteor_scores(["word " * 20000] * 5, ["word " * 20000] * 5, timeout=0.5)


def test_an_early_exit_shows_the_last_words(tmp_path, monkeypatch):
    fake_java(tmp_path, "echo 'Error: could not reserve memory' >&2\nexit 3", monkeypatch)
    with pytest.raises(MeteorError, match="exit status 3 after 0 of 1 answers; last line of stderr: Error: could"):
        meteor_scores(["a"], ["a"], timeout=20)


@pytest.mark.parametrize("nonsense", ["nonsense", "1 2 3", "$line"])
def test_nonsense_in_place_of_statistics_is_an_error(nonsense, tmp_path, monkeypatch):
    fake_java(tmp_path, f'while read line; do echo "{nonsense}"; done', monkeypatch)
    with pytest.raises(MeteorError, match="is not a line of"):
        meteor_statistics(["a", "b"], ["a", "b"], timeout=20)


@pytest.mark.parametrize(
    ("program", "timeout", "message"),
    [
        (
            "raise OSError('No space left on device')", 60,
            "not be filtered; last line of stderr: OSError: No space left",
        ),
        ("import time; time.sleep(100)", 0.5, "not read within 0.5 s"),
    ],
)
def test_paraphrases_that_cannot_be_filtered_are_an_error(program, timeout, message, tmp_path, monkeypatch):
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setattr(paraphrases, "__file__", str(tmp_path / "program.py"))
    monkeypatch.setattr(meteor, "_find_java", lambda: "java")
    with pytest.raises(MeteorError, match=message):
        meteor_scores(["a"], ["a"], timeout=timeout)


def test_without_the_table_the_reason_says_what_mends_it(tmp_path, monkeypatch):
    monkeypatch.setattr(meteor, "_find_java", lambda: "java")
    monkeypatch.setattr(meteor, "meteor_jar", lambda: tmp_path / "meteor.jar")
    with pytest.raises(MeteorUnavailable, match="paraphrase-en.gz is missing; reinstall"):
        meteor_scores(["a"], ["a"])


# Answers with the reference's first word and 22 more statistics.
ECHO = """echo started >> "${0%/*}/log"
while read -r command bar rest; do
  echo "${rest%% *} 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22"
done"""


def test_many_pairs_are_shared_by_several_processes_and_stay_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(meteor, "_PAIRS_WORTH_A_PROCESS", 3)
    monkeypatch.setattr(meteor, "available_cores", lambda: 8)
    for pairs, workers, started in ((5, 2, 1), (7, 2, 2), (100, 2, 2), (100, 4, 4)):
        fake_java(tmp_path, ECHO, monkeypatch)
        (tmp_path / "log").write_text("")
        numbers = [str(number) for number in range(pairs)]
        statistics = meteor_statistics(numbers, ["x"] * pairs, timeout=20, workers=workers)
        assert statistics.tolist() == [[number, *range(1, 23)] for number in range(pairs)]
        assert len((tmp_path / "log").read_text().splitlines()) == started


def test_the_failure_of_one_of_two_processes_ends_both(tmp_path, monkeypatch):
    monkeypatch.setattr(meteor, "_PAIRS_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(meteor, "available_cores", lambda: 2)
    script = """read -r line
case "$line" in *first*) echo "Error: this one dies" >&2; exit 3;; esac
exec /bin/sleep 100"""
    fake_java(tmp_path, script, monkeypatch)
    with pytest.raises(MeteorError, match="exit status 3 .*this one dies"):
        meteor_scores(["first", "second"], ["a", "b"], timeout=50)


def test_unequal_or_empty_lists_are_refused():
    with pytest.raises(ValueError, match="2 and 1"):
        meteor_scores(["a", "b"], ["a"])
    with pytest.raises(ValueError):
        meteor_scores([], [])


def test_texts_become_one_line_without_separator():
    assert one_line(" a\n b|||c \t d ") == "a b c d"


def test_the_jar_is_found():
    assert meteor_jar().is_file()
