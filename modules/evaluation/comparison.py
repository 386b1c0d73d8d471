"""Compares systems on the same studies (`python -m modules.compare`): paired differences, intervals and p-values."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError, wrong_value
from modules.evaluation.metrics.comparers import ReportComparer, joint_comparer_scores
from modules.evaluation.metrics.directions import higher_is_better
from modules.evaluation.metrics.packages.package_options import describe_comparers, open_comparers
from modules.evaluation.metrics.report_observations import TRUTH_NAMES
from modules.evaluation.metrics.text_scores import ParsedReports, ReportParser, describe_comparison, text_scores
from modules.evaluation.metrics.weighted import (
    Interval,
    Score,
    ScoreSet,
    merge_scores,
    percentile_interval,
    resample_weights,
)
from modules.evaluation.predictions import Predictions, load_predictions
from modules.evaluation.text_protocol import PreparedTexts, prepare_texts
from modules.evaluation.text_scoring import select_labeler

# Keys of metrics.json that must be equal in all runs.
_EQUAL_KEYS = ("dataset", "list", "split")
_SEED = 77
# Numbers in a block of exchanges: bounds the memory of the randomisation test.
_BLOCK_SIZE = 4_000_000


@dataclass(frozen=True)
class System:
    """A system to compare, with one run per seed."""

    name: str
    runs: list[Path]


@dataclass(frozen=True)
class Row:
    """One score of one system, compared with the first system.

    compared_with      what the score compares generated reports with
    value, deviation   mean over the system's runs and their sample standard deviation (None for one run)
    difference         to the first system; None for the first system itself
    interval           95 % bootstrap interval of the difference, over studies
    p_value            of the paired randomisation test; None if the systems have different numbers of runs
    value_interval     95 % bootstrap interval of the value, over studies
    higher_is_better   None if neither direction is better, or it is unknown
    """

    score: str
    system: str
    runs: int
    value: float
    deviation: float | None
    compared_with: str
    difference: float | None = None
    interval: Interval | None = None
    p_value: float | None = None
    value_interval: Interval | None = None
    higher_is_better: bool | None = None

    @property
    def verdict(self) -> str:
        """Return better or worse than the first system; empty if the interval has 0, or the direction is unknown."""
        if self.interval is None or self.higher_is_better is None or self.interval[0] <= 0 <= self.interval[1]:
            return ""
        return "better" if (self.interval[0] > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True)
class ComparedStudies:
    """The reports of all systems, for showing single studies.

    ids, references   [reports]
    generated         system -> [reports], those of its first run
    per_study         name -> [systems, reports], the score of each study alone, mean over the runs of a system
    """

    ids: list[str]
    references: list[str]
    generated: dict[str, list[str]]
    per_study: dict[str, NDArray]


@dataclass(frozen=True)
class Comparison:
    """The result of comparing systems.

    heading   what was compared, and how, as lines
    rows      by score, then by system
    absent    name of each absent score -> the reason
    no_interval   name of each score without intervals and p-values -> the reason
    """

    heading: list[str]
    rows: list[Row]
    absent: dict[str, str]
    studies: ComparedStudies
    no_interval: dict[str, str] = field(default_factory=dict)


def compare_systems(systems: Sequence[System], names: Sequence[str], options: Namespace) -> Comparison:
    """Compare the scores `names`, and those of other packages in `options`, of all `systems` with those of the first.

    Raises UserError for fewer than two systems (one is enough for --html), and if the runs differ in studies,
    references, labels or split, or, without --protocol, in the protocol of their evaluations.
    """
    if len(systems) < (2 if options.html is None else 1):
        raise UserError("A comparison takes two systems: give two runs, or --group NAME=RUN,RUN twice")
    if options.resamples < 1:
        raise wrong_value("--resamples", options.resamples, "must be at least 1")
    equal_keys = _EQUAL_KEYS if options.protocol is not None else (*_EQUAL_KEYS, "protocol")
    first, *others = load_predictions([path for system in systems for path in system.runs], options)
    runs = [first, *(_align(run, first, equal_keys) for run in others)]
    texts = [prepare_texts(run, options) for run in runs]
    for run, text in zip(runs, texts, strict=True):
        if text.scored_references != texts[0].scored_references:
            raise UserError(
                f"{run.path} compares other references than {first.path} (another protocol, vocabulary or cut): "
                "give --protocol to compare the same"
            )
    owners = np.repeat(np.arange(len(systems)), [len(system.runs) for system in systems])
    with open_comparers(options) as comparers:
        by_packages = _package_scores(runs, comparers)
        described = describe_comparers(options, comparers)
    scores = _joint_scores(runs, texts, options) | by_packages
    units = np.arange(len(first)) if first.studies is None else first.studies
    rows, absent = [], {}
    for name in [*names, *by_packages.scores]:
        score_rows = []
        if name in scores.scores:
            compared_with = describe_comparison(name, texts[0].protocol_label)
            score_rows = _compare_score(
                name, compared_with, scores.scores[name], systems, owners, units, options.resamples
            )
            rows += score_rows
        if not score_rows:
            absent[name] = scores.absent.get(name) or scores.scores[name].undefined_reason
    heading = _describe(systems, runs, owners, texts[0], options)
    heading += [f"  {step}: {description}" for step, description in described.items()]
    without = {name: score.no_interval for name, score in scores.scores.items() if score.no_interval}
    return Comparison(heading, rows, absent, _gather_studies(systems, runs, owners, scores), without)


def _gather_studies(
    systems: Sequence[System], runs: Sequence[Predictions], owners: NDArray, scores: ScoreSet
) -> ComparedStudies:
    """The reports and the scores of single studies, from the joint `scores` of all runs."""
    per_study = {}
    for name, values in scores.per_study.items():
        by_run = values.reshape(len(runs), -1)
        per_study[name] = np.stack([by_run[owners == number].mean(axis=0) for number in range(len(systems))])
    first_runs = [runs[int(np.argmax(owners == number))] for number in range(len(systems))]
    generated = {system.name: run.generated for system, run in zip(systems, first_runs, strict=True)}
    return ComparedStudies(runs[0].ids, runs[0].references, generated, per_study)


def _align(run: Predictions, first: Predictions, equal_keys: Sequence[str]) -> Predictions:
    """Return `run` with its reports in the order of `first`.

    Raises UserError if the two differ in studies, references or labels, or if their evaluations differ in one of
    `equal_keys`.
    """
    for key in equal_keys:
        expected, value = first.evaluation.get(key), run.evaluation.get(key)
        if expected is not None and value is not None and expected != value:
            fix = "give --protocol to compare by one" if key == "protocol" else "compare runs with the same"
            raise UserError(f"{run.path} has the {key} {value}, {first.path} has {expected}: {fix}")
    if set(run.ids) != set(first.ids):
        example = sorted(set(first.ids) ^ set(run.ids))[0]
        raise UserError(
            f"{run.path} and {first.path} are not about the same studies, only one of them has {example}: compare runs "
            "on the same split"
        )
    positions = {name: position for position, name in enumerate(run.ids)}
    order = [positions[name] for name in first.ids]

    def sort(values: list | None) -> list | None:
        return None if values is None else [values[position] for position in order]

    aligned = replace(
        run, ids=list(first.ids), references=sort(run.references), generated=sort(run.generated),
        scored_references=sort(run.scored_references), labels=sort(run.labels),
        studies=None if run.studies is None else run.studies[order],
    )
    _check_same_studies(aligned, first)
    return aligned


def _check_same_studies(run: Predictions, first: Predictions) -> None:
    """Raise UserError at the first report whose reference, study or labels differ."""
    fields = {"another reference": (first.references, run.references)}
    if first.studies is not None:
        # The ids are equal and in the same order, so equal study names have equal numbers.
        fields["another study"] = (first.studies.tolist(), run.studies.tolist())
    if first.labels is not None and run.labels is not None:
        fields["other labels of the data set"] = (first.labels, run.labels)
    for difference, both in fields.items():
        for name, expected, value in zip(first.ids, *both, strict=True):
            if expected != value:
                raise UserError(f"{run.path} has {difference} for {name} than {first.path}: they must be the same")


def _describe(
    systems: Sequence[System], runs: Sequence[Predictions], owners: NDArray, texts: PreparedTexts, options: Namespace
) -> list[str]:
    """What was compared, what was done to the texts, and the settings in each run's metrics.json, as lines."""
    evaluated = runs[0].evaluation
    listed = f" (list {evaluated['list']})" if evaluated.get("list") else ""
    where = ""
    if {"dataset", "split"} <= set(evaluated):
        where = f"{evaluated['dataset']}{listed}, split {evaluated['split']}, "
    lines = [
        f"{where}{len(runs[0])} reports; protocol {texts.protocol_label}; observations by {options.labeler}; "
        f"{options.resamples} resamples of studies; differences to {systems[0].name}",
        *(f"  {step}: {description}" for step, description in texts.applied.items()),
    ]
    for run, owner in zip(runs, owners, strict=True):
        keys = {"graph": "graph_source", "boxes": "box_source", "seed": "seed"}
        settings = [f"{name} {run.evaluation[key]}" for name, key in keys.items() if key in run.evaluation]
        settings += [f"read as {run.taken}"] if run.taken != runs[0].taken else []
        lines.append(f"  {systems[owner].name}: {run.path}" + (f" ({', '.join(settings)})" if settings else ""))
    first, *others = systems
    lines += [
        f"  {other.name} has no p-values: its runs ({len(other.runs)}) and those of {first.name} ({len(first.runs)}) "
        "cannot be paired"
        for other in others if len(other.runs) != len(first.runs)
    ]
    return lines


