"""What is promised, as trials: each disturbs the program once and raises `Broken` if it does not behave as promised."""

import re
import shutil
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from benchmarks.chaos.commands import (
    COMMANDS,
    PREDICT,
    PREPARE,
    TEST,
    TRAIN,
    Command,
    Inputs,
    Reference,
    log_of,
    read_run,
    training_arguments,
)
from benchmarks.chaos.damage import Generator, damage_file
from benchmarks.chaos.disks import small_disk
from benchmarks.chaos.fuzz import FUZZED, write_fuzzed_images
from benchmarks.chaos.processes import Outcome, Process, run

# Lines that an error may take, beside the progress of the command.
_MOST_ERROR_LINES = 3
_PROGRESS = re.compile(
    r"epoch |Resuming|No checkpoint to resume|Warning: |.* is a run folder: using|Part .* cannot be used"
)
_LEFTOVER = re.compile(r".*\.(tmp|partial(-.*)?|previous|unfinished)")

# For temporary files and folders on a disk with enough space.
_SPARE_BYTES = 1 << 20
Choice = TypeVar("Choice")


class Broken(Exception):
    """A promise was broken; the message says how."""


@dataclass
class Trial:
    """One trial: what it draws from, where it writes, and what undisturbed runs give."""

    generator: Generator
    folder: Path
    reference: Reference

    @cached_property
    def out(self) -> Path:
        """An empty folder for results."""
        path = self.folder / "out"
        path.mkdir()
        return path

    def draw(self, choices: Sequence[Choice]) -> Choice:
        """Draw one of the `choices`."""
        return choices[int(self.generator.integers(len(choices)))]

    def disturb(self, command: Command, number: int, again: bool = False) -> tuple[Outcome, str]:
        """Start a command, and send it a signal at a random moment. Return how it ended, and the moment in words."""
        moment = float(self.generator.uniform(0, self.reference.undisturbed(command).seconds))
        process = Process(command.main, command.arguments(self.reference.inputs, self.out, again), log_of(self.out))
        process.signal_after(moment, number)
        return process.wait(), f"{moment:.2f} s"

    def copy_inputs(self) -> Inputs:
        """Return copies of the data set and the run folder, which may be damaged."""
        inputs = Inputs(self.folder / "inputs/data", self.folder / "inputs/run")
        shutil.copytree(self.reference.inputs.data, inputs.data)
        shutil.copytree(self.reference.inputs.run, inputs.run)
        return inputs


# Checks


def check_message(outcome: Outcome, what: str, statuses: tuple[int, ...] = (1,)) -> None:
    """Raise Broken unless a process ended with one of the `statuses` and a short message instead of a traceback."""
    if outcome.status is None:
        raise Broken(f"{what}: it hangs: {_last_lines(outcome)}")
    if any("Traceback" in line for line in outcome.errors) or outcome.status not in statuses:
        raise Broken(f"{what}: status {outcome.status}: {_last_lines(outcome)}")


def check_error(outcome: Outcome, what: str) -> None:
    """Raise Broken unless a process ended with status 1 and an error of at most three lines."""
    check_message(outcome, what)
    check_lines(outcome, what, least=1)


def check_lines(outcome: Outcome, what: str, least: int) -> None:
    """Raise Broken unless a process printed from `least` to three lines of errors."""
    errors = [line for line in outcome.errors if not _PROGRESS.match(line)]
    if not least <= len(errors) <= _MOST_ERROR_LINES:
        raise Broken(f"{what}: an error of {len(errors)} lines: {' | '.join(errors)[:300]}")


def check_result(trial: Trial, command: Command, outcome: Outcome, folder: Path, what: str) -> None:
    """Raise Broken unless the command succeeded with the result of an undisturbed run, and left nothing else."""
    check_message(outcome, what, statuses=(0,))
    expected = trial.reference.undisturbed(command).result
    try:
        found = command.result(folder)
    except (OSError, ValueError, KeyError) as error:
        raise Broken(f"{what}: its result cannot be read: {error}") from error
    if differing := [name for name in found | expected if found.get(name) != expected.get(name)]:
        raise Broken(f"{what}: other results than undisturbed: {', '.join(differing)[:300]}")
    if left := [str(path) for path in folder.rglob("*") if _LEFTOVER.fullmatch(path.name)]:
        raise Broken(f"{what}: left {', '.join(left)[:300]}")


