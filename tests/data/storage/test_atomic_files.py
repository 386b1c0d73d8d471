"""Files and folders that appear complete or not at all."""

import multiprocessing
import time

import pytest

from data.storage import atomic_files
from data.storage.atomic_files import atomic_file, atomic_folder, folder_lock, private_temporary


def test_a_file_is_replaced_at_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_failed_file_changes_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_at_the_end(tmp_path):
    path = tmp_path / "folder"
    for content in ("old", "new"):
        with atomic_folder(path) as unfinished:
            (unfinished / content).touch()
            assert path.exists() == (content == "new")
    assert [entry.name for entry in path.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_changes_nothing(tmp_path):
    path = tmp_path / "folder"
    with atomic_folder(path) as unfinished:
        (unfinished / "old").touch()
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as unfinished:
        (unfinished / "new").touch()
        raise ZeroDivisionError
    assert [entry.name for entry in path.iterdir()] == ["old"] and list(tmp_path.iterdir()) == [path]


def _lock_and_write(folder, path):
    with folder_lock(folder):
        path.write_text("locked")


def test_a_lock_is_held_by_one_process_at_a_time(tmp_path):
    path = tmp_path / "written"
    with folder_lock(tmp_path) as locked:
        assert locked
        process = multiprocessing.get_context("fork").Process(target=_lock_and_write, args=(tmp_path, path))
        process.start()
        time.sleep(0.2)
        assert not path.exists()
    process.join()
    assert path.read_text() == "locked"


@pytest.fixture
def next_run():
    """Forget what was left in a folder, as a new process does."""
    atomic_files._leftovers.cache_clear()
    yield atomic_files._leftovers.cache_clear
    atomic_files._leftovers.cache_clear()


def write_privately(path, content):
    with private_temporary(path) as file:
        file.write(content)
        file.flush()
        type(path)(file.name).replace(path)


def test_what_killed_processes_left_is_removed_and_files_in_use_are_not(tmp_path, next_run):
    path, others = tmp_path / "a.json", [".b.json.7.tmp", ".a.json.tmp", "a.json.7.tmp", ".a.json.x.tmp"]
    for name in (".a.json.7.tmp", ".a.json.123456789.tmp", *others):
        (tmp_path / name).touch()
    with private_temporary(tmp_path / "a.json") as file:
        assert not (tmp_path / ".a.json.7.tmp").exists()
        running = type(path)(file.name)
        in_use = running.rename(tmp_path / ".a.json.8.tmp")
        next_run()
        write_privately(path, b"new")
        assert in_use.exists() and path.read_bytes() == b"new"
    next_run()
    write_privately(path, b"newer")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([*others, "a.json"])


def test_a_failed_write_leaves_nothing(tmp_path, next_run):
    with pytest.raises(ZeroDivisionError), private_temporary(tmp_path / "a") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