def _joint_scores(runs: Sequence[Predictions], texts: Sequence[PreparedTexts], options: Namespace) -> ScoreSet:
    """The scores of the reports of all runs, concatenated; weights select the run that counts (`_place_weights`)."""
    parser = ReportParser(select_labeler(options), options.workers)
    references, generated = (
        ParsedReports([report for text in texts for report in getattr(text, name)], parser)
        for name in ("references", "generated")
    )
    scored_references = [report for text in texts for report in text.scored_references]
    unlabelled = [run for run in runs if run.labels is None]
    truth = known = certain = None
    if not unlabelled:
        joint = replace(runs[0], labels=[labels for run in runs for labels in run.labels])
        (truth, known), (certain, _) = joint.truth(), joint.truth(uncertain=False)
    scores = text_scores(
        references, generated, scored_references, truth, known, not options.no_meteor, texts[0].frequencies, certain,
        workers=options.workers,
    )
    if 0 < len(unlabelled) < len(runs):
        reason = f"{unlabelled[0].path} has no labels of the data set, which other runs have: give --labels"
        scores.absent |= dict.fromkeys(TRUTH_NAMES, reason)
    return scores


def _package_scores(runs: Sequence[Predictions], comparers: Sequence[ReportComparer]) -> ScoreSet:
    """The scores of other packages, which read all texts as they are in the files, in the form of `_joint_scores`."""
    generated = [run.generated for run in runs]
    return merge_scores(joint_comparer_scores(comparer, runs[0].references, generated) for comparer in comparers)


