"""Tables of reports: reading, writing, and rejecting rows that would lose text."""

import csv
import io

import pytest

from data.errors import UserError
from data.text.report_tables import csv_lines, read_reports, write_lines


def test_what_is_written_is_read_again(tmp_path):
    rows = [("a", 'The "heart",\nis large.'), ("b", ""), ("", "No name.")]
    path = tmp_path / "reports.csv"
    write_lines(path, csv_lines([("id", "report"), *rows]))
    assert list(read_reports(path)) == rows
    path.write_text("\ufeffother,report,id\r\n1,\"x y\",a\r\n\r\n2,it is 5\" wide,b\r\n", encoding="utf-8")
    assert list(read_reports(path)) == [("a", "x y"), ("b", 'it is 5" wide')]


@pytest.mark.parametrize("rows, message", [
    ("a,The heart, is large.\n", "line 2 has too many cells"),
    ("a,x\nb\n", "line 3 has too few cells"),
    ('a,x\nb,"The heart is large.\nc,y\n', "line 4 is not CSV"),
    ('a,"x"y\n', "line 2 is not CSV"),
])
def test_rows_that_would_lose_text_are_refused_in_one_line(tmp_path, rows, message):
    path = tmp_path / "reports.csv"
    path.write_text(f"id,report\n{rows}")
    with pytest.raises(UserError) as raised:
        list(read_reports(path))
    assert f"{path} {message}" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("cell", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", " =1", "\uff1d1", "\r=1"])
def test_formulas_are_texts_in_a_spreadsheet(cell):
    (line,) = csv_lines([(cell,)], for_spreadsheets=True)
    assert next(csv.reader(io.StringIO(line, newline=""))) == [f"'{cell}"]
    (line,) = csv_lines([(cell,)])
    assert next(csv.reader(io.StringIO(line, newline=""))) == [cell]


@pytest.mark.parametrize("cell", [-1, -0.5, "-1", "+2.5", "-1e-05", "No effusion.", "", None, "a=b", "a-b"])
def test_numbers_and_other_texts_stay_as_they_are(cell):
    assert list(csv_lines([(cell, 1)], for_spreadsheets=True)) == list(csv_lines([(cell, 1)]))
