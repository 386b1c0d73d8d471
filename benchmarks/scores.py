"""Measures the scoring of a test split's reports: ours against pycocoevalcap's scorers, run one after the other.

    python -m benchmarks evaluate [--json FILE] [--repeats 3] [--reports 3858]

Reports are written by the phantom's grammar: reference and hypothesis are two reports on the same findings, and for
every third study on different ones. 3,858 is the size of MIMIC-CXR's test split. METEOR, most of the work, needs Java.
The floor is the time to read the reports and METEOR's table of paraphrases from memory once; it is far below both.
"""

import argparse
import shutil
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.support.measure import (
    OURS,
    Absent,
    Contender,
    add_common_arguments,
    compare,
    require_at_least,
    start_report,
)
from data.sources.phantom.findings import draw_findings
from data.sources.phantom.reports import write_report
from data.text.cleaning import clean
from modules.evaluation.metrics.text.meteor import paraphrase_table
from modules.evaluation.metrics.text.nlg import nlg_scores

PYCOCOEVALCAP = "pycocoevalcap"
REPORTS, TINY_REPORTS = 3858, 4
VIEW = "PA"


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `evaluate`."""
    parser = commands.add_parser("evaluate", help="scoring reports: ours, pycocoevalcap's scorers")
    add_common_arguments(parser)
    parser.add_argument(
        "--reports", type=int, help=f"number of reports (default: {REPORTS:,}, or {TINY_REPORTS} with --tiny)"
    )
    parser.add_argument("--no-meteor", dest="meteor", action="store_false", help="leave METEOR out for both contenders")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure and print both, and the largest difference between their scores."""
    require_at_least(1, options, "reports")
    report = start_report("evaluate", options)
    count = options.reports or (TINY_REPORTS if options.tiny else REPORTS)
    contenders = [
        Contender(OURS, partial(build_ours, count, options.meteor)),
        Contender(PYCOCOEVALCAP, partial(build_pycocoevalcap, count, options.meteor)),
    ]
    case = compare(f"{count} reports", contenders, options.repeats, options.threads)
    case.notes["score_ms_per_study"] = round(1000 * case.median(OURS) / count, 3)
    if PYCOCOEVALCAP in case.results:
        ours, theirs = case.results[OURS], case.results[PYCOCOEVALCAP]
        case.notes["largest difference of a score"] = max(abs(ours[name] - value) for name, value in theirs.items())
        case.notes["ours in units of theirs"] = round(1 / case.ratio(PYCOCOEVALCAP), 3)
    texts = sum(len(text.encode()) for texts in synthetic_reports(count) for text in texts)
    table = paraphrase_table().stat().st_size if options.meteor else 0
    case.floor_seconds = report.rates.floor(0, texts + table)
    report.add(case)
    report.write(options.json)


def synthetic_reports(count: int) -> tuple[list[str], list[str]]:
    """Return references and hypotheses: two reports on the same findings, for every third study on different ones."""
    references, hypotheses = [], []
    for number in range(count):
        generator = np.random.default_rng([7, number])
        findings = draw_findings(generator, VIEW)
        other = findings if number % 3 else draw_findings(generator, VIEW)
        for texts, reported in ((references, findings), (hypotheses, other)):
            sentences = write_report(reported, VIEW, generator)
            texts.append(clean(" ".join(sentence.text for sentence in sentences), "mimic_cxr"))
    return references, hypotheses


def build_ours(count: int, meteor: bool) -> Callable[[], dict[str, float]]:
    """Return our scoring; it returns scores by name."""
    references, hypotheses = synthetic_reports(count)

    def score() -> dict[str, float]:
        scores, _ = nlg_scores(references, hypotheses, meteor=meteor).compute(len(references))
        return {name: value for name, value in scores.items() if value is not None}

    return score


def build_pycocoevalcap(count: int, meteor: bool) -> Callable[[], dict[str, float]]:
    """Return the package's scoring, one scorer after the other in the order of the R2Gen family."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge

    if meteor and shutil.which("java") is None:
        raise Absent("METEOR needs Java: apt-get install default-jre-headless, or run with --no-meteor")
    references, hypotheses = synthetic_reports(count)
    truth = {number: [text] for number, text in enumerate(references)}
    generated = {number: [text] for number, text in enumerate(hypotheses)}

    def score() -> dict[str, float]:
        bleu, _ = Bleu(4).compute_score(truth, generated, verbose=0)
        scores = {f"bleu_{length}": float(value) for length, value in enumerate(bleu, start=1)}
        if meteor:
            scores["meteor"] = float(Meteor().compute_score(truth, generated)[0])
        scores["rouge_l"] = float(Rouge().compute_score(truth, generated)[0])
        scores["cider"] = float(Cider().compute_score(truth, generated)[0])
        return scores

    return score
