"""METEOR by pycocoevalcap's jar, run in a way that cannot hang.

The package's wrapper blocks forever if a text contains a newline, if the jar dies, and after any exception. Here, every
text is one line, a thread reads the replies, waiting for them has a timeout, and the process is killed in every case.
The jar loads only the paraphrases that the texts can use (`paraphrases.py`), which saves most of its start-up time and
memory. The scores are the same as those of the package's wrapper.
"""

import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.processes.worker_pool import available_cores
from modules.evaluation.metrics.text import paraphrases

_SEPARATOR = "|||"
# Seconds without a reply after which the jar counts as dead. It starts in 1 s on an idle machine, 10 s on a busy one.
REPLY_TIMEOUT = 300.0
# Starting a process takes about as long as scoring this many pairs.
_PAIRS_WORTH_A_PROCESS = 1500
# Each process may take 2 GB.
_MAX_PROCESSES = 8

# The jar's parameters for English, and the weights of exact, stem, synonym and paraphrase matches.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_MATCH_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
# Number of the jar's statistics, and columns among them; slices have one column each for hypothesis and reference.
_STATISTICS, _CHUNKS, _LENGTHS, _MATCHED = 23, 20, slice(0, 2), slice(21, 23)


class MeteorUnavailable(Exception):
    """METEOR cannot run on this machine; the message says why and how to fix it."""


class MeteorError(Exception):
    """The METEOR process died, stopped replying or gave an invalid reply; the message says which."""


def one_line(text: str) -> str:
    """Return `text` on one line, with single spaces between words and without METEOR's field separator."""
    return " ".join(text.replace(_SEPARATOR, " ").split())


