"""Checkpoints: writing, replacing, reading, and damaged or missing files."""

import dataclasses
import errno
import functools
import json
import os
import pickle
import random
import re
import resource
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml

from data.errors import UserError
from modules import checkpoint
from modules.checkpoint import (
    CONFIG,
    THRESHOLDS,
    TRAINING_STATE,
    VOCABULARIES,
    WEIGHTS,
    Thresholds,
    check_replaceable,
    has_checkpoint,
    load_checkpoint,
    save_thresholds,
)
from modules.config import load_config, setting_names
from modules.saving import manifest
from modules.saving.manifest import MANIFEST, MARK
from modules.settings.earlier import ADDED
from tests.support.context.tiny_context import add_context
from tests.support.small_checkpoint import STATE, model_of, save
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_run import save_tiny_run

EARLIER = Path(__file__).parents[1] / "support" / "earlier_run"


def weight_of(directory: Path) -> float:
    return float(load_checkpoint(directory).weights["0.weight"][0, 0])


def test_round_trip(tmp_path, parts):
    save(tmp_path / "last", parts, 0.25)
    loaded = load_checkpoint(tmp_path / "last", training=True)
    config, vocabularies = parts
    assert loaded.directory == tmp_path / "last"
    assert loaded.config == config
    assert loaded.vocabularies.fingerprints() == vocabularies.fingerprints()
    assert loaded.weights.keys() == model_of(0).state_dict().keys()
    assert weight_of(tmp_path / "last") == 0.25
    assert loaded.training_state["position"] == STATE["position"]
    assert torch.equal(loaded.training_state["random"], STATE["random"])
    assert load_checkpoint(tmp_path / "last").training_state is None


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path, parts):
    save(tmp_path / "last", parts, 1)
    save(tmp_path / "last", parts, 2, state=None)
    assert weight_of(tmp_path / "last") == 2
    assert not (tmp_path / "last" / TRAINING_STATE).exists()
    assert os.listdir(tmp_path) == ["last"]


def test_a_checkpoint_without_a_training_state_is_nothing_to_go_on_from(tmp_path, parts):
    assert not has_checkpoint(tmp_path / "last")
    save(tmp_path / "last", parts, state=None)
    assert not has_checkpoint(tmp_path / "last")
    with pytest.raises(UserError, match=f"has no {TRAINING_STATE}"):
        load_checkpoint(tmp_path / "last", training=True)
    save(tmp_path / "last", parts)
    assert has_checkpoint(tmp_path / "last")


@pytest.mark.parametrize(
    ("files_written", "renames_done"), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (5, 1), (5, 2)]
)
def test_a_crash_anywhere_leaves_a_whole_checkpoint(tmp_path, parts, monkeypatch, files_written, renames_done):
    """The machine stops before a file is written, or before a rename."""
    directory = tmp_path / "last"
    save(directory, parts, 1)

    class MachineStops(BaseException):
        pass

    counts = {"fsync": 0, "rename": 0}

    def after(name, limit, function):
        def counted(*arguments):
            if counts[name] == limit:
                raise MachineStops
            counts[name] += 1
            return function(*arguments)

        return counted

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", after("rename", renames_done, Path.rename))
        if files_written < 5:
            patched.setattr(os, "fsync", after("fsync", files_written, os.fsync))
        try:
            save(directory, parts, 2)
        except MachineStops:
            pass
    assert has_checkpoint(directory)
    assert weight_of(directory) == (2 if renames_done == 2 else 1)
    save(directory, parts, 3)
    assert weight_of(directory) == 3
    assert os.listdir(tmp_path) == ["last"]


