"""Searches settings with Optuna: trains one run per trial and keeps the best value of its `train.monitor`.

    python -m benchmarks tune configs/demo.yaml --trials 20 [--search optim.lr=1e-5:1e-3:log] [key=value ...]
    python -m benchmarks tune configs/demo.yaml --trials 40      continues: 20 more trials

A trial is a run folder results/NAME_tune/trial_N, trained by main_train.py and validated on the validation split; the
test split is not read. The study is kept in results/NAME_tune/study.db. If interrupted, the same command resumes, also
within the training of a trial. A trial whose training fails is recorded as failed, and the search continues.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.support.measure import require_at_least
from benchmarks.support.scripts import run_script
from data.errors import UserError, wrong_value
from modules.config import Config, load_config
from modules.evaluation.results import write_atomically

if TYPE_CHECKING:
    import optuna

# Searched without --search.
DEFAULT_SEARCH = (
    "optim.lr=5e-5:1e-3:log", "optim.lr_patch_encoder=2e-5:5e-4:log", "model.dropout=0:0.3",
    "loss.attributes=0.03:1:log", "loss.regions=0.05:1:log",
)
# Attribute of a trial: the number of the interrupted trial whose run it continues.
_CONTINUES = "continues"


@dataclass(frozen=True)
class Dimension:
    """A setting to search: one of `choices`, or a number from `low` to `high`.

    whole   only whole numbers; log   uniform in the logarithm
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    log: bool = False
    choices: tuple[str, ...] = ()

    def suggest(self, trial: "optuna.Trial") -> str:
        """Return the value of a trial, as text for the command line."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if self.whole:
            return str(trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log))
        return repr(trial.suggest_float(self.key, self.low, self.high, log=self.log))


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `tune`."""
    parser = commands.add_parser("tune", help="search settings with Optuna, one training per trial; resumable")
    parser.add_argument("config", metavar="YAML", help="the experiment, e.g. configs/demo.yaml")
    parser.add_argument("--trials", type=int, required=True, metavar="N", help="trials in all, earlier ones included")
    parser.add_argument(
        "--search", action="append", metavar="KEY=LOW:HIGH[:log]|KEY=A,B", help="a setting to search, a range or "
        f"choices; may be repeated (default: {' '.join(DEFAULT_SEARCH)})",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the search (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="PyTorch threads (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of every trial")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the missing trials and print the best settings. Raises UserError for options that do not work."""
    require_at_least(1, options, "trials", "threads")
    config = load_config(options.config, options.overrides)
    dimensions = [parse_dimension(text) for text in options.search or DEFAULT_SEARCH]
    for dimension in dimensions:  # an unknown setting is reported before anything is trained
        bounds = dimension.choices or (str(_number(dimension, dimension.low)), str(_number(dimension, dimension.high)))
        for value in bounds:
            load_config(options.config, [*options.overrides, f"{dimension.key}={value}"])
    folder = Path(config.results) / f"{config.name}_tune"
    study = open_study(folder, options.seed)
    queue_interrupted(study)
    finished = count_finished(study)
    print(f"{finished} of {options.trials} trials are finished")
    try:
        while count_finished(study) < options.trials:
            run_trial(study, dimensions, folder, options, config.train.monitor)
    except KeyboardInterrupt as error:
        raise UserError("Interrupted: the same command resumes") from error
    write_table(folder / "trials.csv", study)
    print(describe_best(study, options, config))


def parse_dimension(text: str) -> Dimension:
    """Parse KEY=LOW:HIGH, KEY=LOW:HIGH:log or KEY=A,B,C. Raises UserError if it is malformed."""
    key, sign, values = text.partition("=")
    rule = "write KEY=LOW:HIGH, KEY=LOW:HIGH:log or KEY=A,B,C"
    if not sign or not key or not values:
        raise wrong_value("--search", text, rule)
    if ":" not in values:
        choices = tuple(value for value in values.split(",") if value)
        if len(choices) < 2 or len(set(choices)) < len(choices):
            raise wrong_value("--search", text, "give at least two different choices, or a range LOW:HIGH")
        return Dimension(key, choices=choices)
    low, high, *kind = values.split(":")
    if kind not in ([], ["log"]):
        raise wrong_value("--search", text, rule)
    try:
        bounds = float(low), float(high)
    except ValueError as error:
        raise wrong_value("--search", text, rule) from error
    if not bounds[0] < bounds[1] or (kind and bounds[0] <= 0):
        raise wrong_value("--search", text, "LOW must be below HIGH" + (", and above 0 for log" if kind else ""))
    whole = low.lstrip("-").isdigit() and high.lstrip("-").isdigit() and _is_whole_setting(key)
    return Dimension(key, *bounds, whole=whole, log=bool(kind))


def _is_whole_setting(key: str) -> bool:
    """Whether the default of the setting `key` is a whole number."""
    value: Any = Config()
    for name in key.split("."):
        value = getattr(value, name, None)
    return isinstance(value, int)


def _number(dimension: Dimension, value: float) -> float:
    return int(value) if dimension.whole else value


def open_study(folder: Path, seed: int) -> "optuna.Study":
    """Open the study in `folder`, or create it. Raises UserError without Optuna or if the folder cannot be written."""
    try:
        import optuna
    except ImportError as error:
        raise UserError("tune needs the package optuna: pip install -r requirements-tracking.txt") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot write {folder} ({error.strerror}): choose another folder with results=...") from error
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder.resolve() / 'study.db'}")
    study = optuna.create_study(
        storage=storage, study_name=folder.name, direction="maximize", load_if_exists=True,
    )
    # A resumed search would otherwise draw the first trials again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    return study


def queue_interrupted(study: "optuna.Study") -> None:
    """Queue the trials that an earlier process left running, with their settings and their run folders."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={_CONTINUES: trial.user_attrs.get(_CONTINUES, trial.number)})


def count_finished(study: "optuna.Study") -> int:
    """Return the number of trials that ended by themselves; an interrupted one counts when its continuation ends."""
    from optuna.trial import TrialState

    continued = {
        trial.user_attrs[_CONTINUES] for trial in study.get_trials(deepcopy=False) if _CONTINUES in trial.user_attrs
    }
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    return sum(trial.number not in continued and not _is_interrupted(trial, study) for trial in ended)


def _is_interrupted(trial: "optuna.trial.FrozenTrial", study: "optuna.Study") -> bool:
    """Whether a later trial continues the same run."""
    origin = trial.user_attrs.get(_CONTINUES)
    return origin is not None and any(
        other.number > trial.number and other.user_attrs.get(_CONTINUES) == origin
        for other in study.get_trials(deepcopy=False)
    )


def run_trial(
    study: "optuna.Study", dimensions: Sequence[Dimension], folder: Path, options: argparse.Namespace, monitor: str
) -> None:
    """Run the next trial and record its value, or that it failed; an interrupted one stays running in the study."""
    from optuna.trial import TrialState

    trial = study.ask()
    try:
        value = train_trial(trial, dimensions, folder, options)
    except UserError as error:
        study.tell(trial, state=TrialState.FAIL)
        print(f"trial {trial.number} failed: {error}", file=sys.stderr, flush=True)
        return
    study.tell(trial, value)
    settings = ", ".join(f"{key}={number:.3g}" if isinstance(number, float) else f"{key}={number}"
                         for key, number in trial.params.items())
    print(f"trial {trial.number}: {monitor} = {value:.4f} ({settings})", file=sys.stderr, flush=True)


def train_trial(
    trial: "optuna.Trial", dimensions: Sequence[Dimension], folder: Path, options: argparse.Namespace
) -> float:
    """Train the run of a trial and return its value. Raises UserError if training fails or has no value."""
    settings = [f"{dimension.key}={dimension.suggest(trial)}" for dimension in dimensions]
    run_dir = folder / f"trial_{trial.user_attrs.get(_CONTINUES, trial.number):03d}"
    run_script(run_dir, [
        "main_train.py", "--config", str(options.config), *options.overrides, *settings, f"name={run_dir.name}",
        f"results={folder}", "train.resume=true",
    ], options.threads)
    return best_value(run_dir)


def best_value(run_dir: Path) -> float:
    """Return the best monitored value in the log of a run. Raises UserError if no validation has one."""
    values = []
    for line in (run_dir / "log.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["kind"] == "validation" and entry["monitored"] is not None:
            values.append(entry["monitored"])
    if not values:
        raise UserError(f"{run_dir.name}: no validation has a value of train.monitor; see {run_dir / 'log.jsonl'}")
    return max(values)


def write_table(path: Path, study: "optuna.Study") -> None:
    """Write one line per trial: number, state, value, settings. Raises UserError if that fails."""
    keys = sorted({key for trial in study.get_trials(deepcopy=False) for key in trial.params})
    lines = [",".join(("trial", "state", "value", *keys))]
    for trial in study.get_trials(deepcopy=False):
        value = "" if trial.value is None else f"{trial.value:.6f}"
        lines.append(",".join((str(trial.number), trial.state.name.lower(), value,
                               *(str(trial.params.get(key, "")) for key in keys))))
    write_atomically(path, (f"{line}\n" for line in lines))


def describe_best(study: "optuna.Study", options: argparse.Namespace, config: Config) -> str:
    """The best trial, and the command that trains with its settings; says so if no trial has a value."""
    try:
        best = study.best_trial
    except ValueError:
        return "No trial has a value: see the console.txt of the trials"
    settings = " ".join([*options.overrides, *(f"{key}={value}" for key, value in best.params.items())])
    return (
        f"Best of {len(study.get_trials(deepcopy=False))}: trial {best.number}, {config.train.monitor} = "
        f"{best.value:.4f}\npython main_train.py --config {options.config} {settings} name={config.name}_tuned"
    )
