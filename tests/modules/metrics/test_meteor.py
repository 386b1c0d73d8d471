"""METEOR's scores are the package's, and nothing makes the driver hang."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from modules.metrics import meteor
from modules.metrics.meteor import MeteorError, MeteorProcess, MeteorUnavailable, meteor_jar, meteor_scores, one_line

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs Java, and there is none on PATH")

REFERENCES = [
    "the heart is normal in size .", "no pleural effusion or pneumothorax .", "lungs are clear .", "café naïve .",
]
HYPOTHESES = [
    "heart size is normal .", "there is no pneumothorax or effusion .", "the lungs are clear .", "cafe naïve",
]


def fake_java(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a shell script in place of Java."""
    path = folder / "java"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


@needs_java
def test_scores_are_those_of_the_package():
    from pycocoevalcap.meteor.meteor import Meteor

    package = Meteor().compute_score(
        {study: [text] for study, text in enumerate(REFERENCES)},
        {study: [text] for study, text in enumerate(HYPOTHESES)},
    )
    assert meteor_scores(REFERENCES, HYPOTHESES) == package


@needs_java
def test_newlines_separators_and_empty_texts_are_scored():
    references = ["a clear lung", "a ||| b", "", "one two\r\nthree", "four", "x\x85y\u2028z\x0cw\ud800"]
    hypotheses = ["a clear\nlung", "a b", "", "one two three", "|||", "x y z w ?"]
    corpus, each = meteor_scores(references, hypotheses)
    assert each[:5] == pytest.approx([1.0, 1.0, 0.0, 1.0, 0.0], abs=0.05)
    assert len(each) == 6
    assert 0 < corpus <= 1


@needs_java
def test_a_killed_process_is_an_error():
    with MeteorProcess(timeout=120) as process:

        def lines():
            yield "SCORE ||| a b ||| a b"
            process.process.kill()
            process.process.wait()
            yield "SCORE ||| a b ||| a b"

        with pytest.raises(MeteorError, match="died with exit status -9"):
            process.ask(lines(), replies=2)


def test_without_java_the_reason_says_what_mends_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeteorUnavailable, match="Java.*install"):
        meteor_scores(["a"], ["a"])


def test_silence_ends_at_the_timeout_and_leaves_no_process(tmp_path, monkeypatch):
    fake_java(tmp_path, "echo thinking >&2\nexec /bin/sleep 100", monkeypatch)
    with MeteorProcess(timeout=0.5) as process:
        with pytest.raises(MeteorError, match="silent for 0.5 s and was killed; its last words: thinking"):
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
    with pytest.raises(MeteorError, match="exit status 3 after 0 of 1 answers; its last words: Error: could"):
        meteor_scores(["a"], ["a"], timeout=20)


def test_nonsense_in_place_of_a_score_is_an_error(tmp_path, monkeypatch):
    fake_java(tmp_path, "while read line; do echo nonsense; echo nonsense; done", monkeypatch)
    with pytest.raises(MeteorError, match="not a score"):
        meteor_scores(["a"], ["a"], timeout=20)


# Answers SCORE with the reference's first word, and EVAL with every statistic and a 9.
ECHO = """echo started >> "${0%/*}/log"
while read -r command bar rest; do
  if [ "$command" = EVAL ]; then
    for part in $rest; do [ "$part" = "|||" ] || echo "$part"; done
    echo 9
  else
    echo "${rest%% *}"
  fi
done"""


def test_many_pairs_are_shared_by_two_processes_and_stay_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(meteor, "_PAIRS_WORTH_A_PROCESS", 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for pairs, started in ((5, 1), (7, 2), (100, 2)):
        fake_java(tmp_path, ECHO, monkeypatch)
        (tmp_path / "log").write_text("")
        numbers = [str(number) for number in range(pairs)]
        assert meteor_scores(numbers, ["x"] * pairs, timeout=20) == (9.0, [float(number) for number in numbers])
        assert len((tmp_path / "log").read_text().splitlines()) == started


def test_the_failure_of_one_of_two_processes_ends_both(tmp_path, monkeypatch):
    monkeypatch.setattr(meteor, "_PAIRS_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
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