@pytest.fixture
def file_size_limit():
    """A function that limits the file size for this process, until the end of the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [100, 30_000, 200_000])
def test_a_file_that_does_not_fit_is_one_line_and_leaves_the_old_checkpoint(tmp_path, parts, file_size_limit, size):
    """The write fails in the configuration, in the vocabularies or weights, or in the training state."""
    save(tmp_path / "last", parts, 1)
    file_size_limit(size)
    with pytest.raises(UserError) as caught:
        save(tmp_path / "last", parts, 2, size=5_000, state=STATE | {"moments": torch.zeros(100_000)})
    file_size_limit(resource.RLIM_INFINITY)
    assert "\n" not in str(caught.value)
    assert f"Cannot write {tmp_path / 'last'}/" in str(caught.value)
    assert f"({os.strerror(errno.EFBIG)}): free space, or choose another folder with results=" in str(caught.value)
    assert weight_of(tmp_path / "last") == 1
    assert os.listdir(tmp_path) == ["last"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, parts):
    (tmp_path / "results").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"Cannot write .*results/last \(.*\): free space, or choose another folder"):
        save(tmp_path / "results" / "last", parts)


@pytest.mark.parametrize(("names", "message"), [
    (["thesis.txt"], "holds thesis.txt, which a checkpoint there would replace"),
    ([WEIGHTS, CONFIG, VOCABULARIES, "metrics.json"], "holds metrics.json, which"),
    ([WEIGHTS, CONFIG, VOCABULARIES, TRAINING_STATE], f"holds {TRAINING_STATE}, which"),
    ([WEIGHTS], "exists and is not a complete checkpoint"),
    (["best/weights.pt"], "holds best, which"),
])
def test_what_is_no_old_checkpoint_is_not_to_be_replaced(tmp_path, names, message):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("precious")
    with pytest.raises(UserError, match=message):
        check_replaceable(tmp_path)


def test_an_old_checkpoint_and_an_empty_place_may_be_replaced(tmp_path, parts):
    check_replaceable(tmp_path)
    check_replaceable(tmp_path / "absent")
    save(tmp_path / "best", parts, state=None)
    check_replaceable(tmp_path / "best")
    save(tmp_path / "last", parts)
    check_replaceable(tmp_path / "last", training=True)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match=r"Cannot write a checkpoint to .*file \(Not a directory\): choose another"):
        check_replaceable(tmp_path / "file")


def test_a_run_folder_stands_for_its_best(tmp_path, parts, capsys):
    save(tmp_path / "run" / "best", parts, 7)
    save(tmp_path / "run" / "last", parts, 8)
    assert weight_of(tmp_path / "run") == 7
    assert "is a run folder: using its best checkpoint" in capsys.readouterr().err


def test_a_run_folder_without_a_best_says_what_to_give(tmp_path, parts):
    save(tmp_path / "run" / "last", parts)
    with pytest.raises(UserError, match="has no best checkpoint yet, only the last one: give .*run/last"):
        load_checkpoint(tmp_path / "run")


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="No checkpoint at .*nowhere: give a run folder or a checkpoint in it"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(UserError, match=rf"is not a checkpoint \(it has no {WEIGHTS}\): give a run folder"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", [CONFIG, VOCABULARIES, TRAINING_STATE, MANIFEST])
def test_a_missing_file_is_named(tmp_path, parts, name):
    save(tmp_path / "last", parts)
    (tmp_path / "last" / name).unlink()
    with pytest.raises(UserError, match=rf"last is damaged \(it has no {name}\): use another"):
        load_checkpoint(tmp_path / "last", training=True)


@pytest.mark.parametrize("name", [VOCABULARIES, WEIGHTS, TRAINING_STATE])
@pytest.mark.parametrize("content", [b"", b"{}", b"no archive", None])
def test_a_damaged_file_is_named_in_one_line(tmp_path, parts, name, content):
    save(tmp_path / "last", parts)
    path = tmp_path / "last" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    with pytest.raises(UserError) as caught:
        load_checkpoint(tmp_path / "last", training=True)
    assert f"{path} is damaged" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [VOCABULARIES, THRESHOLDS, MANIFEST, CONFIG])
def test_a_file_is_read_up_to_a_limit(tmp_path, parts, name, monkeypatch):
    """60 MB of empty lists take 1.4 GiB."""
    save(tmp_path / "last", parts)
    path = tmp_path / "last" / name
    for module in (checkpoint, manifest):
        monkeypatch.setattr(module, "LARGEST_LINE", 5 << 18)
    path.write_bytes(b"[" + b"[]," * 500_000 + b"[]]")
    if name != MANIFEST:  # earlier versions have none
        (tmp_path / "last" / MANIFEST).unlink()
        config = tmp_path / "last" / CONFIG
        config.write_bytes(config.read_bytes().removeprefix(MARK))
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            load_checkpoint(tmp_path / "last")
        assert name in str(caught.value) and tracemalloc.get_traced_memory()[1] < 30 << 20
    finally:
        tracemalloc.stop()


def test_words_that_no_file_can_have_are_refused(tmp_path, parts):
    save(tmp_path / "last", parts)
    path = tmp_path / "last" / VOCABULARIES
    (tmp_path / "last" / MANIFEST).unlink()
    config = tmp_path / "last" / CONFIG
    config.write_bytes(config.read_bytes().removeprefix(MARK))
    path.write_text(path.read_text(encoding="utf-8").replace('"<unk>"', r'"<unk>", "\ud800"'), encoding="utf-8")
    with pytest.raises(UserError, match=f"{VOCABULARIES} is damaged"):
        load_checkpoint(tmp_path / "last")


FILES = [CONFIG, VOCABULARIES, WEIGHTS, TRAINING_STATE, MANIFEST]


@pytest.mark.parametrize("name", FILES)
def test_any_damage_is_named(tmp_path, parts, name):
    save(tmp_path / "last", parts)
    path = tmp_path / "last" / name
    content, generator = path.read_bytes(), random.Random(0)
    for _ in range(20):
        place = generator.randrange(len(content))
        flipped = bytes([content[place] ^ (1 << generator.randrange(8))])
        for damaged in (content[:place] + flipped + content[place + 1 :], content[:place], content + b"\n"):
            path.write_bytes(damaged)
            try:
                load_checkpoint(tmp_path / "last", training=True)
            except UserError as error:
                # A changed manifest can name a file that is not the culprit.
                assert name == MANIFEST or str(error).startswith(f"{path} is damaged")
                assert "\n" not in str(error)
            else:
                assert name == MANIFEST and json.loads(damaged)["files"] == json.loads(content)["files"]
    path.write_bytes(content)
    load_checkpoint(tmp_path / "last", training=True)


def test_the_manifest_lists_every_file(tmp_path, parts):
    save(tmp_path / "last", parts)
    listed = json.loads((tmp_path / "last" / MANIFEST).read_text())["files"]
    assert set(listed) | {MANIFEST} == set(os.listdir(tmp_path / "last"))


def test_readers_during_saves_get_one_save(tmp_path, parts):
    """Value, configuration and training state of a reader's checkpoint belong together."""
    config, vocabularies = parts

    def write(value):
        state = STATE | {"value": value}
        save(tmp_path / "last", (dataclasses.replace(config, seed=value), vocabularies), value, state=state)

    write(0)
    read, stop = [], threading.Event()

    def keep_reading():
        while not stop.is_set():
            loaded = load_checkpoint(tmp_path / "last", training=True)
            value = float(loaded.weights["0.weight"][0, 0])
            read.append((value, loaded.config.seed, loaded.training_state["value"]))

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(keep_reading) for _ in range(2)]
        for value in range(1, 25):
            write(value)
        stop.set()
        for reader in readers:
            reader.result()
    assert len(read) > 2 and all(value == seed == state for value, seed, state in read)
    assert os.listdir(tmp_path) == ["last"]


