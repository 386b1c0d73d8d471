"""Priors of records: found by offset, and refused unless they are earlier studies of the same patient and split."""

import json
import pickle

import pytest

from data.errors import UserError
from data.records import read_records
from data.storage.statistics import write_derived_files


def write(root, *rows):
    """Write records given as (id, split, patient, taken, prior)."""
    root.mkdir(exist_ok=True)
    (root / "dataset.yaml").write_text("name: hand-made\ncounts: {}\n", encoding="utf-8")
    lines = [
        json.dumps({
            "id": name, "split": split, "images": ["x.png"], "views": ["PA"], "report": "Clear.", "observations": None,
            "graph": None, "patient": patient, "taken": taken, "prior": prior,
        }) for name, split, patient, taken, prior in rows
    ]
    (root / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def prior_ids(records):
    found = [records.prior(index) for index in range(len(records))]
    return [prior and prior["id"] for prior in found]


VALID = [
    ("b", "train", "P1", "2100-01-02", "a"), ("a", "train", "P1", "2100-01-01", None),
    ("c", "train", None, None, None), ("v", "val", "P2", "2100-01-01", None),
]


def test_priors_are_records_of_the_split(tmp_path):
    root = write(tmp_path / "set", *VALID)
    records = read_records(root, "train")
    assert prior_ids(records) == ["a", None, None] and prior_ids(read_records(root, "val")) == [None]
    # Again from the stored index, in another process, and for a part of the records that lacks the prior itself.
    assert prior_ids(read_records(root, "train")) == ["a", None, None]
    assert prior_ids(pickle.loads(pickle.dumps(records))) == ["a", None, None]
    assert prior_ids(records.select([2, 0])) == [None, "a"]
    assert sorted(path.name for path in (root / "index").rglob("*-priors.npy")) == ["train-priors.npy"]


def test_records_without_these_fields_have_no_prior(tmp_path):
    root = write(tmp_path / "set", *VALID)
    path = root / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        for key in ("patient", "taken", "prior"):
            del record[key]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert prior_ids(read_records(root, "train")) == [None, None, None]
    assert not list((root / "index").rglob("*-priors.npy"))


@pytest.mark.parametrize(("row", "message"), [
    (("v", "val", "P1", "2100-01-05", "b"), "study v: its prior b is in the split 'train', not 'val'"),
    (("d", "train", "P2", "2100-01-05", "b"), "study d: its prior b is of another patient"),
    (("d", "train", None, "2100-01-05", "b"), "study d: its prior b is of another patient"),
    (("d", "train", "P1", "2100-01-01", "b"), "study d: its prior b was not taken earlier"),
    (("d", "train", "P1", "2100-01-02", "b"), "study d: its prior b was not taken earlier"),
    (("d", "train", "P1", None, "b"), "study d: its prior b was not taken earlier"),
    (("d", "train", "P1", "2100-01-05", "d"), "study d: its prior d was not taken earlier"),
    (("d", "train", "P1", "2100-01-05", "c"), "study d: its prior c is of another patient"),
])
def test_a_wrong_prior_is_an_error(tmp_path, row, message):
    root = write(tmp_path / "set", *VALID[:3], row)
    with pytest.raises(UserError) as error:
        write_derived_files(root)
    assert message in str(error.value) and "prepare the data set again" in str(error.value)
    assert "records.jsonl line 4" in str(error.value) and "\n" not in str(error.value)


def test_a_prior_whose_line_was_removed_counts_as_none(tmp_path):
    assert prior_ids(read_records(write(tmp_path / "set", VALID[0]), "train")) == [None]


def test_fields_of_a_wrong_type(tmp_path):
    root = write(tmp_path / "set", ("a", "train", 12, None, None))
    with pytest.raises(UserError, match=r"line 1: patient of study a must be a string or null"):
        read_records(root, "train")
