"""Rows of CSV, JSON lines, JSON and Parquet."""

import json

import pytest

from data.errors import UserError
from modules.evaluation.formats.tables import read_json, read_rows

ROWS = [{"id": "1", "text": "one, two"}, {"id": "2", "text": "x\ny"}]


@pytest.mark.parametrize("name, content, kind", [
    ("a.csv", 'id,text\n1,"one, two"\n2,"x\ny"\n', "CSV"),
    ("a.tsv", 'id\ttext\n1\tone, two\n2\t"x\ny"\n', "CSV, separated by tabs"),
    ("a.csv", 'id;text\n1;one, two\n2;"x\ny"\n', "CSV, separated by semicolons"),
    ("a.jsonl", "".join(f"{json.dumps(row)}\n" for row in ROWS), "JSON lines"),
    ("a.json", json.dumps(ROWS), "JSON"),
])
def test_the_same_rows_in_every_format(tmp_path, name, content, kind):
    (tmp_path / name).write_text(content)
    assert read_rows(tmp_path / name) == (kind, ROWS)


def test_parquet_with_missing_values(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install -r requirements-parquet.txt")
    import pandas

    pandas.DataFrame({"id": [1, 2], "text": ["a", None]}).to_parquet(tmp_path / "a.parquet")
    kind, rows = read_rows(tmp_path / "a.parquet")
    assert kind == "Parquet" and rows == [{"id": 1, "text": "a"}, {"id": 2, "text": ""}]
    assert isinstance(rows[0]["id"], int)
    (tmp_path / "b.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match="is not a Parquet file"):
        read_rows(tmp_path / "b.parquet")


def test_parquet_without_its_package_is_one_line(tmp_path, monkeypatch):
    import pandas

    def read_parquet(path):
        raise ImportError("no engine")

    (tmp_path / "a.parquet").touch()
    monkeypatch.setattr(pandas, "read_parquet", read_parquet)
    with pytest.raises(UserError, match=r"needs the package pyarrow: pip install -r requirements-parquet.txt$"):
        read_rows(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="No predictions file at"):
        read_rows(tmp_path / "none.parquet")


def test_missing_numbers_in_json_are_null(tmp_path):
    (tmp_path / "a.json").write_text('{"a": NaN, "b": [Infinity, null]}')
    assert read_json(tmp_path / "a.json") == {"a": None, "b": [None, None]}


@pytest.mark.parametrize("content, message", [
    ("{", "is not JSON"), ("[1]", "is not a list of JSON objects"), ('{"a": 1}', "is not a list of JSON objects"),
    ("[" * 100_000, "is not JSON"),
])
def test_other_json_is_one_line(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        read_rows(tmp_path / "a.json")
    assert "\n" not in str(raised.value)