def _last_lines(outcome: Outcome) -> str:
    return " | ".join(outcome.errors[-3:])[:400]


# Promises


def survives_kills(trial: Trial) -> None:
    """A command killed at any moment, once or twice, is completed by the same command, with an equal result."""
    command = trial.draw(COMMANDS)
    moments = []
    for number in range(trial.draw((1, 2))):
        moments.append(trial.disturb(command, signal.SIGKILL, again=number > 0)[1])
    _repeat(trial, command, f"{command.name}, killed after {', '.join(moments)}")


def stops_with_one_line(trial: Trial) -> None:
    """A command ends after Ctrl-C or SIGTERM in few lines, and the same command completes it with an equal result."""
    command, number = trial.draw(COMMANDS), trial.draw((signal.SIGINT, signal.SIGTERM))
    outcome, moment = trial.disturb(command, number)
    what = f"{command.name}, {number.name} after {moment}"
    check_message(outcome, what, statuses=(0, 128 + number, -number))
    check_lines(outcome, what, least=0)
    _repeat(trial, command, what)


def survives_full_disks(trial: Trial) -> None:
    """On a full disk, a command ends with one line, and with an equal result once there is space."""
    command = trial.draw(COMMANDS)
    needed = trial.reference.undisturbed(command).bytes
    free = int(trial.generator.integers(needed + needed // 5))
    with small_disk(trial.folder / "disk", 3 * needed + _SPARE_BYTES, free) as (disk, filler):
        folder = disk / "out"
        folder.mkdir()
        log = log_of(trial.out)  # not on the small disk
        outcome = command.run(trial.reference.inputs, folder, log=log)
        what = f"{command.name} with {free} bytes free"
        if outcome.status != 0:
            check_error(outcome, what)
        filler.unlink()
        outcome = command.run(trial.reference.inputs, folder, again=True, log=log)
        check_result(trial, command, outcome, folder, f"{what}, then enough")


def tells_corruption(trial: Trial) -> None:
    """A test of a damaged checkpoint or data set ends with an error, or with the results of the undamaged files."""
    inputs = trial.copy_inputs()
    files = sorted(
        path for folder in (inputs.data, inputs.run / "best") for path in folder.rglob("*") if path.is_file()
    )
    kinds = {(path.parent.name, path.suffix): path for path in files}
    kind = trial.draw(sorted(kinds))
    path = trial.draw([path for path in files if (path.parent.name, path.suffix) == kind])
    if trial.generator.random() < 0.1:
        path = inputs.run / "log.jsonl"
    what = f"test with {path.relative_to(trial.folder)}: {damage_file(path, trial.generator)}"
    outcome = TEST.run(inputs, trial.out)
    if outcome.status == 0:
        check_result(trial, TEST, outcome, trial.out, what)
    else:
        check_error(outcome, what)


def tells_corruption_when_resuming(trial: Trial) -> None:
    """A run whose last checkpoint is damaged is not resumed from it, unless nothing of it is lost."""
    inputs = trial.copy_inputs()
    path = trial.draw(sorted(path for path in (inputs.run / "last").iterdir()))
    what = f"resuming with {path.name} of last: {damage_file(path, trial.generator)}"
    # The copy is the run: its folder is that of the results.
    outcome = TRAIN.run(trial.reference.inputs, inputs.run.parent, again=True)
    if outcome.status == 0:
        check_result(trial, TRAIN, outcome, inputs.run.parent, what)
    else:
        check_error(outcome, what)


def tells_damaged_parts(trial: Trial) -> None:
    """A preparation whose unfinished work is damaged is completed with an equal result, or ends with an error."""
    trial.disturb(PREPARE, signal.SIGKILL)
    files = sorted(path for path in trial.out.rglob("*") if path.is_file() and path.stat().st_size)
    if not files or (trial.out / "data").exists():
        return
    path = trial.draw(files)
    what = f"prepare with {path.relative_to(trial.out)}: {damage_file(path, trial.generator)}"
    outcome = PREPARE.run(trial.reference.inputs, trial.out)
    if outcome.status == 0:
        check_result(trial, PREPARE, outcome, trial.out, what)
    else:
        check_error(outcome, what)


def ends_with_a_dead_rank(trial: Trial) -> None:
    """If one of two ranks is killed, the other ends with few lines, and the run is resumed by both."""
    killed = int(trial.generator.integers(2))
    moment = float(trial.generator.uniform(0, 1.2 * trial.reference.undisturbed(TRAIN).seconds))
    ranks = _start_ranks(trial, again=False)
    ranks[killed].signal_after(moment, signal.SIGKILL)
    outcomes = [rank.wait() for rank in ranks]
    what = f"rank {killed} of two killed after {moment:.2f} s"
    survivor = outcomes[1 - killed]
    check_message(survivor, what, statuses=(0, 1))
    errors = [line for line in survivor.errors if line.startswith("Rank ")]
    if survivor.status == 1 and len(errors) != 1:
        raise Broken(f"{what}: the survivor has {len(errors)} lines: {_last_lines(survivor)}")
    for outcome in [rank.wait() for rank in _start_ranks(trial, again=True)]:
        check_message(outcome, f"{what}, then resumed", statuses=(0,))
    steps = [entry["step"] for entry in read_run(trial.out)["log"] if entry["kind"] == "validation"]
    expected = trial.reference.undisturbed(TRAIN).result["log"]
    if steps != [entry["step"] for entry in expected if entry["kind"] == "validation"]:
        raise Broken(f"{what}, then resumed: validations after the steps {steps}")


def reads_or_refuses_fuzzed_files(trial: Trial) -> None:
    """A file of random content is read, or refused with one line."""
    kind = trial.draw(sorted(FUZZED))
    main, arguments, what = FUZZED[kind](trial.generator, trial.folder, trial.reference.inputs)
    outcome = run(main, arguments, log_of(trial.out))
    check_message(outcome, f"{kind}: {what}", statuses=(0, 1))
    if outcome.status == 1:
        check_error(outcome, f"{kind}: {what}")


def reads_or_refuses_fuzzed_images(trial: Trial) -> None:
    """Each of several random images has a report, or an error of one line."""
    folder = trial.folder / "images"
    folder.mkdir()
    written = write_fuzzed_images(folder, trial.generator)
    arguments = ["--checkpoint", str(trial.reference.inputs.run), str(folder), "--out", str(trial.out)]
    outcome = run(PREDICT.main, arguments, log_of(trial.out))
    check_message(outcome, "predict with fuzzed images", statuses=(0, 1))
    reports = len(list(trial.out.glob("*.json")))
    errors = sum(any(name in line for name in written) for line in outcome.errors if "have no report" not in line)
    if reports + errors < len(written):
        raise Broken(f"predict: {reports} reports and {errors} errors for {len(written)} images")


PROMISES: dict[str, Callable[[Trial], None]] = {
    "kill": survives_kills,
    "stop": stops_with_one_line,
    "full disk": survives_full_disks,
    "corruption": tells_corruption,
    "corrupted last": tells_corruption_when_resuming,
    "damaged parts": tells_damaged_parts,
    "dead rank": ends_with_a_dead_rank,
    "fuzzed file": reads_or_refuses_fuzzed_files,
    "fuzzed images": reads_or_refuses_fuzzed_images,
}


def _repeat(trial: Trial, command: Command, what: str) -> None:
    """Run the same command again, and check its result."""
    outcome = command.run(trial.reference.inputs, trial.out, again=True)
    check_result(trial, command, outcome, trial.out, f"{what}, then repeated")


def _start_ranks(trial: Trial, again: bool) -> list[Process]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    arguments = training_arguments(trial.reference.inputs, trial.out, again)
    return [
        Process(TRAIN.main, arguments, trial.folder / f"rank{rank}.output",
                common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
