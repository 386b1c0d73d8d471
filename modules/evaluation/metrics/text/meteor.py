"""METEOR through pycocoevalcap's jar, driven so that it cannot hang.

The package's own wrapper blocks for ever when a text holds a newline, when the jar dies, or after any exception. Here
every text is one line, replies are read by a thread and awaited with a time-out, and the process is killed on every
way out. METEOR gets only the paraphrases that the texts can use (`paraphrases.py`), which saves most of its start and
of its memory. The scores are those of the package's wrapper.
"""

import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modules.evaluation.metrics.text import paraphrases

_SEPARATOR = "|||"
# Silence after which the jar counts as dead. Its start takes a second on an idle machine, ten on a busy one.
REPLY_TIMEOUT = 300.0
# A process takes as long to start as to score so many pairs.
_PAIRS_WORTH_A_PROCESS, _MOST_PROCESSES = 1500, 2

# The jar's parameters for English, and how much a match counts that is exact, by stem, synonym or paraphrase.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_WAYS = np.array([1.0, 0.6, 0.8, 0.6])
# Columns of its statistics: hypothesis and reference each have two of the pairs.
_STATISTICS, _CHUNKS, _LENGTHS, _MATCHED = 23, 20, slice(0, 2), slice(21, 23)


class MeteorUnavailable(Exception):
    """METEOR cannot be computed on this machine; the text says why and what mends it."""


class MeteorError(Exception):
    """The METEOR process died, fell silent or answered nonsense; the text says which, with its last words."""


def one_line(text: str) -> str:
    """`text` on one line, words parted by single spaces, without METEOR's field separator."""
    return " ".join(text.replace(_SEPARATOR, " ").split())


