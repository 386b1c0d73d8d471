"""Writing reports for other programs, and reading them back."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import UserError
from modules.evaluation.formats.reading import FormatOptions, read_reports
from modules.evaluation.formats.sections import join_sections
from modules.evaluation.formats.writing import FORMATS, default_output, write_reports

# CSV readers change carriage returns; lone surrogates are not text.
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30)


@given(st.dictionaries(st.text("abc0_", min_size=1), st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_reports_are_read_back_as_they_were_written(reports):
    ids, references, generated = list(reports), *([pair[i] for pair in reports.values()] for i in range(2))
    with tempfile.TemporaryDirectory() as folder:
        references_csv, generated_csv = write_reports(FORMATS[1], Path(folder) / "csv", ids, references, generated)
        read = read_reports(generated_csv, FormatOptions(references=references_csv))
        assert [(row["id"], row["reference"], row["generated"]) for row in read.rows] == [
            (name, *pair) for name, pair in reports.items()
        ]
        (rexrank,) = write_reports(FORMATS[0], Path(folder) / "a.json", ids, references, generated)
        assert [row["generated"] for row in read_reports(rexrank, FormatOptions()).rows] == generated


def test_sections_keep_their_places(tmp_path):
    reference = join_sections("Clear.", "Normal.")
    (path,) = write_reports("rexrank", tmp_path / "a.json", ["s"], [reference], ["x"])
    assert json.loads(path.read_text()) == {"s": {
        "report": reference, "section_findings": "Clear.", "section_impression": "Normal.", "model_prediction": "x",
    }}
    assert read_reports(path, FormatOptions()).rows == [{"id": "s", "reference": reference, "generated": "x"}]


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(UserError, match="takes a folder for its two files"):
        write_reports("cxr-report-metric", tmp_path / "a", ["s"], ["a"], ["b"])


def test_files_are_written_beside_the_predictions_by_default():
    path = Path("results/demo/predictions.jsonl")
    assert default_output("rexrank", path) == Path("results/demo/predictions_rexrank.json")
    assert default_output("cxr-report-metric", path) == Path("results/demo/predictions_cxr_report_metric")
