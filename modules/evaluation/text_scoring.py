"""Scores generated reports from their texts alone: `python -m modules.score`."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError, wrong_value
from data.processes.worker_pool import available_cores
from modules.evaluation.baselines.reports import report_baselines
from modules.evaluation.metrics.chexbert import load_chexbert
from modules.evaluation.metrics.comparers import ReportComparer, comparer_scores
from modules.evaluation.metrics.directions import arrow, higher_is_better
from modules.evaluation.metrics.labelers import (
    ReportLabeler,
    RuleLabeler,
    fill_missing_no_finding,
    merge_labels_by_study,
)
from modules.evaluation.metrics.packages.package_options import describe_comparers, open_comparers
from modules.evaluation.metrics.report_observations import (
    REPORT_NAMES,
    report_observation_scores,
    truth_observation_scores,
)
from modules.evaluation.metrics.text_scores import (
    NO_REFERENCE,
    TEXT_GROUPS,
    ParsedReports,
    ReportParser,
    describe_comparison,
    has_reference,
    text_scores,
)
from modules.evaluation.metrics.weighted import ScoreResults, ScoreSet, absent_scores, merge_scores
from modules.evaluation.predictions import Predictions, load_predictions
from modules.evaluation.score_tables import BASELINE_TITLES, format_score
from modules.evaluation.text_protocol import PreparedTexts, describe_intervals, prepare_texts


def add_reading_options(parser: ArgumentParser) -> None:
    """Add the options of the labeler and of METEOR, and the number of processes."""
    parser.add_argument("--labeler", choices=("rules", "chexbert"), default="rules", help="reads the 14 observations")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="chexbert.pth and vocab.txt of --labeler chexbert")
    parser.add_argument(
        "--workers", type=int, default=available_cores(), metavar="N", help="processes; the scores do not depend on it"
    )
    parser.add_argument("--no-meteor", action="store_true", help="leave out METEOR, which needs Java and takes longest")


def select_labeler(options: Namespace) -> ReportLabeler:
    """Return the labeler of `add_reading_options`. Raises UserError if its weights or its package are missing."""
    if options.labeler == "rules":
        return RuleLabeler(options.workers)
    if options.weights is None:
        raise UserError("--labeler chexbert needs --weights DIR, the folder with chexbert.pth and vocab.txt")
    return load_chexbert(options.weights)


def score_predictions(options: Namespace) -> dict[str, Any]:
    """Compute all scores as a JSON object. Raises UserError for input that the user can fix.

    Keys:
        predictions, reports, labeler           what was scored
        protocol, applied                       what was done to the texts
        scores, absent, intervals, tables       as in metrics.json
        higher_is_better                        by score; null if neither direction is better, or it is unknown
        no_interval                             score -> why resampling cannot give an interval
        compared_with                           by score, what it compares generated reports with
        baselines, baseline_intervals, absent_baselines   of training reports, as in metrics.json; empty without them
        study_level                             with --studies: scores, absent and intervals by study
    """
    if options.workers < 1:
        raise wrong_value("--workers", options.workers, "must be at least 1")
    if options.resamples < 0:
        raise wrong_value("--resamples", options.resamples, "must be at least 0")
    (predictions,) = load_predictions([options.predictions], options)
    labeler = select_labeler(options)
    with open_comparers(options) as comparers:
        results = _score_texts(predictions, labeler, comparers, options)
    return results


def _score_texts(
    predictions: Predictions, labeler: ReportLabeler, comparers: Sequence[ReportComparer], options: Namespace
) -> dict[str, Any]:
    """See `score_predictions`."""
    texts = prepare_texts(predictions, options)
    parser = ReportParser(labeler, options.workers)
    references, generated = ParsedReports(texts.references, parser), ParsedReports(texts.generated, parser)
    (truth, known), (certain, _) = predictions.truth(), predictions.truth(uncertain=False)

    def score(reports: ParsedReports, unprepared: Sequence[str]) -> ScoreResults:
        scores = text_scores(
            references, reports, texts.scored_references, truth, known, not options.no_meteor, texts.frequencies,
            certain, workers=options.workers,
        )
        # Other packages prepare texts in their own ways.
        by_packages = (comparer_scores(comparer, predictions.references, unprepared) for comparer in comparers)
        return merge_scores([scores, *by_packages]).evaluate(
            len(predictions), options.resamples, predictions.studies, options.workers
        )

    scored = score(generated, predictions.generated)
    baselines = {}
    if texts.training is not None:
        for name, reports in report_baselines(texts.training, len(predictions)).items():
            baselines[name] = score(ParsedReports(reports, parser), reports)
    results = {
        "predictions": str(predictions.path), "reports": len(predictions), "protocol": texts.protocol,
        "applied": _describe_steps(texts, labeler, predictions, options) | describe_comparers(options, comparers),
        "labeler": labeler.name, **_json_scores(scored), "tables": scored.tables,
        "higher_is_better": {
            name: scored.higher_is_better[name] if name in scored.higher_is_better else higher_is_better(name)
            for name in scored.scores
        },
        "no_interval": scored.no_interval,
        "compared_with": {name: describe_comparison(name, texts.protocol_label) for name in scored.scores},
        "baselines": {name: each.scores for name, each in baselines.items()},
        "baseline_intervals": {name: each.intervals for name, each in baselines.items()},
        "absent_baselines": {name: each.absent for name, each in baselines.items()},
    }
    if predictions.studies is not None:
        included = has_reference(texts.references, texts.scored_references)
        by_study = _study_level_scores(predictions, references, generated, included)
        results["study_level"] = _json_scores(by_study.evaluate(_count_studies(predictions), options.resamples))
    return results


def _study_level_scores(
    predictions: Predictions, references: ParsedReports, generated: ParsedReports, included: NDArray
) -> ScoreSet:
    """Observation scores by study: each study has the merged labels of all its reports.

    included   [reports] bool: those with a reference; the others count only against the data set's labels
    """
    studies = predictions.studies
    compared = absent_scores(REPORT_NAMES, NO_REFERENCE)
    if included.any():
        with_reference, renumbered = np.unique(studies[included], return_inverse=True)
        compared = report_observation_scores(
            *(_labels_by_study(reports.select(included), renumbered) for reports in (references, generated))
        ).expand_to_all(np.isin(np.arange(_count_studies(predictions)), with_reference))
    labels = None if predictions.labels is None else merge_labels_by_study(predictions.labels, studies)
    by_study = replace(predictions, labels=labels)
    certain, _ = by_study.truth(uncertain=False)
    return compared | truth_observation_scores(*by_study.truth(), _labels_by_study(generated, studies), certain)


def _labels_by_study(reports: ParsedReports, studies: NDArray) -> list[dict[str, int]]:
    return merge_labels_by_study(fill_missing_no_finding(reports.labels), studies)


def _count_studies(predictions: Predictions) -> int:
    return int(predictions.studies.max()) + 1


def _describe_steps(
    texts: PreparedTexts, labeler: ReportLabeler, predictions: Predictions, options: Namespace
) -> dict[str, str]:
    """What was done, in words: step -> description."""
    applied = texts.applied | {"observations": f"read by the labeler '{labeler.name}' from complete reports"}
    empty = int((~has_reference(texts.references, texts.scored_references)).sum())
    if empty:
        applied["empty references"] = f"{empty} of {len(predictions)} reports are in no score that compares with them"
    if predictions.studies is None:
        return applied | describe_intervals(options.resamples, "reports", len(predictions))
    units = "studies with all their reports"
    return applied | describe_intervals(options.resamples, units, _count_studies(predictions))


def _json_scores(results: ScoreResults) -> dict[str, Any]:
    return {"scores": results.scores, "absent": results.absent, "intervals": results.intervals}


def format_text_scores(results: dict[str, Any]) -> str:
    """The results of `score_predictions` as text: one line per score, with the direction of better values and what it
    compares with."""
    lines = [f"{results['reports']} reports of {results['predictions']}"]
    lines += [f"  {step}: {description}" for step, description in results["applied"].items()]
    groups = dict(TEXT_GROUPS)
    grouped = {name for names in groups.values() for name in names}
    by_packages = tuple(name for name in results["scores"] if name not in grouped)
    if by_packages:
        groups["By other models"] = by_packages
    for title, names in groups.items():
        rows = _format_rows(results, names, results["compared_with"], results["baselines"])
        columns = "".join(f"{BASELINE_TITLES[name]:>15}" for name in results["baselines"])
        lines += ["", f"{title:79}{columns}".rstrip(), *rows] if rows else []
    if "study_level" in results:
        study_level = results["study_level"]
        study_level = study_level | {"higher_is_better": results["higher_is_better"]}
        rows = _format_rows(study_level, tuple(study_level["scores"]), results["compared_with"], {})
        lines += ["", "Observations by study", *rows]
    reasons = results["absent"]
    for reason in dict.fromkeys(reasons.values()):
        names = ", ".join(name for name, why in reasons.items() if why == reason)
        lines += ["", f"Absent, because {reason}: {names}"]
    shown = {name: why for name, why in results["no_interval"].items() if name not in reasons}
    for reason in dict.fromkeys(shown.values()):
        names = ", ".join(name for name, why in shown.items() if why == reason)
        lines += ["", f"No interval, because {reason}: {names}"]
    return "\n".join(lines).rstrip()


def _format_rows(
    results: dict[str, Any], names: Sequence[str], compared_with: dict[str, str], baselines: dict[str, dict[str, Any]]
) -> list[str]:
    """One line per score that is not absent: value, interval, values of the baselines, what it compares with."""
    rows = []
    for name in names:
        value, interval = results["scores"][name], results["intervals"].get(name)
        if value is not None:
            bounds = "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
            columns = "".join(f"{format_score(scores[name]):>15}" for scores in baselines.values())
            better = arrow(results["higher_is_better"].get(name))
            rows.append(f"  {name:40}{value:10.3f} {better:1}  {bounds:22} {columns}  {compared_with[name]}")
    return rows
