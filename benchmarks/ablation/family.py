"""The study of the R2Gen family: does the scene graph help each technique, and do rewards add to the best?

    python -m benchmarks ablation --arms family [--seeds 0,1,2] [--jobs 2] [--report-only]

Each technique is trained without and with the graph, from the same trunk and for the same steps as the other arms of
the ablation study; all models have the parameters of its full model to within 10 %. The plain transformer's arms are
those of the ablation study, from whose ledger (docs/results.jsonl) finished runs are taken, and to which all runs are
added. The learning rate of each is that of `RATES` with the best BLEU-4 on the validation split, with the first seed.
The member with the graph that has the best of these is then trained further, with rewards and without.
docs/family_results.md is rewritten from the ledger after every run.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.ablation.arms import ARMS, FULL, HEAVY_OBSERVATIONS, NO_GRAPH, VERSION, Arm, Run
from benchmarks.ablation.family_report import FamilyResults, write_family_report
from benchmarks.ablation.ledger import FinishedRun, read_ledger, read_run, record_run
from benchmarks.ablation.training import complete, prepare, train_and_test, train_trunk

# A half and twice these were worse for the plain transformer without graph, on the test split of the earlier version.
RATES = (1e-3, 2e-3)
TRANSFORMER = "transformer"
_SMALLER = ("model.width=160",)  # with the graph, R2Gen's norms have as many parameters as the rest of the decoder
_MEMORY = ("model.decoder.norms=memory", "model.decoder.memory_slots=1", "model.decoder.memory_heads=4")
# Technique -> its settings.
TECHNIQUES = {
    TRANSFORMER: (),
    "R2Gen": _MEMORY,
    "R2GenCMN": ("model.cross_modal_memory.rows=512", "model.cross_modal_memory.heads=4"),
    "CAMANet": ("model.discriminative_map=true", "loss.attention_consistency=0.15"),
    "XProNet": (
        "model.prototypes.per_observation=20", "model.prototypes.channels=384", "model.prototypes.heads=4",
        "loss.image_contrast=1", "loss.text_contrast=0.1",
    ),
}
# Of the two arms that are trained further, for one epoch, on predicted graphs. Both are tested with their last weights.
FURTHER = (
    "train.graph_source=predicted", "train.epochs=1", "train.validate_from=1", "optim.lr=2e-4",
    "optim.lr_patch_encoder=5e-5", "optim.warmup_steps=10",
)
CROSS_ENTROPY, REWARDS = "further cross-entropy", "further rewards"
FURTHER_SETTINGS = {
    CROSS_ENTROPY: FURTHER,
    REWARDS: (*FURTHER, "train.stage=reward", "reward.rewards=observations + triples", "reward.workers=1"),
}


def family_arm(technique: str, with_graph: bool, rate: float) -> Arm:
    """Return an arm. Without a graph it is wider, so that it has as many parameters."""
    if technique == TRANSFORMER:
        arms = {arm.name: arm for arm in ARMS}
        if not with_graph:
            return arms[f"{NO_GRAPH}, rate {rate:g}"]
        if rate == 2e-3:  # the demo's
            return FULL
    is_large = technique == "R2Gen"
    if with_graph:
        settings = (HEAVY_OBSERVATIONS, *(_SMALLER if is_large else ()))
        name = f"graph, {technique}, rate {rate:g}"
    else:
        feedforward = 512 if is_large else 1024
        settings = (
            "model.graph_in=none", "model.width=256", f"model.feedforward={feedforward}", "model.image_layers=3",
        )
        name = f"{NO_GRAPH}, {technique}, rate {rate:g}"
    return Arm(name, (*settings, *TECHNIQUES[technique], f"optim.lr={rate}"))


def further_arm(base: Arm, kind: str) -> Arm:
    """Return the arm that trains `base` further, `kind` of FURTHER_SETTINGS."""
    return Arm(f"{base.name}, {kind}", (*base.settings, *FURTHER_SETTINGS[kind]))


def _all_arms() -> dict[tuple[str, bool], dict[float, Arm]]:
    """Return (technique, with graph) -> learning rate -> arm."""
    return {
        (technique, with_graph): {rate: family_arm(technique, with_graph, rate) for rate in RATES}
        for technique in TECHNIQUES for with_graph in (False, True)
    }


def family_names() -> set[str]:
    """Return the names of all arms that are not arms of the study of the graph."""
    arms = [arm for group in _all_arms().values() for arm in group.values()]
    further = [further_arm(arm, kind) for arm in arms for kind in FURTHER_SETTINGS]
    return {arm.name for arm in (*arms, *further)} - {arm.name for arm in ARMS}


class FamilyStudy:
    """The runs of the study, given those that are recorded.

    seeds       the first one chooses the learning rates
    results     parent of the run folders
    overrides   the user's settings for all runs
    """

    def __init__(self, seeds: Sequence[int], results: Path, overrides: tuple[str, ...]):
        self.seeds = seeds
        self.results = results
        self.overrides = overrides
        self.arms = _all_arms()

    def next_runs(self, recorded: Sequence[FinishedRun]) -> list[Run]:
        """Return the missing runs whose settings are known by now, in the order of their importance."""
        choosing = [self._run(arm, self.seeds[0]) for group in self.arms.values() for arm in group.values()]
        missing = [run for run in choosing if self._validation_bleu(recorded, run) is None]
        if missing:
            return missing
        chosen = [self.arms[key][self._chosen_rate(recorded, *key)] for key in self.arms]
        others = [self._run(arm, seed) for seed in self.seeds[1:] for arm in chosen]
        best = self._best_member(recorded)
        further = [run for seed in self.seeds for run in self._further_runs(best, seed)]
        missing = [[run for run in runs if _find(recorded, run) is None] for runs in (others, further)]
        return missing[0] or missing[1]

    def collect(self, recorded: Sequence[FinishedRun]) -> FamilyResults:
        """Return what the report shows: the seeds with which all runs of a comparison are finished."""
        pairs, rates = {}, {}
        for technique in TECHNIQUES:
            found = [self._chosen_rate(recorded, technique, with_graph) for with_graph in (False, True)]
            if None not in found:
                arms = [self.arms[technique, bool(index)][rate] for index, rate in enumerate(found)]
                rates[technique] = found[0], found[1]
                pairs[technique] = self._complete_seeds(recorded, [
                    [self._run(arm, seed) for arm in arms] for seed in self.seeds
                ])
        best = self._best_member(recorded)
        further = [] if best is None else self._complete_seeds(recorded, [
            [self._run(best, seed), *self._further_runs(best, seed)] for seed in self.seeds
        ])
        return FamilyResults(pairs, rates, "" if best is None else best.name, further)

    def _run(self, arm: Arm, seed: int) -> Run:
        return Run(arm, seed, self.results, self.overrides)

    def _further_runs(self, base: Arm, seed: int) -> list[Run]:
        """Return the runs that train `base` further: with cross-entropy, and with rewards."""
        start = self._run(base, seed)
        return [
            Run(further_arm(base, kind), seed, self.results, self.overrides, start) for kind in FURTHER_SETTINGS
        ]

    def _validation_bleu(self, recorded: Sequence[FinishedRun], run: Run) -> float | None:
        """Return the score that chooses; None if the run is missing, or was recorded without it."""
        found = _find(recorded, run)
        return None if found is None else found.validation_bleu_4

    def _chosen_rate(self, recorded: Sequence[FinishedRun], technique: str, with_graph: bool) -> float | None:
        """Return the rate with the best validation score; None while a run is missing that the choice needs."""
        scores = {
            rate: self._validation_bleu(recorded, self._run(arm, self.seeds[0]))
            for rate, arm in self.arms[technique, with_graph].items()
        }
        return None if None in scores.values() else max(scores, key=scores.__getitem__)

    def _best_member(self, recorded: Sequence[FinishedRun]) -> Arm | None:
        """Return the arm with graph with the best validation score; None while a run is missing that it needs."""
        scores = {
            arm: self._validation_bleu(recorded, self._run(arm, self.seeds[0]))
            for technique in TECHNIQUES for arm in self.arms[technique, True].values()
        }
        return None if None in scores.values() else max(scores, key=scores.__getitem__)

    def _complete_seeds(
        self, recorded: Sequence[FinishedRun], runs_by_seed: Sequence[Sequence[Run]]
    ) -> list[list[FinishedRun]]:
        """Return the results of the runs of each seed, of seeds with all of them."""
        found = [[_find(recorded, run) for run in runs] for runs in runs_by_seed]
        return [results for results in found if None not in results]


def run_family_study(options: argparse.Namespace, seeds: Sequence[int], overrides: tuple[str, ...]) -> Path:
    """Train and test the missing runs of all arms and seeds; return the path of the report.

    Raises UserError if a run fails, and with --report-only if no run is finished.
    """
    ledger, page = options.report.with_suffix(".jsonl"), options.report.with_name("family_results.md")
    study, recorded = FamilyStudy(seeds, options.results, overrides), read_ledger(ledger)
    if options.report_only or not study.next_runs(recorded):
        write_family_report(page, study.collect(recorded))
        return page
    trunk = train_trunk(options.trunk, options.data, options.results, overrides, options.jobs)
    phantom = prepare(options.data)

    def make(run: Run) -> FinishedRun:
        train_and_test(run, phantom, trunk)
        return read_run(run, trunk)

    while runs := study.next_runs(recorded):
        print(f"{len(runs)} runs are missing", flush=True)
        # Checkpoints that were made on another machine are made again.
        starts = {run.continued for run in runs if run.continued and not (run.continued.folder / "best").is_dir()}
        for _ in complete(sorted(starts, key=lambda run: run.seed), options.jobs, make):
            pass
        for result in complete(runs, options.jobs, make):
            recorded = record_run(ledger, result)
            write_family_report(page, study.collect(recorded))
    return page


def _find(recorded: Iterable[FinishedRun], run: Run) -> FinishedRun | None:
    """Return the recorded result of `run`; None if there is none."""
    key = (run.arm.name, run.experiment, run.seed, VERSION)
    return next((result for result in recorded if result.key == key), None)
