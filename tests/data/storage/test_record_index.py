"""The index of records.jsonl: made once, never used for other content, shared by processes."""

import json
import multiprocessing
import os
import pickle
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import records as records_module
from data.errors import UserError
from data.records import SPLITS, read_records
from data.sources.phantom.dataset import PhantomSettings, prepare_phantom
from data.sources.preparation import prepare
from tests.support.graph_records import write_records
from tests.support.sources.toy_source import SIDE, ToySource
from tests.support.tiny_dataset import write_tiny_dataset


@pytest.fixture
def root(tmp_path):
    return write_tiny_dataset(tmp_path / "tiny", train=3, val=2, test=1, image_size=8)


def change_last_byte(path):
    """Change a byte of the last offset."""
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)


def change_offset_without_manifest(index):
    """Change an offset in an index of an earlier version, which has no manifest."""
    change_last_byte(next(index.glob("*.v*/train.npy")))
    next(index.glob("*.v*/manifest.json")).unlink()


def swap(first, second):
    """Give each of two files the content of the other."""
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def fail(*_):
    raise AssertionError("a record was checked again")


def ids(root, split="train"):
    return [record["id"] for record in read_records(root, split)]


@pytest.mark.parametrize("prepared", ["phantom", "toy"])
def test_a_new_data_set_is_indexed_already(tmp_path, monkeypatch, prepared):
    out = tmp_path / "out"
    if prepared == "phantom":
        prepare_phantom(out, PhantomSettings(studies=10, image_size=32), workers=1)
    else:
        prepare(ToySource(8), out, SIDE, 1)
    lines = [json.loads(line) for line in (out / "records.jsonl").read_bytes().splitlines()]
    monkeypatch.setattr(records_module, "_parse", fail)
    for split in SPLITS:
        assert list(read_records(out, split)) == [record for record in lines if record["split"] == split]


def test_an_earlier_data_set_is_indexed_once(root, monkeypatch):
    assert not (root / "index").exists()
    assert ids(root) == ["train0", "train1", "train2"]
    monkeypatch.setattr(records_module, "_parse", fail)
    assert ids(root) == ["train0", "train1", "train2"] and ids(root, "val") == ["val0", "val1"]


@given(studies=st.lists(
    st.tuples(st.sampled_from(SPLITS), st.text(max_size=20), st.integers(0, 3)), min_size=1, max_size=12
), newline=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_records_are_those_of_the_file(tmp_path_factory, studies, newline):
    root = tmp_path_factory.mktemp("any")
    (root / "dataset.yaml").write_text("name: any\ncounts: {}\n", encoding="utf-8")
    written = [
        {"id": f"study {number}", "split": split, "images": ["x.png"], "views": ["PA"], "report": report,
         "observations": None, "graph": None, "more": [report] * repeats}
        for number, (split, report, repeats) in enumerate(studies)
    ]
    text = "\n".join(json.dumps(record, ensure_ascii=bool(number % 2)) for number, record in enumerate(written))
    (root / "records.jsonl").write_bytes((text + "\n" * newline).encode("utf-8", "surrogatepass"))
    for split in {split for split, _, _ in studies}:
        expected = [record for record in written if record["split"] == split]
        for _ in range(2):
            records = read_records(root, split)
            assert list(records) == expected and [records[-1 - i] for i in range(len(records))] == expected[::-1]


@pytest.mark.parametrize("older", [False, True])
def test_an_edited_file_is_indexed_again_even_at_the_same_size(root, older):
    path = root / "records.jsonl"
    assert ids(root, "val") == ["val0", "val1"]
    status = path.stat()
    text = path.read_bytes()
    path.write_bytes(text.replace(b'"val1"', b'"valX"'))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - (10**12 if older else 0)))
    assert path.stat().st_size == status.st_size
    assert ids(root, "val") == ["val0", "valX"]
    path.write_bytes(text)
    assert ids(root, "val") == ["val0", "val1"]
    assert len([entry for entry in (root / "index").iterdir() if entry.is_dir()]) == 1


def test_checks_are_repeated_for_an_edited_file(root):
    ids(root)
    with (root / "records.jsonl").open("ab") as file:
        file.write(b"{}\n")
    for _ in range(2):
        with pytest.raises(UserError, match=r"records\.jsonl line 7: study \? lacks the key 'id'"):
            read_records(root, "train")


def test_a_copy_needs_no_new_index(root, tmp_path, monkeypatch):
    ids(root)
    copy = shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    monkeypatch.setattr(records_module, "_parse", fail)
    assert ids(copy) == ["train0", "train1", "train2"]


def make_old(root):
    """Make records.jsonl look as if it were written long before its index."""
    moment = (root / "index/current.json").stat().st_mtime + 10
    os.utime(root / "index/current.json", (moment, moment))


