"""Agreement between our labels and those of another labeler."""

import json
from pathlib import Path

import pytest

from data import labeler
from data.errors import UserError
from data.text.label_agreement import Agreement, measure_agreement
from data.text.label_tables import read_label_table

_REAL = Path(__file__).resolve().parents[4] / "shared" / "real" / "iu_xray"
needs_real_reports = pytest.mark.skipif(not _REAL.is_dir(), reason="needs ../shared/real/iu_xray beside the checkout")


def test_agreement_counts_uncertain_as_positive():
    agreement = Agreement()
    agreement.add({"Edema": -1, "Pneumonia": 1}, {"Edema": 1, "Pneumonia": 0})
    agreement.add({"Edema": 0}, {"Edema": -1})
    assert agreement.counts["Edema"] == [1, 0, 1] and agreement.counts["Pneumonia"] == [0, 1, 0]
    assert agreement.studies == 2
    assert agreement.micro_f1 == pytest.approx(2 / (2 + 1 + 1)) and agreement.macro_f1 is None


def test_the_macro_average_is_of_frequent_observations():
    agreement = Agreement()
    for number in range(20):
        agreement.add({"Edema": 1, "Fracture": 1}, {"Edema": 1, "Fracture": int(number < 10)})
    assert agreement.macro_f1 == 1.0


def test_agreement_needs_the_same_ids(tmp_path):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"99000001": {"Edema": 1}}), encoding="utf-8")
    table = read_label_table(labels)
    assert measure_agreement([("99000001", "Edema."), ("99000002", "Clear.")], table).studies == 1
    with pytest.raises(UserError, match="same ids"):
        measure_agreement([("99000002", "Edema.")], table)


@needs_real_reports
def test_agreement_with_chexbert_on_real_reports():
    table = read_label_table(_REAL / "chexbert_labels_train.json")
    studies = labeler._iu_xray_reports(_REAL / "NLMCXR_reports.tgz")
    reports = ((study_id, f"{report.findings} {report.impression}") for study_id, report in studies)
    agreement = measure_agreement(reports, table)
    assert agreement.studies == 2069 and agreement.micro_f1 >= 0.86 and agreement.macro_f1 >= 0.70
