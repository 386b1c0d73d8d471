"""Agreement of our labels with those of another labeler."""

import json
from pathlib import Path

import pytest

from data import labeler
from data.errors import UserError
from data.text.label_agreement import Agreement, agreement
from data.text.label_tables import read_label_table

_REAL = Path(__file__).resolve().parents[4] / "shared" / "real" / "iu_xray"
needs_real_reports = pytest.mark.skipif(not _REAL.is_dir(), reason="needs ../shared/real/iu_xray beside the checkout")


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


@needs_real_reports
def test_agreement_with_chexbert_on_real_reports():
    table = read_label_table(_REAL / "chexbert_labels_train.json")
    studies = labeler._iu_xray_reports(_REAL / "NLMCXR_reports.tgz")
    result = agreement(((study, f"{report.findings} {report.impression}") for study, report in studies), table)
    assert result.studies == 2069 and result.micro_f1 >= 0.86 and result.macro_f1 >= 0.70
