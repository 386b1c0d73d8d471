"""METEOR through pycocoevalcap's jar, driven so that it cannot hang.

The package's own wrapper blocks for ever when a text holds a newline, when the jar dies, or after any exception. Here
every text is one line, replies are read by a thread and awaited with a time-out, and the process is killed on every
way out. The scores are those of the package's wrapper.
"""

import os
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

_SEPARATOR = "|||"
# Silence after which the jar counts as dead. It reads its paraphrase table before the first reply: seconds on an idle
# machine, a minute on a busy one.
REPLY_TIMEOUT = 300.0
# A process takes as long to start as to score so many pairs, and up to a GiB of memory.
_PAIRS_WORTH_A_PROCESS, _MOST_PROCESSES = 1500, 2


class MeteorUnavailable(Exception):
    """METEOR cannot be computed on this machine; the text says why and what mends it."""


class MeteorError(Exception):
    """The METEOR process died, fell silent or answered nonsense; the text says which, with its last words."""


def one_line(text: str) -> str:
    """`text` on one line, words parted by single spaces, without METEOR's field separator."""
    return " ".join(text.replace(_SEPARATOR, " ").split())


def meteor_scores(
    references: Sequence[str], hypotheses: Sequence[str], timeout: float = REPLY_TIMEOUT
) -> tuple[float, list[float]]:
    """METEOR 1.5 (English, normalised) of N hypotheses against one reference each: (of the corpus, of every pair).

    Raises MeteorUnavailable without Java or the jar, MeteorError when the process dies or is silent for `timeout`
    seconds, and ValueError for lists of different or no length.
    """
    if len(references) != len(hypotheses) or not references:
        raise ValueError(f"METEOR needs a reference a hypothesis: {len(references)} and {len(hypotheses)} given")
    # `SCORE ||| reference ||| hypothesis` is answered by a line of statistics, `EVAL ||| statistics ||| ...` by the
    # score of each and then the score of all. Statistics of a pair depend on that pair alone.
    lines = [
        f"SCORE {_SEPARATOR} {one_line(reference)} {_SEPARATOR} {one_line(hypothesis)}"
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    shares = max(1, min(len(lines) // _PAIRS_WORTH_A_PROCESS, _MOST_PROCESSES, os.cpu_count() or 1))
    with ExitStack() as stack:
        processes = [stack.enter_context(MeteorProcess(timeout)) for _ in range(shares)]
        statistics = [""] * len(lines)
        for share, answered in enumerate(_ask_all(processes, [lines[share::shares] for share in range(shares)])):
            statistics[share::shares] = answered
        answers = processes[0].ask([f" {_SEPARATOR} ".join(["EVAL", *statistics])], replies=len(lines) + 1)
    try:
        *each, corpus = [float(answer) for answer in answers]
    except ValueError as error:
        raise MeteorError(f"METEOR answered something that is not a score: {error}") from error
    return corpus, each


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

    def __init__(self, timeout: float = REPLY_TIMEOUT) -> None:
        """Start the jar. Raises MeteorUnavailable without Java or without the jar."""
        java = shutil.which("java")
        if java is None:
            raise MeteorUnavailable(
                "METEOR needs Java and there is no `java` on PATH: install a Java runtime "
                "(Debian, Ubuntu: apt-get install default-jre-headless)"
            )
        jar = meteor_jar()
        self._timeout = timeout
        self._last_words = tempfile.TemporaryFile()
        # A session of its own, so that a Ctrl-C meant for the training run leaves the scores of its validation whole.
        self.process = subprocess.Popen(
            [java, "-jar", "-XX:+UseSerialGC", "-Xmx2G", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"],
            cwd=jar.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._last_words,
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
        self._last_words.close()

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
        self._last_words.seek(0)
        lines = [line.strip() for line in self._last_words.read().decode("utf-8", "replace").split("\n")]
        said = [line for line in lines if line]
        return f"; its last words: {said[-1]}" if said else ""


def meteor_jar() -> Path:
    """Where pycocoevalcap keeps the jar. Raises MeteorUnavailable where it is not installed."""
    package = find_spec("pycocoevalcap")
    for folder in package.submodule_search_locations if package else []:
        jar = Path(folder) / "meteor" / "meteor-1.5.jar"
        if jar.is_file():
            return jar
    raise MeteorUnavailable("METEOR's jar is not installed: install pycocoevalcap (see requirements.txt)")
