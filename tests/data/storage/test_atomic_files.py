"""Files and folders that appear complete or not at all."""

import multiprocessing
import time

import pytest

from data.storage.atomic_files import atomic_file, atomic_folder, folder_lock


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
