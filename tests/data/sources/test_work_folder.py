"""The folder of unfinished work: it is locked, and resumed only with the same settings."""

import multiprocessing
import os
import signal
import time

import pytest

from data.errors import UserError
from data.sources.preparation import prepare
from data.sources.work_folder import lock
from tests.support.sources.toy_source import SIDE, ToySource, folder_content, prepare_interrupted, wait_until

pytestmark = pytest.mark.usefixtures("small_parts")


def test_damaged_settings_are_told(tmp_path):
    prepare_interrupted(tmp_path / "toy")
    for text in ("", "[", "[]"):
        (tmp_path / ".toy.unfinished/settings.yaml").write_text(text, encoding="utf-8")
        message = r"settings\.yaml is damaged \(not a YAML mapping\): delete the folder .*\.toy\.unfinished"
        with pytest.raises(UserError, match=message):
            prepare(ToySource(34), tmp_path / "toy", SIDE, 1)


def test_other_settings_do_not_mix_with_what_was_begun(tmp_path, expected):
    out = tmp_path / "toy"
    prepare_interrupted(out)
    message = r"\.toy\.unfinished holds an interrupted preparation with different settings \(image_size\)"
    with pytest.raises(UserError, match=message):
        prepare(ToySource(34), out, SIDE + 1, 1)
    with pytest.raises(UserError, match=r"different settings \(options.section\)"):
        prepare(ToySource(34, options={"section": "both"}), out, SIDE, 1)
    prepare(ToySource(34), out, SIDE, 1)
    assert folder_content(out) == expected


def test_two_processes_do_not_prepare_the_same(tmp_path):
    out = tmp_path / "toy"
    slow = ToySource(34, pause=0.2)
    process = multiprocessing.get_context("fork").Process(target=prepare, args=(slow, out, SIDE, 1))
    process.start()
    try:
        wait_until((tmp_path / ".toy.unfinished/settings.yaml").exists)
        with pytest.raises(UserError, match="Another process is preparing .*toy"):
            prepare(ToySource(34), out, SIDE, 1)
    finally:
        process.kill()
        process.join()


def _write_late(folder, seconds):
    """Hold the lock, with a worker that writes a file after `seconds` even if this process is killed."""
    with lock(folder, folder):
        if os.fork() == 0:
            (folder / "begun").touch()
            time.sleep(seconds)
            (folder / "late").touch()
            os._exit(0)
        time.sleep(60)


def test_the_lock_waits_for_the_workers_of_a_killed_process(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_write_late, args=(tmp_path, 0.5))
    process.start()
    wait_until((tmp_path / "begun").exists)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with lock(tmp_path, tmp_path):
        assert (tmp_path / "late").exists()


def test_the_lock_of_a_folder_that_was_removed_is_refused(tmp_path, monkeypatch):
    def remove_and_lock(file, operation):
        (tmp_path / "lock").unlink()

    monkeypatch.setattr("fcntl.flock", remove_and_lock)
    with pytest.raises(UserError, match="Another process is preparing"), lock(tmp_path, tmp_path):
        pass
