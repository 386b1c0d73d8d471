"""Lines of bounded length."""

import gzip

import pytest

from data.errors import UserError
from data.images.boxes import read_boxes
from data.ontology import Anatomy, observation_names
from data.records import read_records
from data.sources import distributions
from data.storage import lines
from data.storage.lines import bounded_lines
from data.text import label_tables, report_tables
from tests.support.tiny_dataset import write_tiny_dataset


@pytest.fixture
def short_lines(monkeypatch):
    monkeypatch.setattr(lines, "LARGEST_LINE", 10)


@pytest.mark.parametrize("content", [b"", b"a", b"a\n\nb", b"123456789\n" * 2])
def test_lines_are_those_of_the_file(tmp_path, content, short_lines):
    (tmp_path / "file").write_bytes(content)
    with (tmp_path / "file").open("rb") as file:
        assert list(bounded_lines(file, "file")) == content.splitlines(keepends=True)


def test_a_longer_line_is_refused_by_its_number(tmp_path, short_lines):
    root = write_tiny_dataset(tmp_path / "tiny", train=1, val=1, test=1, image_size=8)
    with pytest.raises(UserError, match=r"records\.jsonl line 1 is damaged \(longer than 0 MiB\)"):
        read_records(root, "train")
    (tmp_path / "boxes.jsonl").write_bytes(b" " * 11)
    with pytest.raises(UserError, match=r"data.boxes_file=.*boxes\.jsonl line 1 is damaged"):
        read_boxes(tmp_path / "boxes.jsonl", "data.boxes_file", Anatomy.load())


@pytest.fixture
def bomb(tmp_path, monkeypatch):
    """A function that writes a gzipped file with a line of 64 MiB, of which no reader may unpack more than 32 MiB."""
    unpacked = [0]
    read = gzip._GzipReader.read

    def count(reader, size=-1):
        content = read(reader, size)
        unpacked[0] += len(content)
        assert unpacked[0] < 1 << 25
        return content

    def write(name, start):
        with gzip.open(tmp_path / name, "wb", compresslevel=1) as file:
            file.write(start + b"a" * (1 << 26))
        monkeypatch.setattr(gzip._GzipReader, "read", count)
        unpacked[0] = 0
        return tmp_path / name

    return write


def test_a_compressed_line_is_not_unpacked_whole(bomb):
    with pytest.raises(UserError, match=r"table\.csv\.gz line 2 is damaged \(longer than 16 MiB\)"):
        list(distributions.read_table(bomb("table.csv.gz", b"a,b\n1,"), ["a"]))
    header = ",".join(["study_id", *observation_names()]).encode()
    with pytest.raises(UserError, match=r"labels\.csv\.gz line 2 is damaged \(longer than 16 MiB\)"):
        label_tables.read_label_table(bomb("labels.csv.gz", header + b"\n1,"))


def test_compressed_json_is_not_unpacked_whole(bomb, monkeypatch):
    monkeypatch.setattr(label_tables, "_LARGEST_JSON", 1 << 20)
    with pytest.raises(UserError, match=r"labels\.json\.gz is damaged \(longer than 1 MiB\)"):
        label_tables.read_label_table(bomb("labels.json.gz", b'{"1": "'))


def test_a_cell_over_many_lines_is_bounded_too(tmp_path, monkeypatch):
    (tmp_path / "reports.csv").write_text('id,report\n1,"' + "clear\n" * 1000)
    monkeypatch.setattr(report_tables, "LARGEST_LINE", 1000)
    with pytest.raises(UserError, match="field larger than field limit"):
        list(report_tables.read_reports(tmp_path / "reports.csv"))