def _compare_score(
    name: str, compared_with: str, score: Score, systems: Sequence[System], owners: NDArray, units: NDArray,
    resamples: int,
) -> list[Row]:
    """The rows of one score; empty if it is undefined for a run.

    owners [runs] int: the system of each run; units [reports] int: the study of each report
    """

    def score_runs(weights: NDArray) -> NDArray:
        """[runs, resamples]: the score of every run for weights [resamples, reports]."""
        return np.stack([score.compute(_place_weights(weights, run, len(owners))) for run in range(len(owners))])

    values = score_runs(np.ones((1, len(units))))[:, 0]
    # What a package prints may be rounded: it is shown, but differences are of what it is made of, if known.
    shown = values if score.printed is None else np.array(score.printed)
    if np.isnan(shown).any():
        return []
    if score.no_interval:
        values = shown
    direction = higher_is_better(name) if score.printed is None else score.higher_is_better
    resampled = np.concatenate([score_runs(weights) for weights in resample_weights(units, resamples)], axis=1)
    first = owners == 0
    rows = []
    for number, system in enumerate(systems):
        own = owners == number
        mean, count = values[own].mean(), int(own.sum())
        deviation = float(shown[own].std(ddof=1)) if count > 1 else None
        own_resampled = resampled[own].mean(axis=0)
        if score.centred:
            own_resampled = np.clip(own_resampled - np.nanmean(own_resampled) + mean, 0, 1)
        row = Row(
            name, system.name, count, float(shown[own].mean()), deviation, compared_with,
            value_interval=percentile_interval(own_resampled) if units.max() > 0 else None, higher_is_better=direction,
        )
        if number == 0:
            rows.append(row)
            continue
        difference = mean - values[first].mean()
        differences = resampled[own].mean(axis=0) - resampled[first].mean(axis=0)
        if score.centred:
            differences = differences - np.nanmean(differences) + difference
        p_value = None
        if count == first.sum() and not score.no_interval:
            pairs = list(zip(np.flatnonzero(first), np.flatnonzero(own), strict=True))
            p_value = _randomisation_test(score, pairs, len(owners), units, float(difference), resamples)
        rows.append(replace(
            row, difference=float(difference), p_value=p_value,
            interval=percentile_interval(differences) if units.max() > 0 else None,
        ))
    return rows


def _place_weights(weights: NDArray, run: int, runs: int) -> NDArray:
    """[draws, runs * reports]: weights [draws, reports] for the reports of one run, 0 for those of the others."""
    count, reports = weights.shape
    placed = np.zeros((count, runs, reports))
    placed[:, run] = weights
    return placed.reshape(count, -1)


def _randomisation_test(
    score: Score, pairs: Sequence[tuple[int, int]], runs: int, units: NDArray, difference: float, permutations: int
) -> float:
    """Two-sided p-value of the paired randomisation test (Noreen, 1989; Riezler and Maxwell, ACL workshop 2005).

    If the systems were equal, their reports could be exchanged study by study: the p-value is the share of random
    exchanges with a difference at least as large as `difference`. A study is exchanged with all its reports (units
    [reports] int: the study of each) and in all pairs of runs at once. The observed exchange counts as a draw.
    """
    generator = np.random.default_rng(_SEED)
    at_least_as_large, rows = 0, max(1, _BLOCK_SIZE // (runs * len(units)))
    for start in range(0, permutations, rows):
        draws = generator.integers(0, 2, size=(min(rows, permutations - start), int(units.max()) + 1))
        unchanged = draws.astype(np.float64)[:, units]
        exchanged = 1 - unchanged
        differences = np.zeros(len(draws))
        for first, other in pairs:
            differences += score.compute(
                _place_weights(unchanged, other, runs) + _place_weights(exchanged, first, runs)
            )
            differences -= score.compute(
                _place_weights(unchanged, first, runs) + _place_weights(exchanged, other, runs)
            )
        differences = np.nan_to_num(differences / len(pairs))
        at_least_as_large += int((np.abs(differences) >= abs(difference) - 1e-12).sum())
    return (at_least_as_large + 1) / (permutations + 1)