def meteor_statistics(
    references: Sequence[str], hypotheses: Sequence[str], timeout: float = REPLY_TIMEOUT, workers: int = 2
) -> NDArray:
    """Return [hypotheses, 23]: the counts of METEOR 1.5 (English, normalised) for hypotheses with one reference each.

    Columns 0-1: words of the hypothesis, of the reference; 2-3: function words among them; 4-19: for each kind of match
    (exact, stem, synonym, paraphrase) matching content words of the hypothesis and of the reference, then matching
    function words; 20: chunks; 21-22: matching words of the hypothesis, of the reference. The score of a corpus, or of
    any part of it, is `meteor_from_sums` of the summed rows. At most `workers` processes share the pairs.

    Raises MeteorUnavailable without Java or the jar, MeteorError if the process dies or is silent for `timeout`
    seconds, and ValueError for empty lists or lists of different length.
    """
    if len(references) != len(hypotheses) or not references:
        raise ValueError(f"METEOR needs one reference per hypothesis, got {len(references)} and {len(hypotheses)}")
    # The jar answers `SCORE ||| reference ||| hypothesis` with one line of statistics for that pair.
    references, hypotheses = [[one_line(text) for text in texts] for texts in (references, hypotheses)]
    lines = [
        f"SCORE {_SEPARATOR} {reference} {_SEPARATOR} {hypothesis}"
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    statistics = _parse_statistics(_ask_jar(lines, [*references, *hypotheses], timeout, workers))
    # The jar's rule for sums: if all words match in a single chunk, that chunk does not count.
    perfect = (statistics[:, _CHUNKS] == 1) & (statistics[:, _MATCHED] == statistics[:, _LENGTHS]).all(axis=1)
    statistics[perfect, _CHUNKS] = 0
    return statistics


def meteor_from_sums(sums: NDArray) -> NDArray:
    """Return METEOR [...] from sums [..., 23] of `meteor_statistics`, by the jar's formula and parameters for English.

    Denkowski and Lavie, Meteor Universal, WMT 2014: with weighted matches, precision P and recall R, the harmonic mean
    P R / (alpha P + (1 - alpha) R), times 1 - gamma (chunks / matches) ** beta. 0 if nothing matches.
    """
    kinds = len(_MATCH_WEIGHTS)
    matches = sums[..., 4 : 4 + 4 * kinds].reshape(*sums.shape[:-1], kinds, 4)
    content, function = matches[..., :2], matches[..., 2:]  # [..., kind, hypothesis and reference]
    matched = np.einsum("...kt,k->...t", _DELTA * content + (1 - _DELTA) * function, _MATCH_WEIGHTS)
    lengths, function_words = sums[..., _LENGTHS], sums[..., 2:4]
    weighted_lengths = _DELTA * (lengths - function_words) + (1 - _DELTA) * function_words
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(matched / weighted_lengths, -1, 0)
        mean = precision * recall / (_ALPHA * precision + (1 - _ALPHA) * recall)
        fragmentation = sums[..., _CHUNKS] / sums[..., _MATCHED].mean(axis=-1)
        return np.nan_to_num(mean * (1 - _GAMMA * fragmentation**_BETA))


def _ask_jar(lines: list[str], texts: list[str], timeout: float, workers: int) -> list[str]:
    """Return the jar's answer to each line; several processes share the lines. `texts` select the paraphrases."""
    shares = max(1, min(len(lines) // _PAIRS_WORTH_A_PROCESS, workers, _MAX_PROCESSES, available_cores()))
    with ExitStack() as stack:
        _find_java()  # without Java there is no point in preparing paraphrases
        table = stack.enter_context(_filtered_paraphrases(texts, timeout))
        processes = [stack.enter_context(MeteorProcess(table, timeout)) for _ in range(shares)]
        answers = [""] * len(lines)
        for share, replies in enumerate(_ask_all(processes, [lines[share::shares] for share in range(shares)])):
            answers[share::shares] = replies
    return answers


def _parse_statistics(answers: list[str]) -> NDArray:
    """Parse the jar's answers into [hypotheses, 23]. Raises MeteorError if one is not a line of 23 numbers."""
    try:
        statistics = np.array([[float(number) for number in answer.split()] for answer in answers])
    except ValueError as error:
        raise MeteorError(f"METEOR's answer is not a line of statistics: {error}") from error
    if statistics.shape != (len(answers), _STATISTICS):
        raise MeteorError(f"METEOR's answer is not a line of {_STATISTICS} statistics: {answers[0]!r}")
    return statistics


@contextmanager
def _filtered_paraphrases(texts: Iterable[str], timeout: float) -> Iterator[Path]:
    """Provide a table of the paraphrases that can match between `texts`; the file exists only inside the context.

    Raises MeteorUnavailable without METEOR's table, MeteorError if filtering fails or takes over `timeout` seconds.
    """
    table = paraphrase_table()
    with tempfile.TemporaryDirectory(prefix="meteor-") as folder:
        filtered = Path(folder) / table.name
        # A separate process: a thread would compete with the other scores for the interpreter.
        try:
            done = subprocess.run(
                [sys.executable, "-I", paraphrases.__file__, table, filtered], input="\n".join(texts), timeout=timeout,
                stderr=subprocess.PIPE, encoding="utf-8", errors="replace", start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise MeteorError(f"METEOR's paraphrases were not read within {timeout:g} s") from error
        if done.returncode != 0:
            raise MeteorError(f"METEOR's paraphrases could not be filtered{_last_stderr_line(done.stderr)}")
        yield filtered


def _ask_all(processes: list["MeteorProcess"], shares: list[list[str]]) -> list[list[str]]:
    """Send each process its share of lines, all at the same time; return one answer per line. Raises MeteorError."""

    failures: list[MeteorError] = []

    def ask(process: MeteorProcess, share: list[str]) -> list[str]:
        try:
            return process.ask(share, replies=len(share))
        except MeteorError as error:
            failures.append(error)
            for other in processes:  # their answers are no longer needed
                other.process.kill()
            return []

    with ThreadPoolExecutor(len(processes)) as pool:
        answers = list(pool.map(ask, processes, shares))
    if failures:  # the others followed from killing the processes
        raise failures[0]
    return answers


class MeteorProcess:
    """A running METEOR jar that answers lines with lines; a context manager that kills it on exit."""

    def __init__(self, table: Path, timeout: float = REPLY_TIMEOUT) -> None:
        """Start the jar with the paraphrases of `table`. Raises MeteorUnavailable without Java or the jar."""
        java, jar = _find_java(), meteor_jar()
        self._timeout = timeout
        self._stderr = tempfile.TemporaryFile()
        # TieredStopAtLevel=1: for thousands of pairs, the optimising compiler costs more than it gains.
        # A new session, so that a Ctrl-C meant for the training run does not interrupt the scores of its validation.
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
        """Kill the process and wait until it has ended."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # the killed process did not read everything
        self._stderr.close()

    def ask(self, lines: Iterable[str], replies: int) -> list[str]:
        """Send `lines` and return the next `replies` lines of output, stripped.

        A separate thread writes, so that neither side can block on the other's full pipe. Raises MeteorError if the
        process dies, or is silent for longer than the timeout.
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
                    f"METEOR ended with exit status {self.process.wait()} after {len(answers)} of {replies} answers"
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
            pass  # the process has ended or was closed; the reader reports it

    def _read(self) -> None:
        for line in self.process.stdout:
            self._replies.put(line.strip())
        self._replies.put(None)

    def _last_line(self) -> str:
        """Wait for the process to end and return the last line of its stderr as the end of a message."""
        self.process.wait()
        self._stderr.seek(0)
        return _last_stderr_line(self._stderr.read().decode("utf-8", "replace"))


def _last_stderr_line(stderr: str) -> str:
    """Return the last line of `stderr` as the end of a message; empty if there is none."""
    lines = [line.strip() for line in stderr.split("\n") if line.strip()]
    return f"; last line of stderr: {lines[-1]}" if lines else ""


def _find_java() -> str:
    """Return the path of Java. Raises MeteorUnavailable if it is not installed."""
    java = shutil.which("java")
    if java is None:
        raise MeteorUnavailable(
            "METEOR needs Java, and there is no `java` on PATH: install a Java runtime "
            "(Debian, Ubuntu: apt-get install default-jre-headless)"
        )
    return java


def meteor_jar() -> Path:
    """Return the path of pycocoevalcap's METEOR jar. Raises MeteorUnavailable if it is not installed."""
    package = find_spec("pycocoevalcap")
    for folder in package.submodule_search_locations if package else []:
        jar = Path(folder) / "meteor" / "meteor-1.5.jar"
        if jar.is_file():
            return jar
    raise MeteorUnavailable("METEOR's jar is not installed: install pycocoevalcap (see requirements.txt)")


def paraphrase_table() -> Path:
    """Return the path of METEOR's paraphrases. Raises MeteorUnavailable if they are not installed."""
    table = meteor_jar().parent / "data" / "paraphrase-en.gz"
    if not table.is_file():
        raise MeteorUnavailable(f"METEOR's paraphrases are not installed: {table} is missing; reinstall pycocoevalcap")
    return table
