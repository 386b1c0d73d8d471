"""Reading the records of a prepared data set, and errors in its files."""

import json

import numpy as np
import pytest
from torch.utils.data import DataLoader

from data.errors import UserError
from data.records import Records, count_studies, is_frontal, read_records
from tests.support.tiny_dataset import write_tiny_dataset


@pytest.fixture
def root(tmp_path):
    return write_tiny_dataset(tmp_path / "tiny", train=3, val=1, test=1, image_size=8)


def rewrite(root, change):
    """Apply `change` to the list of records."""
    path = root / "records.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    change(records)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def test_splits_are_read_in_order(root):
    assert [record["id"] for record in read_records(root, "train")] == ["train0", "train1", "train2"]
    assert [record["id"] for record in read_records(root, "test")] == ["test0"]


def test_records_are_a_sequence(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"id": 0}\n{"id": 1}\n{"id": 2}')
    records = Records(path, np.array([[0, 10], [10, 20], [20, 29]]))
    assert len(records) == 3 and records[-1] == {"id": 2} and records[1:] == [{"id": 1}, {"id": 2}]
    assert records[np.int64(1)] == {"id": 1}
    assert list(records.select([2, 0])) == [{"id": 2}, {"id": 0}]
    with pytest.raises(IndexError):
        records[3]


@pytest.mark.parametrize(("views", "frontal"), [
    (["PA"], True), (["AP", "LATERAL"], True), (["frontal"], True), ([""], True), ([None], True), (["unknown"], True),
    (["LATERAL"], False), (["LL", "PA"], False),
])
def test_the_first_view_decides_what_is_frontal(views, frontal):
    assert is_frontal({"views": views}) is frontal


def test_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"No data set at .*nowhere: prepare one"):
        read_records(tmp_path / "nowhere", "train")


@pytest.mark.parametrize("name", ["dataset.yaml", "records.jsonl"])
def test_a_missing_file(root, name):
    (root / name).unlink()
    with pytest.raises(UserError, match=name):
        read_records(root, "train")


def test_an_unknown_split(root):
    with pytest.raises(UserError, match="Unknown split 'valid'; did you mean 'val'"):
        read_records(root, "valid")


@pytest.mark.parametrize("key", ["id", "split", "images", "views", "report", "observations", "graph"])
def test_a_missing_key_names_line_and_key(root, key):
    rewrite(root, lambda records: records[1].pop(key))
    with pytest.raises(UserError, match=rf"records\.jsonl line 2: study .* lacks the key '{key}'"):
        read_records(root, "train")


def set_value(number, key, value):
    return lambda records: records[number].__setitem__(key, value)


@pytest.mark.parametrize(("change", "message"), [
    (lambda records: [record.update(split="test") for record in records], "'train' of .* has no studies"),
    (set_value(1, "split", "validate"), "line 2: study train1: unknown split 'validate'; choose one of"),
    (set_value(1, "images", []), "line 2: study train1 needs at least one image"),
    (set_value(1, "views", ["PA", "LL"]), "line 2: study train1 needs .* one view per image"),
    *((set_value(1, key, value), "line 2: study train1 needs .* one view per image")
      for key in ("images", "views") for value in (5, 2**62, True, "x", [5], {"x": 1}, [["x"]])),
    *((set_value(1, key, value), f"line 2: {key} of study train1 must be an object or null")
      for key in ("observations", "graph") for value in (5, "x", [], [{"box": None}])),
    (set_value(1, "report", "Clear \ud83d."), r"line 2 is not valid Unicode \(a lone surrogate\)"),
    (set_value(1, "id", "\udcff"), r"line 2 is not valid Unicode \(a lone surrogate\)"),
    (set_value(1, "id", "train0"), "line 2: study train0 is already in the split"),
    (set_value(1, "report", 5), "line 2: id and report of study train1 must be strings; .* without a report has null"),
    (lambda records: records.append(records[0] | {"id": "more"}),
     r"has 4 studies in the split 'train', but dataset\.yaml counts 3: prepare the data set again"),
])
def test_a_wrong_record_is_named(root, change, message):
    rewrite(root, change)
    with pytest.raises(UserError, match=message) as caught:
        read_records(root, "train")
    assert "\n" not in str(caught.value)


def test_escaped_characters_outside_the_basic_plane_are_read(root):
    rewrite(root, lambda records: records[1].update(report="Clear \U0001f600."))
    assert b"\\ud83d\\ude00" in (root / "records.jsonl").read_bytes()
    assert read_records(root, "train")[1]["report"] == "Clear \U0001f600."


def test_a_removed_record_is_a_warning(root):
    rewrite(root, lambda records: records.pop(1))
    with pytest.warns(UserWarning, match=r"2 studies in the split 'train', but .* counts 3: continuing with 2"):
        records = read_records(root, "train")
    assert [record["id"] for record in records] == ["train0", "train2"]


def test_studies_are_counted_by_split(root):
    assert count_studies(root) == {"train": 3, "val": 1, "test": 1}


@pytest.mark.parametrize("line", [b"{not json}\n", b"[1, 2]\n", b"\xff\xfe{}\n", b"\n", b"[" * 100_000],
                         ids=lambda line: repr(line[:10]))
def test_a_damaged_line_is_named(root, line):
    with (root / "records.jsonl").open("ab") as file:
        file.write(line)
    with pytest.raises(UserError, match=r"records\.jsonl line 6 is not"):
        read_records(root, "train")


def test_a_damaged_description_is_named(root):
    (root / "dataset.yaml").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"dataset\.yaml is not YAML"):
        read_records(root, "train")
    (root / "dataset.yaml").write_text("[" + "a," * 600_000 + "a]", encoding="utf-8")
    with pytest.raises(UserError, match=r"dataset\.yaml is damaged \(it has 1171 KiB\)"):
        read_records(root, "train")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_loader_processes_read_the_same_records_however_they_start(root, method):
    records = read_records(root, "train")
    loader = DataLoader(records, batch_size=2, collate_fn=list, num_workers=1, multiprocessing_context=method)
    assert [record for batch in loader for record in batch] == list(records)