def meteor_statistics(
    references: Sequence[str], hypotheses: Sequence[str], timeout: float = REPLY_TIMEOUT
) -> NDArray:
    """[N, 23]: what METEOR 1.5 (English, normalised) counts in N hypotheses with one reference each.

    Columns: words of the hypothesis and of the reference, how many of each are function words; for each of the four
    ways to match (exact, stem, synonym, paraphrase) content words of the hypothesis and of the reference that match so,
    then function words; chunks; words of the hypothesis and of the reference that match. The score of any part of the
    corpus is `meteor_of_sums` of their sums.

    Raises MeteorUnavailable without Java or the jar, MeteorError when the process dies or is silent for `timeout`
    seconds, and ValueError for lists of different or no length.
    """
    if len(references) != len(hypotheses) or not references:
        raise ValueError(f"METEOR needs a reference a hypothesis: {len(references)} and {len(hypotheses)} given")
    # `SCORE ||| reference ||| hypothesis` is answered by a line of statistics, which depend on that pair alone.
    references, hypotheses = [[one_line(text) for text in texts] for texts in (references, hypotheses)]
    lines = [
        f"SCORE {_SEPARATOR} {reference} {_SEPARATOR} {hypothesis}"
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    shares = max(1, min(len(lines) // _PAIRS_WORTH_A_PROCESS, _MOST_PROCESSES, os.cpu_count() or 1))
    with ExitStack() as stack:
        _java()  # without it there is nothing to prepare
        table = stack.enter_context(_paraphrases_of([*references, *hypotheses], timeout))
        processes = [stack.enter_context(MeteorProcess(table, timeout)) for _ in range(shares)]
        answers = [""] * len(lines)
        for share, answered in enumerate(_ask_all(processes, [lines[share::shares] for share in range(shares)])):
            answers[share::shares] = answered
    try:
        statistics = np.array([[float(number) for number in answer.split()] for answer in answers])
    except ValueError as error:
        raise MeteorError(f"METEOR answered something that is no line of statistics: {error}") from error
    if statistics.shape != (len(lines), _STATISTICS):
        raise MeteorError(f"METEOR answered something that is no line of {_STATISTICS} statistics: {answers[0]!r}")
    # As the jar adds studies up: where everything matches in one piece, that piece does not count as a chunk.
    perfect = (statistics[:, _CHUNKS] == 1) & (statistics[:, _MATCHED] == statistics[:, _LENGTHS]).all(axis=1)
    statistics[perfect, _CHUNKS] = 0
    return statistics


def meteor_of_sums(sums: NDArray) -> NDArray:
    """[...]: METEOR of sums [..., 23] of `meteor_statistics`, by the jar's formula and its parameters for English.

    Denkowski and Lavie, Meteor Universal, WMT 2014: with weighted matches, precision P and recall R, the harmonic mean
    P R / (alpha P + (1 - alpha) R), times 1 - gamma (chunks / matches) ** beta. 0 where nothing matches.
    """
    matches = sums[..., 4 : 4 + 4 * len(_WAYS)].reshape(*sums.shape[:-1], len(_WAYS), 4)
    content, function = matches[..., :2], matches[..., 2:]  # [..., way, hypothesis and reference]
    matched = np.einsum("...wt,w->...t", _DELTA * content + (1 - _DELTA) * function, _WAYS)
    lengths, function_words = sums[..., _LENGTHS], sums[..., 2:4]
    counted = _DELTA * (lengths - function_words) + (1 - _DELTA) * function_words
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(matched / counted, -1, 0)
        mean = precision * recall / (_ALPHA * precision + (1 - _ALPHA) * recall)
        fragments = sums[..., _CHUNKS] / sums[..., _MATCHED].mean(axis=-1)
        return np.nan_to_num(mean * (1 - _GAMMA * fragments**_BETA))


@contextmanager
def _paraphrases_of(texts: Iterable[str], timeout: float) -> Iterator[Path]:
    """A table of the paraphrases that METEOR can find between `texts`; a file that lasts as long as the context.

    Raises MeteorUnavailable without METEOR's table, MeteorError when it cannot be filtered within `timeout` seconds.
    """
    table = paraphrase_table()
    with tempfile.TemporaryDirectory(prefix="meteor-") as folder:
        filtered = Path(folder) / table.name
        # A process of its own: in a thread it would wait for the other scores, and they for it.
        try:
            done = subprocess.run(
                [sys.executable, "-I", paraphrases.__file__, table, filtered], input="\n".join(texts), timeout=timeout,
                stderr=subprocess.PIPE, encoding="utf-8", errors="replace", start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise MeteorError(f"METEOR's paraphrases were not read within {timeout:g} s") from error
        if done.returncode != 0:
            raise MeteorError(f"METEOR's paraphrases could not be filtered{_last_words(done.stderr)}")
        yield filtered


def _ask_all(processes: list["MeteorProcess"], shares: list[list[str]]) -> list[list[str]]:
    """One answer a line, of every process to its share of lines, at the same time. Raises MeteorError."""

    def ask(process: MeteorProcess, share: list[str]) -> list[str]:
        try:
            return process.ask(share, replies=len(share))
        except MeteorError:
            for other in processes:  # what they would still answer is of no use
                other.process.kill()
            raise

    with ThreadPoolExecutor(len(processes)) as pool:
        asked = [pool.submit(ask, process, share) for process, share in zip(processes, shares, strict=True)]
        done, _ = wait(asked, return_when=FIRST_EXCEPTION)
        for future in done:  # the first failure, not those that it brought about
            future.result()
        return [future.result() for future in asked]


class MeteorProcess:
    """A running METEOR jar that answers lines with lines; a context manager that kills it on leaving."""

    def __init__(self, table: Path, timeout: float = REPLY_TIMEOUT) -> None:
        """Start the jar with the paraphrases of `table`. Raises MeteorUnavailable without Java or without the jar."""
        java, jar = _java(), meteor_jar()
        self._timeout = timeout
        self._stderr = tempfile.TemporaryFile()
        # The quick compiler alone: on thousands of pairs the thorough one costs more than it gains.
        # A session of its own, so that a Ctrl-C meant for the training run leaves the scores of its validation whole.
        self.process = subprocess.Popen(
            [
                java, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx2G", "-jar", jar.name,
                "-", "-", "-stdio", "-l", "en", "-norm", "-a", table.resolve(),
            ],
            cwd=jar.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr,
            encoding="utf-8", errors="replace", start_new_session=True,
        )
        self._replies: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "MeteorProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process and wait for its end."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # what was still to be written has no reader any more
        self._stderr.close()

    def ask(self, lines: Iterable[str], replies: int) -> list[str]:
        """Send `lines` and return the `replies` lines that answer them, stripped. Raises MeteorError.

        Lines go out from a thread of their own: neither side then ever waits for the other's full pipe.
        """
        writer = threading.Thread(target=self._write, args=(lines,), daemon=True)
        writer.start()
        answers = []
        while len(answers) < replies:
            try:
                answer = self._replies.get(timeout=self._timeout)
            except queue.Empty:
                self.process.kill()
                raise MeteorError(
                    f"METEOR was silent for {self._timeout:g} s and was killed{self._last_line()}"
                ) from None
            if answer is None:
                raise MeteorError(
                    f"METEOR died with exit status {self.process.wait()} after {len(answers)} of {replies} answers"
                    f"{self._last_line()}"
                )
            answers.append(answer)
        writer.join()
        return answers

    def _write(self, lines: Iterable[str]) -> None:
        try:
            for line in lines:
                self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except (OSError, ValueError):
            pass  # the process is gone or closed: the reader reports it

    def _read(self) -> None:
        for line in self.process.stdout:
            self._replies.put(line.strip())
        self._replies.put(None)

    def _last_line(self) -> str:
        """The last line that the ended process wrote to stderr, as the end of a message."""
        self.process.wait()
        self._stderr.seek(0)
        return _last_words(self._stderr.read().decode("utf-8", "replace"))


def _last_words(stderr: str) -> str:
    """The last line of what a process wrote to stderr, as the end of a message."""
    said = [line.strip() for line in stderr.split("\n") if line.strip()]
    return f"; its last words: {said[-1]}" if said else ""


def _java() -> str:
    """The path of Java. Raises MeteorUnavailable where there is none."""
    java = shutil.which("java")
    if java is None:
        raise MeteorUnavailable(
            "METEOR needs Java and there is no `java` on PATH: install a Java runtime "
            "(Debian, Ubuntu: apt-get install default-jre-headless)"
        )
    return java


def meteor_jar() -> Path:
    """Where pycocoevalcap keeps the jar. Raises MeteorUnavailable where it is not installed."""
    package = find_spec("pycocoevalcap")
    for folder in package.submodule_search_locations if package else []:
        jar = Path(folder) / "meteor" / "meteor-1.5.jar"
        if jar.is_file():
            return jar
    raise MeteorUnavailable("METEOR's jar is not installed: install pycocoevalcap (see requirements.txt)")


def paraphrase_table() -> Path:
    """Where pycocoevalcap keeps METEOR's paraphrases. Raises MeteorUnavailable where they are not installed."""
    table = meteor_jar().parent / "data" / "paraphrase-en.gz"
    if not table.is_file():
        raise MeteorUnavailable(f"METEOR's paraphrases are not installed: {table} is missing; reinstall pycocoevalcap")
    return table
