"""Collects the content of metrics.json and writes the results of one or several graph sources into a folder."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from numpy.typing import NDArray

from data.dataset import StudyDataset
from data.errors import UserError, reason
from data.sections.marked_text import FINDINGS
from data.vocabulary import AttributeVocabulary
from models.outputs import GraphSource
from modules.config import Config
from modules.evaluation.evaluator import Evaluator
from modules.evaluation.metrics.directions import higher_is_better
from modules.evaluation.metrics.weighted import RESAMPLES, Interval, ScoreResults, percentile_interval
from modules.evaluation.pages.report_page import Curves, choose_studies, write_report_page
from modules.evaluation.pages.study_panel import Case
from modules.evaluation.records import Evaluation, StudyRecord
from modules.evaluation.results import result_path, write_metrics, write_predictions
from modules.evaluation.sections.scores import section_records
from modules.evaluation.text_protocol import FULL_APPLIED, describe_intervals, describe_r2gen


def build_metrics(
    evaluator: Evaluator, evaluation: Evaluation, baselines: Mapping[str, ScoreResults], config: Config, split: str,
    checkpoint: Path, dataset_root: Path, section_baselines: Mapping[str, Mapping[str, ScoreResults]] | None = None,
) -> dict[str, Any]:
    """Return the content of metrics.json: settings, scores, and those of the `baselines` by name.

    section_baselines   those of each section, by name of the baseline

    docs/evaluation.md describes the keys.
    """
    return {
        "split": split,
        "graph_source": evaluator.graph_source.value,
        "graph_in": config.model.graph_in,
        "annotated_graphs": sum(bool(record.annotation.graph_known) for record in evaluation.records),
        "box_source": evaluator.box_source.value,
        **_describe_context(evaluator, config),
        "thresholds": "tuned" if evaluation.tuned_thresholds else "default",
        "protocol": evaluator.protocol,
        "cleaning": config.data.cleaning,
        "list": list_name(dataset_root),
        "applied": _describe_steps(evaluator, evaluation, config),
        "beam_size": evaluator.beam_size,
        "precision": evaluator.precision.value,
        "int8": config.eval.int8,
        "seed": config.seed,
        "studies": len(evaluation.records),
        "reports": sum(record.has_report for record in evaluation.records),
        "skipped": {study.study_id: study.reason for study in evaluator.skipped},
        "checkpoint": str(checkpoint),
        "dataset": dataset_name(dataset_root),
        **_describe_sections(evaluation, section_baselines, config),
        "scores": evaluation.scores,
        "higher_is_better": {name: higher_is_better(name) for name in evaluation.scores},
        "absent": evaluation.absent,
        "intervals": evaluation.intervals,
        "tables": evaluation.tables,
        "curves": evaluation.curves,
        "baselines": {name: results.scores for name, results in baselines.items()},
        "baseline_intervals": {name: results.intervals for name, results in baselines.items()},
        "absent_baselines": {name: results.absent for name, results in baselines.items()},
    }


def _describe_sections(
    evaluation: Evaluation, baselines: Mapping[str, Mapping[str, ScoreResults]] | None, config: Config
) -> dict[str, Any]:
    """Return what the model writes, if that is not the findings, and the scores of each section by itself."""
    if config.data.sections == FINDINGS:
        return {}
    described: dict[str, Any] = {"writes": config.data.sections}
    if evaluation.sections:
        described["sections"] = {
            section: {
                "reports": sum(record.has_report for record in section_records(evaluation.records, section)),
                "scores": results.scores, "absent": results.absent, "intervals": results.intervals,
                "tables": results.tables,
                "baselines": {name: by_section[section].scores for name, by_section in (baselines or {}).items()},
            }
            for section, results in evaluation.sections.items()
        }
    return described


def _describe_context(evaluator: Evaluator, config: Config) -> dict[str, Any]:
    """Return `context` of metrics.json: what the model reads beside the images, and what was shown of it."""
    model = config.model
    if not model.context:
        return {}
    reads = [*model.context, *(["prior report"] if model.prior_report else [])]
    return {"context": {"reads": reads, "shown": evaluator.context.value}}


def compare_graph_sources(
    by_source: Mapping[str, Mapping[str, Any]], resampled: Mapping[str, Mapping[str, NDArray]]
) -> dict[str, dict[str, Any]]:
    """Return `graph_sources` of metrics.json: the scores of each graph source and their difference to the first one's.

    Arguments as in `compare_scores`.
    """
    return {
        source: {
            "box_source": by_source[source]["box_source"],
            "annotated_graphs": by_source[source]["annotated_graphs"],
            **compared,
        }
        for source, compared in compare_scores(by_source, resampled).items()
    }


def compare_scores(
    by_name: Mapping[str, Mapping[str, Any]], resampled: Mapping[str, Mapping[str, NDArray]]
) -> dict[str, dict[str, Any]]:
    """Return the scores of each evaluation of the same studies, their difference to the first one's, and its interval.

    by_name     name of the evaluation -> its metrics.json
    resampled   name -> its scores in the resamples (`ScoreResults.resampled`), the same for all

    A difference is None if either score is absent; its interval, if either has none.
    """
    first, first_resampled = next(iter(by_name.values()))["scores"], next(iter(resampled.values()))

    def interval(values: Mapping[str, NDArray], name: str) -> Interval | None:
        both = name in values and name in first_resampled
        return percentile_interval(values[name] - first_resampled[name]) if both else None

    return {
        compared: {
            "scores": metrics["scores"],
            "difference": {
                name: None if value is None or first[name] is None else value - first[name]
                for name, value in metrics["scores"].items()
            },
            "interval": {name: interval(resampled[compared], name) for name in metrics["scores"]},
        }
        for compared, metrics in by_name.items()
    }


def add_section_comparisons(
    key: str, by_name: Mapping[str, Mapping[str, Any]], evaluations: Sequence[Evaluation]
) -> None:
    """Add the comparison `key` to each of the `sections` of the first metrics.json, if the model writes sections.

    by_name   name of the evaluation -> its metrics.json, in the order of `evaluations`, all of the same studies
    """
    for section, scored in next(iter(by_name.values())).get("sections", {}).items():
        scored[key] = compare_scores(
            {name: metrics["sections"][section] for name, metrics in by_name.items()},
            {
                name: evaluation.sections[section].resampled
                for name, evaluation in zip(by_name, evaluations, strict=True)
            },
        )


def write_results(
    folder: Path, by_source: dict[str, dict[str, Any]], evaluations: Sequence[Evaluation], dataset: StudyDataset,
    read_curves: Callable[[], Curves],
) -> list[Path]:
    """Write metrics.json and predictions.jsonl of each graph source and the page of the first; return their paths.

    The page comes last, and a page that cannot be written gives a warning only: the results do not depend on it.

    With several graph sources, `graph_sources` is added to the metrics of the first one, and to those of each of its
    sections; its files then have the plain names.

    by_source     graph source -> its metrics.json, in the order of `evaluations`
    read_curves   reads those of the training run (`run_log.read_curves`), shown on the page
    """
    first, *others = by_source
    default_source = GraphSource.PREDICTED
    if others:
        resampled = {source: each.resampled for source, each in zip(by_source, evaluations, strict=True)}
        by_source[first]["graph_sources"] = compare_graph_sources(by_source, resampled)
        add_section_comparisons("graph_sources", by_source, evaluations)
        default_source = GraphSource(first)

    def path_of(name: str, source: str) -> Path:
        return result_path(folder, name, GraphSource(source), by_source[source]["split"], default_source)

    paths = []
    for (source, metrics), evaluation in zip(by_source.items(), evaluations, strict=True):
        paths += [path_of("metrics.json", source), path_of("predictions.jsonl", source)]
        write_metrics(paths[-2], metrics)
        write_predictions(paths[-1], evaluation.records, dataset.vocabularies)
    page = path_of("report.html", first)
    try:
        cases = _choose_cases(evaluations[0], dataset, by_source[first]["skipped"])
        write_report_page(page, by_source[first], cases, dataset.vocabularies, read_curves())
        paths.append(page)
    except Exception as error:  # whatever is odd in a log, an image or a text: the results above are written
        why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {reason(error)}"
        print(f"Warning: {page} was not written. {why}", file=sys.stderr)
    return paths


def _choose_cases(evaluation: Evaluation, dataset: StudyDataset, skipped: Collection[str]) -> list[Case]:
    """Return the studies of the page, with their images."""
    indices = [i for i in range(len(dataset)) if not skipped or dataset.study_id(i) not in skipped]
    return [
        Case(evaluation.records[position], dataset[indices[position]].images[0].numpy(), why)
        for position, why in choose_studies(evaluation)
    ]


def check_annotated_attributes(records: Sequence[StudyRecord], vocabulary: AttributeVocabulary) -> str | None:
    """Return a warning if annotated graphs mention regions but have no attribute of the `vocabulary`, else None."""
    annotations = [record.annotation for record in records if record.annotation.graph_known]
    names = [name for region_names in vocabulary.by_region for name in region_names]
    mentions_regions = any(annotation.mentioned.any() for annotation in annotations)
    if not names or not mentions_regions or any(annotation.attributes.any() for annotation in annotations):
        return None
    return (
        f"The annotated graphs have none of the checkpoint's attributes (such as '{names[0]}'): the oracle graph has "
        "regions only, and attributes get no scores"
    )


def dataset_name(root: Path) -> str:
    """Return the name in the dataset.yaml of a prepared data set, or the name of its folder if it states none."""
    return str(_read_description(root).get("name") or root.name)


def list_name(root: Path) -> str | None:
    """Return the name of the list that the samples and splits of a prepared data set come from; None if it has none."""
    name = _read_description(root).get("list")
    return None if name is None else str(name)


def _read_description(root: Path) -> dict[str, Any]:
    """Read the dataset.yaml of a prepared data set; empty, with a warning, if it cannot be read."""
    path = root / "dataset.yaml"
    try:
        description = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        print(f"Warning: {path} cannot be read ({reason(error)})", file=sys.stderr)
        return {}
    return description if isinstance(description, dict) else {}


def _describe_steps(evaluator: Evaluator, evaluation: Evaluation, config: Config) -> dict[str, str]:
    """What was done to the texts, in words, as `modules.score` says it: step -> description."""
    cut = FULL_APPLIED | {"generated reports": "without <unk>"}
    if evaluator.protocol == "r2gen":
        cut = describe_r2gen(evaluator.max_tokens, "those outside the checkpoint's vocabulary")
    references = sum(bool(record.reference.strip()) for record in evaluation.records)
    return {
        "cleaning": f"references by the rules '{config.data.cleaning}'", **cut,
        "CIDEr's document frequencies": f"of the {references} references",
        "observations": "read by the labeler 'rules' from complete reports",
        **describe_intervals(RESAMPLES, "studies", len(evaluation.records)),
    }
