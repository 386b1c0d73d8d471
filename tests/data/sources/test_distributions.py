"""Searching sources, and reading their tables."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.sources.distributions import read_table, search_sources
from tests.support.sources.mimic_fixture import write_files, write_table


def test_search_finds_tables_and_trees_and_stays_out_of_large_folders(tmp_path):
    names = ("a/table.csv", "a/b/graphs.zip", "a/files/p10/p10/s1/x.csv", "a/files/notes.txt", "images/p11/x.json",
             "c/images/1.csv", "scene_graph/x.json", "a/.hidden/y.csv")  # fmt: skip
    write_files(tmp_path, dict.fromkeys(names, b""), None)
    found = search_sources([tmp_path])
    assert [str(path.relative_to(tmp_path)) for path in found.files] == ["a/table.csv", "a/b/graphs.zip"]
    assert [path.relative_to(tmp_path).as_posix() for path in found.trees] == ["a/files", "images"]
    assert tmp_path / "scene_graph" in found.folders and tmp_path / "c/images" in found.folders
    assert found.table("table") == tmp_path / "a/table.csv" and found.table("graphs") is None
    assert search_sources([tmp_path / "a/b/graphs.zip"]).file("graphs.zip") == tmp_path / "a/b/graphs.zip"


def test_absent_source_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=f"No source at {tmp_path / 'absent'}"):
        search_sources([tmp_path / "absent"])


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_columns_are_read_by_name_wherever_they_stand(tmp_path, name):
    write_table(tmp_path / name, ("", "b", "a"), [(0, " x ", "1,5"), (1, "", "2")])
    assert list(read_table(tmp_path / name, ("a", "b"))) == [("1,5", "x"), ("2", "")]


def test_byte_order_mark_and_empty_lines(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,4\r\n")
    assert list(read_table(tmp_path / "t.csv", ("a",))) == [("1",), ("3",)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("t.csv", b"a\n1\n", "t.csv has no column 'b'"), ("t.csv", b"", "t.csv has no column 'a'"),
     ("t.csv", b"a,b\n1\n", "t.csv line 2 has 1 columns"), ("t.csv", b"a,b\n\xff,\n", "Cannot read .*t.csv"),
     ("t.csv.gz", b"a,b\n1,2\n", "Cannot read .*t.csv.gz"), ("t.csv", None, "Cannot read .*t.csv .No such file"),
     ("t.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 99, mtime=0)[:-12], "Cannot read .*t.csv.gz")],
)  # fmt: skip
def test_malformed_table_is_refused_by_name(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_table(tmp_path / name, ("a", "b")))


@settings(deadline=None)
@given(content=st.binary(max_size=200), head=st.sampled_from([b"", b"a,b\n"]), zipped=st.booleans())
def test_any_bytes_give_rows_or_one_line(tmp_path_factory, content, head, zipped):
    path = tmp_path_factory.mktemp("table") / ("t.csv.gz" if zipped else "t.csv")
    path.write_bytes(gzip.compress(head + content, mtime=0) if zipped else head + content)
    try:
        assert all(len(row) == 2 for row in read_table(path, ("a", "b")))
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
