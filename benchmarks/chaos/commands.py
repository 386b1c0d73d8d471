"""The commands that are disturbed: how each is run in a folder, and what its result is."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # of exports: it would take seconds in each forked process

import main_predict
import main_test
import main_train
from benchmarks.chaos.processes import Main, Outcome, run
from data import prepare
from data.errors import UserError
from modules import export, region_boxes

Result = dict[str, Any]

_MODEL = [
    "data.image_size=32", "data.max_tokens=12", "data.min_word_count=1", "data.min_attribute_count=1",
    "model.patch_encoder.backbone=small_resnet", "model.patch_encoder.weights=none", "model.patch_encoder.stride=16",
    "model.width=16", "model.heads=2", "model.feedforward=16", "model.image_layers=1", "model.graph_layers=1",
    "model.decoder_layers=1", "model.memory_slots=8", "model.memory_heads=2", "model.memory_top=4", "train.device=cpu",
    "eval.batch_size=2", "eval.beam_size=2",
]  # fmt: skip
_TRAINING = [
    "data.workers=1", "optim.batch_size=2", "optim.warmup_steps=2", "train.epochs=2", "train.least_epochs=1",
    "train.save_every=2", "train.log_every=3", "train.monitor=bleu_4", "train.tune_thresholds=false",
    "train.track=[]", "eval.meteor_in_validation=false",
]  # fmt: skip
# What differs between two runs that are otherwise equal.
_NOT_COMPARED = ("time", "images_per_second")
STUDIES, SIDE = 12, 32
_PAGE = 4096


@dataclass(frozen=True)
class Inputs:
    """What the commands read: a prepared data set, and the run folder of a model trained on it."""

    data: Path
    run: Path


@dataclass(frozen=True)
class Command:
    """A command.

    arguments   those that read `inputs` and write below a folder; `again` says that an earlier run was disturbed
    result      what it wrote below the folder, equal for equal runs
    """

    name: str
    main: Main
    arguments: Callable[[Inputs, Path, bool], list[str]]
    result: Callable[[Path], Result]

    def run(self, inputs: Inputs, folder: Path, again: bool = False, log: Path | None = None) -> Outcome:
        """Run it to its end; its errors go to the file `log`, by default beside the folder."""
        return run(self.main, self.arguments(inputs, folder, again), log or log_of(folder))


def log_of(folder: Path) -> Path:
    """Return the file with the output of the last command that wrote into `folder`."""
    return folder.with_name(f"{folder.name}.output")


def training_arguments(inputs: Inputs, folder: Path, again: bool) -> list[str]:
    """Return the arguments of the training, which is resumed after a disturbance."""
    resume = ["train.resume=true"] * again
    return [*_MODEL, *_TRAINING, f"data.root={inputs.data}", f"results={folder}", "name=run", *resume]


def _prepare(inputs: Inputs, folder: Path, again: bool) -> list[str]:
    sizes = ["--studies", str(STUDIES), "--image-size", str(SIDE), "--workers", "1"]
    return ["phantom", "--out", str(folder / "data"), *sizes]


def _test(inputs: Inputs, folder: Path, again: bool) -> list[str]:
    paths = ["--checkpoint", str(inputs.run), "--data", str(inputs.data), "--out", str(folder)]
    return [*paths, "--baselines", "none", "--workers", "1", "data.workers=1"]


def _predict(inputs: Inputs, folder: Path, again: bool) -> list[str]:
    images = sorted(map(str, (inputs.data / "images").iterdir()))[:4]
    return ["--checkpoint", str(inputs.run), *images, "--out", str(folder), "--batch-size", "2"]


def _boxes(inputs: Inputs, folder: Path, again: bool) -> list[str]:
    paths = ["--checkpoint", str(inputs.run), "--data", str(inputs.data), "--out", str(folder / "boxes.jsonl")]
    return [*paths, "data.workers=1"]


def _export(inputs: Inputs, folder: Path, again: bool) -> list[str]:
    return ["--checkpoint", str(inputs.run), "--out", str(folder / "exported")]


def _export_once(arguments: list[str]) -> int:
    """Export unless the folder exists: an export that had ended before its disturbance is not repeated."""
    return 0 if Path(arguments[-1]).exists() else export.main(arguments)


def read_run(folder: Path) -> Result:
    """Return the weights of both checkpoints, and the log without messages, times and speeds."""
    result: Result = {}
    for name in ("best", "last"):
        weights = torch.load(folder / "run" / name / "weights.pt", weights_only=True)
        result[name] = {key: value.numpy().tobytes() for key, value in weights.items()}
    lines = (folder / "run/log.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [entry for entry in map(json.loads, lines) if entry["kind"] in ("train", "validation")]
    result["log"] = [{key: value for key, value in entry.items() if key not in _NOT_COMPARED} for entry in entries]
    return result


def _read_test(folder: Path) -> Result:
    metrics = json.loads((folder / "metrics.json").read_bytes())
    del metrics["checkpoint"]
    return {"metrics": metrics, "predictions": (folder / "predictions.jsonl").read_bytes()}


def _read_files(folder: Path) -> Result:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


PREPARE = Command("prepare", prepare.main, _prepare, _read_files)
TRAIN = Command("train", main_train.main, training_arguments, read_run)
TEST = Command("test", main_test.main, _test, _read_test)
PREDICT = Command("predict", main_predict.main, _predict, _read_files)
BOXES = Command("boxes", region_boxes.main, _boxes, _read_files)
EXPORT = Command("export", _export_once, _export, _read_files)
COMMANDS = (PREPARE, TRAIN, TEST, PREDICT, BOXES, EXPORT)


@dataclass(frozen=True)
class Undisturbed:
    """The result of a command, and how many seconds and bytes it takes."""

    result: Result
    seconds: float
    bytes: int


class Reference:
    """What the commands give undisturbed, and how many seconds and bytes they take; each runs once, when first needed.

    inputs   of the commands: what `prepare` and `train` give
    """

    def __init__(self, folder: Path):
        """Run in sub-folders of `folder`. Raises UserError if a command fails."""
        self.inputs = Inputs(folder / "prepare/data", folder / "train/run")
        self._folder = folder
        self._undisturbed: dict[str, Undisturbed] = {}
        for command in (PREPARE, TRAIN):
            self.undisturbed(command)

    def undisturbed(self, command: Command) -> Undisturbed:
        """Return the result of a command. Raises UserError if it fails."""
        if command.name not in self._undisturbed:
            self._undisturbed[command.name] = self._run(command)
        return self._undisturbed[command.name]

    def _run(self, command: Command) -> Undisturbed:
        folder = self._folder / command.name
        folder.mkdir(parents=True)
        outcome = command.run(self.inputs, folder)
        if outcome.status != 0:
            raise UserError(f"{command.name} fails undisturbed: {' | '.join(outcome.errors[-3:])}")
        pages = [-(-path.stat().st_size // _PAGE) for path in folder.rglob("*") if path.is_file()]
        return Undisturbed(command.result(folder), outcome.seconds, _PAGE * sum(pages))
