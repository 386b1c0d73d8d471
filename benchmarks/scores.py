"""Scoring all reports of a test split: ours against pycocoevalcap's scorers one after the other.

    python -m benchmarks evaluate [--json FILE] [--repeats 3] [--reports 3858]

The reports are invented by the phantom's grammar: the hypothesis of a study is the report of another of similar
findings. 3,858 is the size of MIMIC-CXR's test split. Java must be there: METEOR is most of the work.
"""

import argparse
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measure import OURS, Absent, Contender, add_common_arguments, compare, start_report
from data.report_cleaning import clean
from data.sources.phantom import draw_findings
from data.sources.phantom_reports import write_report
from modules.metrics.nlg import nlg_scores

PYCOCOEVALCAP = "pycocoevalcap"
REPORTS, TINY_REPORTS = 3858, 4
VIEW = "PA"


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `evaluate`."""
    parser = commands.add_parser("evaluate", help="scoring reports: ours, pycocoevalcap's scorers one after the other")
    add_common_arguments(parser)
    parser.add_argument("--reports", type=int, default=REPORTS, help="reports to score")
    parser.add_argument("--no-meteor", dest="meteor", action="store_false", help="leave METEOR out on both sides")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure both and print them with the largest difference between their scores."""
    report = start_report("evaluate", options)
    count = TINY_REPORTS if options.tiny else options.reports
    contenders = [
        Contender(OURS, partial(build_ours, count, options.meteor)),
        Contender(PYCOCOEVALCAP, partial(build_pycocoevalcap, count, options.meteor)),
    ]
    case = compare(f"{count} reports", contenders, options.repeats, options.threads)
    if PYCOCOEVALCAP in case.results:
        (ours, our_java), (theirs, their_java) = case.results[OURS], case.results[PYCOCOEVALCAP]
        case.notes["largest difference of a score"] = max(abs(ours[name] - value) for name, value in theirs.items())
        case.notes["ours in units of theirs"] = round(1 / case.ratio(PYCOCOEVALCAP), 3)
        case.notes["MiB of the Java processes, beside the peak"] = {OURS: our_java, PYCOCOEVALCAP: their_java}
    report.add(case)
    report.write(options.json)


def invented_reports(count: int) -> tuple[list[str], list[str]]:
    """References and hypotheses: two wordings of the same findings, and every third of others."""
    references, hypotheses = [], []
    for number in range(count):
        generator = np.random.default_rng([7, number])
        findings = draw_findings(generator, VIEW)
        other = findings if number % 3 else draw_findings(generator, VIEW)
        for texts, told in ((references, findings), (hypotheses, other)):
            sentences = write_report(told, VIEW, generator)
            texts.append(clean(" ".join(sentence.text for sentence in sentences), "mimic_cxr"))
    return references, hypotheses


def build_ours(count: int, meteor: bool) -> Callable[[], tuple[dict[str, float], float]]:
    """Our scores by name, and the most memory that METEOR's processes held."""
    references, hypotheses = invented_reports(count)

    def score() -> tuple[dict[str, float], float]:
        with _java_mib() as mib:
            scores, _ = nlg_scores(references, hypotheses, meteor=meteor).values(len(references))
        return {name: value for name, value in scores.items() if value is not None}, round(sum(mib.values()))

    return score


def build_pycocoevalcap(count: int, meteor: bool) -> Callable[[], tuple[dict[str, float], float]]:
    """The same by the package's scorers, in the R2Gen family's order, each waiting for the one before."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge

    if meteor and shutil.which("java") is None:
        raise Absent("METEOR needs Java: apt-get install default-jre-headless, or run with --no-meteor")
    references, hypotheses = invented_reports(count)
    truths = {number: [text] for number, text in enumerate(references)}
    written = {number: [text] for number, text in enumerate(hypotheses)}

    def score() -> tuple[dict[str, float], float]:
        bleu, _ = Bleu(4).compute_score(truths, written, verbose=0)
        scores = {f"bleu_{length}": float(value) for length, value in enumerate(bleu, start=1)}
        if meteor:
            with _java_mib() as mib:
                scores["meteor"] = float(Meteor().compute_score(truths, written)[0])
        scores["rouge_l"] = float(Rouge().compute_score(truths, written)[0])
        scores["cider"] = float(Cider().compute_score(truths, written)[0])
        return scores, round(sum(mib.values())) if meteor else 0

    return score


@contextmanager
def _java_mib() -> Iterator[dict[str, float]]:
    """The most memory of each Java process that this process starts meanwhile, by process id; empty without /proc.

    They are looked at while they live: what the system keeps of ended children counts this process's own memory too.
    """
    peaks: dict[str, float] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            for children in Path("/proc/self/task").glob("*/children"):
                try:
                    for process in children.read_text().split():
                        lines = Path("/proc", process, "status").read_text().splitlines()
                        status = dict(line.split(":\t", 1) for line in lines)
                        if status["Name"] == "java" and "VmHWM" in status:
                            peaks[process] = int(status["VmHWM"].split()[0]) / 1024
                except OSError:
                    continue  # the thread or the process ended while it was looked at

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        done.set()
        watcher.join()
