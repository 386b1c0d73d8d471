"""The 14 observations of reports: values, conventions, commands, and agreement with a trained labeler."""

import csv
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import labeler
from data.errors import UserError
from data.label_tables import read_label_table
from data.labeler import Agreement, agreement, label_report
from data.report_tables import read_reports
from data.vocabulary import OBSERVATIONS

_FILES = Path(__file__).resolve().parents[2] / "files"
_REAL = Path(__file__).resolve().parents[3] / "shared" / "real" / "iu_xray"
needs_real_reports = pytest.mark.skipif(not _REAL.is_dir(), reason="needs ../shared/real/iu_xray beside the checkout")


def positives(text):
    """The observations that are present or uncertain."""
    return {name for name, value in label_report(text).items() if value}


@pytest.mark.parametrize(
    ("text", "observation"),
    [
        ("Left basilar atelectasis.", "Atelectasis"),
        ("The heart is mildly enlarged.", "Cardiomegaly"),
        ("Right upper lobe consolidation.", "Consolidation"),
        ("Pulmonary vascular congestion.", "Edema"),
        ("Interstitial edema.", "Edema"),
        ("Widening of the mediastinum.", "Enlarged Cardiomediastinum"),
        ("Displaced left rib fracture.", "Fracture"),
        ("A 9 mm nodule in the lingula.", "Lung Lesion"),
        ("Hazy opacity at the left base.", "Lung Opacity"),
        ("New infiltrate.", "Lung Opacity"),
        ("Lungs are clear.", "No Finding"),
        ("Small bilateral effusions.", "Pleural Effusion"),
        ("Pleural thickening along the lateral chest wall.", "Pleural Other"),
        ("Findings suggest pneumonia.", "Pneumonia"),
        ("Right apical pneumothorax.", "Pneumothorax"),
    ],
)
def test_each_observation(text, observation):
    assert positives(text) == {observation}


def test_devices_leave_no_finding():
    assert positives("Right PICC ends in the SVC. Lungs are clear.") == {"Support Devices", "No Finding"}


def test_values():
    labels = label_report("Possible pneumonia. No effusion. Stable cardiomegaly.")
    assert labels == {"Cardiomegaly": 1, "Pleural Effusion": 0, "Pneumonia": -1}
    assert list(labels) == sorted(labels)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Left effusion. No right effusion.", 1),
        ("Possible effusion. No effusion.", -1),
        ("Effusion. Possible effusion.", 1),
        ("No effusion. No effusion.", 0),
    ],
)
def test_several_mentions(text, value):
    assert label_report(text)["Pleural Effusion"] == value


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("Normal chest.", True),
        ("No acute disease.", True),
        ("Degenerative changes of the spine.", True),
        ("Calcified granuloma in the left lung.", True),
        ("Low lung volumes.", True),
        ("Old rib fractures.", True),
        ("Possible effusion.", False),
        ("Emphysema.", False),
        ("Hiatal hernia.", False),
        ("Hyperinflated lungs.", False),
        ("", False),
        ("...", False),
        ("12 34", False),
    ],
)
def test_no_finding(text, holds):
    assert ("No Finding" in label_report(text)) is holds


def test_old_fractures_are_not_counted():
    assert "Fracture" not in positives("Healed left rib fractures.") and "Fracture" in positives("Left rib fractures.")


def test_a_text_without_words_mentions_nothing():
    assert label_report("") == label_report(" . ") == {}


def test_raw_and_cleaned_reports_have_the_same_labels():
    raw = "1. No pneumothorax or effusion. 2. Mild cardiomegaly, left atelectasis.\nDr. XXXX: pneumonia is unlikely."
    cleaned = "no pneumothorax or effusion . mild cardiomegaly left atelectasis . dr xxxx pneumonia is unlikely ."
    assert label_report(raw) == label_report(cleaned)


@given(st.text(max_size=400))
def test_any_text_gets_labels(text):
    labels = label_report(text)
    assert set(labels) <= set(OBSERVATIONS) and set(labels.values()) <= {0, 1, -1}
    assert labels.get("No Finding", 1) == 1


# Agreement


def test_agreement_counts_uncertain_as_positive():
    result = Agreement()
    result.add({"Edema": -1, "Pneumonia": 1}, {"Edema": 1, "Pneumonia": 0})
    result.add({"Edema": 0}, {"Edema": -1})
    assert result.counts["Edema"] == [1, 0, 1] and result.counts["Pneumonia"] == [0, 1, 0] and result.studies == 2
    assert result.micro_f1 == pytest.approx(2 / (2 + 1 + 1)) and result.macro_f1 is None


def test_the_macro_average_is_of_frequent_observations():
    result = Agreement()
    for number in range(20):
        result.add({"Edema": 1, "Fracture": 1}, {"Edema": 1, "Fracture": int(number < 10)})
    assert result.macro_f1 == 1.0


def test_agreement_needs_the_same_ids(tmp_path):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"99000001": {"Edema": 1}}), encoding="utf-8")
    table = read_label_table(labels)
    assert agreement([("99000001", "Edema."), ("99000002", "Clear.")], table).studies == 1
    with pytest.raises(UserError, match="same ids"):
        agreement([("99000002", "Edema.")], table)


# Commands


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
    assert header == ["id", *OBSERVATIONS] and first[0] == "99000001" and second == ['9,"9'] + [""] * 14
    assert read_label_table(out).find("99000001", "") == {"Edema": 1, "Pleural Effusion": 0}


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
        (["--iu-xray", "gone.tgz", "out.csv"], "Cannot read gone.tgz"),
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
    assert list(rows[0]) == ["id", *OBSERVATIONS] and len(rows) == 2955


@needs_real_reports
def test_the_shipped_labels_are_what_the_command_makes(tmp_path):
    out = tmp_path / "labels.csv"
    assert labeler.main(["--iu-xray", str(_REAL / "NLMCXR_reports.tgz"), str(out)]) == 0
    assert out.read_bytes() == (_FILES / "iu_xray" / "labels.csv").read_bytes()


@needs_real_reports
def test_agreement_with_chexbert_on_real_reports():
    table = read_label_table(_REAL / "chexbert_labels_train.json")
    studies = labeler._iu_xray_reports(_REAL / "NLMCXR_reports.tgz")
    result = agreement(((study, f"{report.findings} {report.impression}") for study, report in studies), table)
    assert result.studies == 2069 and result.micro_f1 >= 0.86 and result.macro_f1 >= 0.70


def test_reports_longer_than_a_csv_field_usually_is(tmp_path):
    table = write_reports(tmp_path / "reports.csv", [("1", "No edema. " * 20_000)])
    assert len(next(iter(read_reports(table)))[1]) == 200_000