def test_an_old_file_is_not_even_hashed(root, monkeypatch):
    ids(root)
    make_old(root)
    monkeypatch.setattr(records_module, "_parse", fail)
    monkeypatch.setattr("data.storage.record_index._fingerprint", fail)
    assert ids(root) == ["train0", "train1", "train2"]


@pytest.mark.parametrize("damage", [
    lambda index: next(index.glob("*.v*/train.npy")).write_bytes(b"\x93NUMPY"),
    lambda index: next(index.glob("*.v*/train.npy")).write_bytes(b""),
    lambda index: next(index.glob("*.v*/test.npy")).unlink(),
    lambda index: next(index.glob("*.v*/manifest.json")).write_bytes(b"{"),
    lambda index: change_last_byte(next(index.glob("*.v*/train.npy"))),
    lambda index: change_offset_without_manifest(index),
    lambda index: swap(next(index.glob("*.v*/train.npy")), next(index.glob("*.v*/val.npy"))),
    lambda index: (index / "current.json").write_text("{"),
    lambda index: (index / "current.json").write_text("[]"),
    lambda index: (index / "current.json").unlink(),
    lambda index: shutil.rmtree(index),
])
def test_a_damaged_index_is_made_again(root, damage):
    ids(root)
    damage(root / "index")
    assert ids(root) == ["train0", "train1", "train2"] and ids(root, "test") == ["test0"]


def test_what_a_killed_process_left_is_removed(root):
    (root / "index/0123.v1.partial-1-abc").mkdir(parents=True)
    ids(root)
    assert list((root / "index").glob("*partial*")) == []


def test_a_folder_that_cannot_be_written_is_indexed_in_memory(root, capsys):
    (root / "index").write_text("in the way")
    records = read_records(root, "train")
    assert "index cannot be written" in capsys.readouterr().err and records.offsets_file is None
    assert [record["id"] for record in pickle.loads(pickle.dumps(records))] == ["train0", "train1", "train2"]


def test_a_file_that_grows_meanwhile_is_an_error(root, monkeypatch):
    def parse(line, where):
        with (root / "records.jsonl").open("ab") as file:
            file.write(b"\n")
        return json.loads(line) if line.strip() else {"id": where, "split": "val"}

    lines = iter(range(100))
    monkeypatch.setattr(records_module, "_parse", lambda line, where: parse(line, where) if next(lines) < 1 else
                        {"id": where, "split": "val"})
    with pytest.raises(UserError, match="changed while it was indexed: run the command again"):
        read_records(root, "train")


# Several processes


def test_processes_that_start_together_index_once(root, tmp_path, monkeypatch):
    log, check = tmp_path / "log", records_module._parse

    def parse(line, where):
        with log.open("a") as file:
            file.write(".")
        return check(line, where)

    monkeypatch.setattr(records_module, "_parse", parse)
    processes = [multiprocessing.get_context("fork").Process(target=ids, args=(root,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(log.read_text()) == len((root / "records.jsonl").read_bytes().splitlines())


def test_pickled_records_carry_no_data(tmp_path):
    root = write_records(tmp_path / "set", [None] * 3000)
    records = read_records(root, "train")
    content = pickle.dumps(records)
    assert len(content) < 1000
    restored = pickle.loads(content)
    assert len(restored) == 3000 and restored[2999] == records[2999]
    assert list(pickle.loads(pickle.dumps(restored.select([5, 2])))) == [records[5], records[2]]


@pytest.mark.parametrize("change", [
    lambda path: path.write_bytes(path.read_bytes()[:10]),
    lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    lambda path: path.unlink(),
])
def test_pickled_records_do_not_open_another_file(root, change):
    content = pickle.dumps(read_records(root, "train"))
    change(root / "records.jsonl")
    with pytest.raises(UserError, match="start the run again"):
        pickle.loads(content)[0]


def test_a_file_that_is_truncated_while_in_use_is_an_error(root):
    records = read_records(root, "train")
    with (root / "records.jsonl").open("r+b") as file:
        file.truncate(1)
    with pytest.raises(UserError, match=r"records\.jsonl was changed while it was in use: start the run again"):
        records[2]


def test_a_replaced_file_does_not_disturb_a_run(root):
    records = read_records(root, "train")
    (root / "new").write_bytes(b"{}\n")
    (root / "new").rename(root / "records.jsonl")
    assert [record["id"] for record in records] == ["train0", "train1", "train2"]


def test_pages_are_released(root, monkeypatch):
    monkeypatch.setattr(records_module, "_READS_BETWEEN_RELEASES", 2)
    records = read_records(root, "train")
    expected = list(records)
    assert [records[index] for _ in range(5) for index in range(3)] == expected * 5