def test_checkpoints_of_earlier_versions_have_no_manifest(tmp_path, parts):
    save(tmp_path / "last", parts, 3)
    config = tmp_path / "last" / CONFIG
    config.write_bytes(config.read_bytes().removeprefix(MARK))
    (tmp_path / "last" / MANIFEST).unlink()
    assert weight_of(tmp_path / "last") == 3
    lines = config.read_text().splitlines(keepends=True)
    for kept in range(len(lines)):
        config.write_text("".join(lines[:kept]))
        with pytest.raises(UserError, match=r"config\.yaml"):
            load_checkpoint(tmp_path / "last")
    without_added = [line for line in lines if not re.match(r"  (crop|deterministic|thresholds):", line)]
    config.write_text("".join(without_added))
    assert load_checkpoint(tmp_path / "last").config.data.crop == 1.0


def test_every_setting_is_required_or_has_the_value_of_earlier_versions():
    text = (EARLIER / CONFIG).read_text()
    load_config(EARLIER / CONFIG, checkpoint=text)
    listed = yaml.safe_load(text)
    new = {name for name in setting_names() if not has_setting(listed, name)}
    converted = {"data.micro_batch_size", "optim.batch_size"}
    assert new == set(ADDED) | converted, "list settings that were added in ADDED of modules/settings/earlier.py"


