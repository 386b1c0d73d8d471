"""Every score of generated reports, without a model or an image, for anyone's system.

    python -m modules.score PREDICTIONS.csv [--protocol r2gen|full] [--out SCORES.json]

PREDICTIONS.csv has columns id, reference and generated; a predictions.jsonl of ours, or its run folder, will do. What
every score is: docs/evaluation.md.
"""

import json
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.console import print_to_reader
from data.errors import UserError
from data.ontology import observation_names
from data.text.label_tables import LabelTable, read_label_table
from data.text.report_tables import write_lines
from data.worker_pool import available_cores
from modules.evaluation.baselines import report_baselines
from modules.evaluation.metrics.chexbert import load_chexbert
from modules.evaluation.metrics.comparers import RadEvalComparer, RadGraphComparer, ReportComparer, comparer_scores
from modules.evaluation.metrics.labelers import ReportLabeler, RuleLabeler, by_study, called_normal_or_not
from modules.evaluation.metrics.report_observations import (
    REPORT_NAMES,
    report_observation_scores,
    truth_observation_scores,
)
from modules.evaluation.metrics.text_scores import (
    NO_REFERENCE,
    TEXT_GROUPS,
    Readings,
    compared_with,
    text_scores,
    with_reference,
)
from modules.evaluation.metrics.weighted import RESAMPLES, Scored, ScoreSet, absent, merged
from modules.evaluation.predictions import Predictions, read_predictions
from modules.evaluation.results import COLUMNS, score_text
from modules.evaluation.text_protocol import PreparedTexts, add_protocol_options, intervals_applied, prepare_texts


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 after one line on stderr that says what the user can mend."""
    parser = ArgumentParser(
        prog="python -m modules.score", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="CSV, predictions.jsonl or run folder")
    add_protocol_options(parser)
    add_reading_options(parser)
    add_data_options(parser)
    parser.add_argument("--radgraph", type=Path, metavar="DIR", help="RadGraph F1 with the model in DIR")
    parser.add_argument("--radeval", nargs="+", metavar="METRIC", help="scores of the package RadEval, by its names")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, metavar="N", help="of studies, for intervals")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write scores, intervals and tables")
    options = parser.parse_args(arguments)
    try:
        results = score(options)
        if options.out is not None:
            write_lines(options.out, [json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)])
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print_to_reader(score_text_table(results))
    return 0


def add_data_options(parser: ArgumentParser) -> None:
    """What is known of the reports beside their texts; `predictions_of` reads it."""
    parser.add_argument("--labels", type=Path, metavar="FILE", help="the data set's own observations: truth_* scores")
    parser.add_argument(
        "--studies", metavar="COLUMN", help="column of the study of a report, whose images belong together"
    )


def add_reading_options(parser: ArgumentParser) -> None:
    """Who reads the reports, and with how many processes."""
    parser.add_argument("--labeler", choices=("rules", "chexbert"), default="rules", help="reads the 14 observations")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="chexbert.pth and vocab.txt of --labeler chexbert")
    parser.add_argument(
        "--workers", type=int, default=available_cores(), metavar="N", help="processes; their number changes no score"
    )
    parser.add_argument("--no-meteor", action="store_true", help="leave METEOR out: it needs Java and takes longest")


def chosen_labeler(options: Namespace) -> ReportLabeler:
    """The labeler of `add_reading_options`. Raises UserError where its weights or its package are missing."""
    if options.labeler == "rules":
        return RuleLabeler(options.workers)
    if options.weights is None:
        raise UserError("--labeler chexbert needs --weights DIR, the folder of chexbert.pth and vocab.txt")
    return load_chexbert(options.weights)


def score(options: Namespace) -> dict[str, Any]:
    """All scores as plain JSON. Raises UserError for what the user can mend.

    Keys: predictions, reports, protocol and applied (what was done to the texts), labeler; scores, absent, intervals
    and tables as in metrics.json, and compared_with, by score; baselines, baseline_intervals and absent_baselines as
    there, of training reports, where those are given; study_level with scores, absent and intervals, for reports that
    belong to studies.
    """
    if options.workers < 1 or options.resamples < 0:
        raise UserError("--workers takes 1 or more, --resamples 0 or more")
    (predictions,) = predictions_of([options.predictions], options)
    labeler = chosen_labeler(options)
    comparers: list[ReportComparer] = [] if options.radgraph is None else [RadGraphComparer(options.radgraph)]
    comparers += [] if options.radeval is None else [RadEvalComparer(options.radeval)]
    texts = prepare_texts(predictions, options)
    references = Readings.of(texts.references, labeler, options.workers)
    generated = Readings.of(texts.generated, labeler, options.workers)
    (truth, known), (certain, _) = predictions.truth(), predictions.truth(uncertain=False)

    def scores_of(written: Readings) -> ScoreSet:
        scores = text_scores(
            references, written, texts.scored_references, truth, known, not options.no_meteor, texts.frequencies,
            certain,
        )
        others = (comparer_scores(comparer, texts.references, written.texts) for comparer in comparers)
        return merged([scores, *others])

    scored = scores_of(generated).scored(len(predictions), options.resamples, predictions.studies)
    baselines = {}
    if texts.training is not None:
        for name, reports in report_baselines(texts.training, len(predictions)).items():
            answered = Readings.of(reports, labeler, options.workers)
            baselines[name] = scores_of(answered).scored(len(predictions), options.resamples, predictions.studies)
    results = {
        "predictions": str(predictions.path), "reports": len(predictions), "protocol": texts.protocol,
        "applied": _applied(texts, labeler, predictions, options), "labeler": labeler.name, **_plain(scored),
        "tables": scored.tables, "compared_with": {name: compared_with(name, texts.words) for name in scored.scores},
        "baselines": {name: each.scores for name, each in baselines.items()},
        "baseline_intervals": {name: each.intervals for name, each in baselines.items()},
        "absent_baselines": {name: each.absent for name, each in baselines.items()},
    }
    if predictions.studies is not None:
        kept = with_reference(texts.references, texts.scored_references)
        results["study_level"] = _plain(_study_level(predictions, references, generated, kept, options.resamples))
    return results


def _study_level(
    predictions: Predictions, references: Readings, generated: Readings, kept: NDArray, resamples: int
) -> Scored:
    """Observation scores of studies: the labels of all reports of a study together.

    kept   [N] bool: the reports that have a reference; the others count against the data set's labels alone
    """
    studies = predictions.studies
    count = int(studies.max()) + 1
    compared = absent(REPORT_NAMES, NO_REFERENCE)
    if kept.any():
        described, renumbered = np.unique(studies[kept], return_inverse=True)
        compared = report_observation_scores(
            *(_labels_by_study(readings.among(kept), renumbered) for readings in (references, generated))
        ).among(np.isin(np.arange(count), described))
    labels = None if predictions.labels is None else by_study(predictions.labels, studies)
    by_label = replace(predictions, labels=labels)
    truth = truth_observation_scores(
        *by_label.truth(), _labels_by_study(generated, studies), by_label.truth(uncertain=False)[0]
    )
    return (compared | truth).scored(count, resamples)


def _labels_by_study(readings: Readings, studies: NDArray) -> list[dict[str, int]]:
    return by_study(called_normal_or_not(readings.labels), studies)


def predictions_of(paths: Sequence[Path], options: Namespace) -> list[Predictions]:
    """The predictions at `paths` with what the options of `add_data_options` tell about them.

    Raises UserError as `read_predictions` and `read_label_table` do, and where the labels are of other reports.
    """
    predictions = [read_predictions(path, options.studies) for path in paths]
    if options.labels is None:
        return predictions
    table = read_label_table(options.labels)
    return [_with_labels(each, table, options.labels) for each in predictions]


def _with_labels(predictions: Predictions, table: LabelTable, path: Path) -> Predictions:
    """`predictions` with the observations of the `table` at `path`. Raises UserError where it knows none of them."""
    pairs = zip(predictions.ids, predictions.references, strict=True)
    found = [table.find(name, reference) for name, reference in pairs]
    if all(each is None for each in found):
        raise UserError(
            f"{path} has labels for none of the reports of {predictions.path}: do both files have the same ids?"
        )
    # A study that the table lacks has no known label; what a row leaves blank is absent, as a labeler leaves it.
    labels = [{} if each is None else dict.fromkeys(observation_names(), 0) | each for each in found]
    return replace(predictions, labels=labels)


def _applied(
    texts: PreparedTexts, labeler: ReportLabeler, predictions: Predictions, options: Namespace
) -> dict[str, str]:
    """What was done, in words."""
    applied = texts.applied | {"observations": f"read by the labeler '{labeler.name}' from complete reports"}
    empty = int((~with_reference(texts.references, texts.scored_references)).sum())
    if empty:
        applied["empty references"] = f"{empty} of {len(predictions)} reports are in no score that compares with them"
    studies = predictions.studies
    drawn = ("reports", len(predictions))
    if studies is not None:
        drawn = ("studies with all their reports", int(studies.max()) + 1)
    return applied | intervals_applied(options.resamples, *drawn)


def _plain(scored: Scored) -> dict[str, Any]:
    return {"scores": scored.scores, "absent": scored.absent, "intervals": scored.intervals}


def score_text_table(results: dict[str, Any]) -> str:
    """The scores as text, a line each, every one with what it compares with."""
    lines = [f"{results['reports']} reports of {results['predictions']}"]
    lines += [f"  {what}: {how}" for what, how in results["applied"].items()]
    groups = dict(TEXT_GROUPS)
    named = {name for names in groups.values() for name in names}
    others = tuple(name for name in results["scores"] if name not in named)
    if others:
        groups["By other models"] = others
    for title, names in groups.items():
        rows = _rows(results, names, results["compared_with"], results["baselines"])
        columns = "".join(f"{COLUMNS[name]:>15}" for name in results["baselines"])
        lines += ["", f"{title:77}{columns}".rstrip(), *rows] if rows else []
    if "study_level" in results:
        study_level = results["study_level"]
        rows = _rows(study_level, tuple(study_level["scores"]), results["compared_with"], {})
        lines += ["", "Observations by study", *rows]
    reasons = results["absent"]
    for reason in dict.fromkeys(reasons.values()):
        names = ", ".join(name for name, why in reasons.items() if why == reason)
        lines += ["", f"Absent, because {reason}: {names}"]
    return "\n".join(lines).rstrip()


def _rows(
    results: dict[str, Any], names: Sequence[str], compared: dict[str, str], baselines: dict[str, dict[str, Any]]
) -> list[str]:
    """A line for each of the scores that there are: value, interval, those of the baselines, what it compares with."""
    rows = []
    for name in names:
        value, interval = results["scores"][name], results["intervals"].get(name)
        if value is not None:
            between = "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
            others = "".join(f"{score_text(scores[name]):>15}" for scores in baselines.values())
            rows.append(f"  {name:40}{value:10.3f}  {between:22} {others}  {compared[name]}")
    return rows


if __name__ == "__main__":
    sys.exit(main())
