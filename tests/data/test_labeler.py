"""The command that labels reports, and the shipped labels of IU X-Ray."""

import csv
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from data import labeler
from data.ontology import observation_names
from data.text.label_tables import read_label_table
from data.text.report_tables import read_reports

_FILES = Path(__file__).resolve().parents[2] / "files"
_REAL = Path(__file__).resolve().parents[3] / "shared" / "real" / "iu_xray"
needs_real_reports = pytest.mark.skipif(not _REAL.is_dir(), reason="needs ../shared/real/iu_xray beside the checkout")


def write_reports(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "report"), *rows])
    return path


def test_the_command_writes_what_other_readers_read(tmp_path):
    table = write_reports(tmp_path / "reports.csv", [("99000001", "Mild edema, no effusion."), ('9,"9', "")])
    out = tmp_path / "labels.csv"
    assert labeler.main([str(table), str(out)]) == 0
    with out.open(encoding="utf-8", newline="") as file:
        header, first, second = csv.reader(file)
    assert header == ["id", *observation_names()] and first[0] == "99000001" and second == ['9,"9'] + [""] * 14
    assert read_label_table(out).find("99000001", "") == {"Edema": 1, "Pleural Effusion": 0}


def test_reading_reports_imports_no_library_of_tensors():
    # Importing torch would take longer than reading a thousand reports.
    program = "import sys, data.labeler, data.text_graph; sys.exit(not {'torch', 'numpy'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], cwd=_FILES.parent).returncode == 0


def test_the_command_prints_the_agreement(tmp_path, capsys):
    table = write_reports(tmp_path / "reports.csv", [("99000001", "Mild edema."), ("99000002", "No edema.")])
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"99000001": {"Edema": 1}, "99000002": {"No Finding": 1}}), encoding="utf-8")
    assert labeler.main(["--score", str(table), str(labels)]) == 0
    out = capsys.readouterr().out
    assert "2 studies, uncertain as positive" in out and "micro-F1 1.000, macro-F1 -" in out
    assert "edema." not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.csv", "out.csv"], "Cannot read gone.csv"),
        (["--iu-xray", "gone.tgz", "out.csv"], "No archive of reports at gone.tgz"),
        (["--score", "gone.csv", "gone.json"], "gone.json"),
    ],
)
def test_missing_files_are_named(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert labeler.main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_an_archive_without_all_reports(tmp_path, capsys):
    with tarfile.open(tmp_path / "reports.tgz", "w:gz"):
        pass
    assert labeler.main(["--iu-xray", str(tmp_path / "reports.tgz"), str(tmp_path / "out.csv")]) == 1
    assert "lacks the report of study CXR1_1_IM-0001" in capsys.readouterr().err


# Real reports


def test_the_shipped_labels_are_of_the_shipped_studies():
    with (_FILES / "iu_xray" / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (_FILES / "iu_xray" / "splits.csv").open(encoding="utf-8", newline="") as file:
        assert [row["id"] for row in rows] == [row["id"] for row in csv.DictReader(file)]
    assert list(rows[0]) == ["id", *observation_names()] and len(rows) == 2955


@needs_real_reports
def test_the_shipped_labels_are_what_the_command_makes(tmp_path):
    out = tmp_path / "labels.csv"
    assert labeler.main(["--iu-xray", str(_REAL / "NLMCXR_reports.tgz"), str(out)]) == 0
    assert out.read_bytes() == (_FILES / "iu_xray" / "labels.csv").read_bytes()


def test_reports_longer_than_a_csv_field_usually_is(tmp_path):
    table = write_reports(tmp_path / "reports.csv", [("1", "No edema. " * 20_000)])
    assert len(next(iter(read_reports(table)))[1]) == 200_000