def has_setting(settings: dict, name: str) -> bool:
    *groups, last = name.split(".")
    return last in functools.reduce(lambda group, name: group.get(name, {}), groups, settings)


def test_thresholds_are_kept_until_the_weights_are_replaced(tmp_path, parts):
    save(tmp_path / "best", parts, state=None)
    thresholds = Thresholds({"left lung": 0.5}, {"left lung": {"nlp|yes|abnormal": 0.25}}, {"split": "val"})
    save_thresholds(tmp_path / "best", thresholds)
    assert load_checkpoint(tmp_path / "best").thresholds == thresholds
    check_replaceable(tmp_path / "best")
    save(tmp_path / "best", parts, state=None)
    assert load_checkpoint(tmp_path / "best").thresholds is None
    with pytest.raises(UserError, match=r"Cannot write .*nowhere/thresholds.json \(.*\): free space, or copy"):
        save_thresholds(tmp_path / "nowhere", thresholds)


@pytest.mark.parametrize("content", [
    b"", b"[]", b"\xff", b'{"regions": {}}', b'{"regions": {"left lung": 2}, "attributes": {}, "origin": {}}',
    b'{"regions": {"left lung": NaN}, "attributes": {}, "origin": {}}',
    b'{"regions": {}, "attributes": {"left lung": {"a": "b"}}, "origin": {}}',
    b'{"regions": {"left lung": ' + b"9" * 400 + b'}, "attributes": {}, "origin": {}}',
    b'{"regions": {"\\ud800": 0.5}, "attributes": {}, "origin": {}}',
])
def test_damaged_thresholds_are_named_in_one_line(tmp_path, parts, content):
    save(tmp_path / "best", parts)
    (tmp_path / "best" / THRESHOLDS).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_checkpoint(tmp_path / "best")
    assert f"{THRESHOLDS} is damaged" in str(caught.value) and "run modules.calibrate again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_code_in_a_checkpoint_is_not_executed(tmp_path, parts):
    save(tmp_path / "last", parts)
    trap = tmp_path / "executed"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(trap),)

    (tmp_path / "last" / MANIFEST).unlink()
    config = tmp_path / "last" / CONFIG
    config.write_bytes(config.read_bytes().removeprefix(MARK))
    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        for content in ({"0.weight": Trap()}, [Trap()], Trap()):
            write(content, tmp_path / "last" / WEIGHTS)
            with pytest.raises(UserError, match=r"weights.pt contains pickled code \(it calls posix.mkdir\), which"):
                load_checkpoint(tmp_path / "last")
    assert not trap.exists()


@pytest.mark.parametrize(("trained", "asked"), [
    ("data.sections=findings", "data.sections=impression"), ("data.sections=impression", "data.sections=findings"),
    ("data.sections=both", "data.sections=impression"), ("model.prior_report=false", "model.prior_report=true"),
])
def test_what_weights_do_not_tell_stays_as_it_was_trained(tmp_path, trained, asked):
    """Another section would be the reference of reports that the model does not write."""
    root = add_context(write_tiny_dataset(tmp_path / "tiny", image_size=32))
    save_tiny_run(tmp_path / "run", root, "model.context=[indication,prior]", trained)
    checkpoint = load_checkpoint(tmp_path / "run/best")
    setting, _, value = trained.partition("=")
    with pytest.raises(UserError, match=f"{setting}=.*: must be {value}, as the model was trained"):
        checkpoint.load_config([asked])
    assert checkpoint.load_config([trained, "eval.beam_size=1"]).eval.beam_size == 1
