"""Copying shards to a local disk."""

import multiprocessing
import os

import pytest

from data.errors import UserError
from data.images.staging import stage_shard


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "set/00000.tar"
    path.parent.mkdir()
    path.write_bytes(os.urandom(5000))
    return path


def test_a_shard_is_copied_once_and_again_when_it_changes(shard, tmp_path):
    copy = stage_shard(shard, tmp_path / "local")
    assert copy.read_bytes() == shard.read_bytes() and copy.suffix == ".tar"
    time = copy.stat().st_mtime_ns
    assert stage_shard(shard, tmp_path / "local") == copy and copy.stat().st_mtime_ns == time
    shard.write_bytes(b"another content")
    other = stage_shard(shard, tmp_path / "local")
    assert other != copy and other.read_bytes() == b"another content"


def test_an_interrupted_copy_is_made_again(shard, tmp_path):
    copy = stage_shard(shard, tmp_path / "local")
    copy.rename(copy.with_suffix(".partial"))
    copy.with_suffix(".partial").write_bytes(b"half")
    assert stage_shard(shard, tmp_path / "local").read_bytes() == shard.read_bytes()


def test_shards_of_the_same_name_do_not_mix(shard, tmp_path):
    other = tmp_path / "other/00000.tar"
    other.parent.mkdir()
    other.write_bytes(shard.read_bytes())
    assert stage_shard(shard, tmp_path / "local") != stage_shard(other, tmp_path / "local")


def test_processes_wait_for_the_one_that_copies(shard, tmp_path):
    with multiprocessing.Pool(4) as pool:
        copies = pool.starmap(stage_shard, [(shard, tmp_path / "local")] * 8)
    assert len(set(copies)) == 1 and copies[0].read_bytes() == shard.read_bytes()


def test_a_full_or_missing_disk_is_one_line(shard, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Cannot write data\.stage_dir=.*: free space, choose another folder, or"):
        stage_shard(shard, tmp_path / "file/local")
    with pytest.raises(FileNotFoundError):
        stage_shard(tmp_path / "absent.tar", tmp_path / "local")
