"""Scores of generated reports from a table, through `python -m modules.score`."""

import csv
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.ontology import observation_names
from modules.evaluation.metrics.text_scores import TEXT_NAMES
from tests.support.evaluation.scored_table import ROWS, score, write_table
from tests.support.evaluation.tiny_chexbert import published_weights, write_folder

pytestmark = pytest.mark.usefixtures("without_java")


def comparison_of(name):
    """What the score `name` compares with, under r2gen without training reports."""
    if name.startswith(("bleu", "meteor", "rouge", "cider")):
        return "r2gen without <unk>"
    if name.startswith("truth_"):
        return "data set's labels"
    return "nothing" if name.startswith(("generated", "distinct", "most", "repeated")) else "complete references"


def test_every_score_comes_with_an_interval_and_what_it_compares_with(tmp_path, capsys):
    results = score(write_table(tmp_path / "table.csv"), "--protocol", "r2gen")
    assert set(results["scores"]) == set(results["intervals"]) == set(TEXT_NAMES)
    assert results["reports"] == 4 and results["protocol"] == "r2gen" and results["labeler"] == "rules"
    assert "Java" in results["absent"]["meteor"] and results["scores"]["meteor"] is None
    # Of the 5 labels (effusion and cardiomegaly; no finding; edema; pneumonia), edema and cardiomegaly are missed.
    assert results["scores"]["report_14_micro_recall"] == pytest.approx(3 / 5)
    assert results["scores"]["report_14_micro_precision"] == pytest.approx(3 / 4)
    assert results["scores"]["report_14_micro_recall_certain"] == pytest.approx(2 / 4)  # pneumonia is only possible
    assert results["scores"]["distinct_reports"] == 3 / 4
    assert results["scores"]["abnormal_as_normal"] == pytest.approx(1 / 3)
    printed = capsys.readouterr().out
    for name, value in results["scores"].items():
        lines = [line for line in printed.splitlines() if line.startswith(f"  {name} ")]
        assert len(lines) == (value is not None) and all(line.endswith(f"  {comparison_of(name)}") for line in lines)
        assert results["compared_with"][name] == comparison_of(name)
    assert "rare words: left as they are" in printed and "Absent, because METEOR needs Java" in printed


def test_the_most_frequent_and_a_random_training_report_stand_beside_the_result(tmp_path, capsys):
    reports = ["The lungs are clear.", "Mild pulmonary edema.", "The lungs are clear.", "Right basilar pneumonia."]
    training = tmp_path / "training.csv"
    with training.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "report"), *enumerate(reports)])
    path = write_table(tmp_path / "table.csv")
    results = score(path, "--training-reports", training)
    assert results["scores"] == score(path)["scores"]
    frequent, random = results["baselines"]["most_frequent_report"], results["baselines"]["random_report"]
    constant = [(name, reference, "The lungs are clear.", study) for name, reference, _, study in ROWS]
    alone = score(write_table(tmp_path / "constant.csv", constant))
    assert frequent == alone["scores"]
    assert results["baseline_intervals"]["most_frequent_report"] == alone["intervals"]
    assert random != frequent and random["distinct_reports"] > 1 / 4
    assert "Java" in results["absent_baselines"]["random_report"]["meteor"]
    assert score(path, "--training-reports", training)["baselines"] == results["baselines"]
    capsys.readouterr()
    score(path, "--training-reports", training)
    printed = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["Language", "most", "frequent", "random"] for line in printed)
    (line,) = [line for line in printed if line.startswith("  bleu_1 ")]
    assert line.split()[-3:] == [f"{frequent['bleu_1']:.3f}", f"{random['bleu_1']:.3f}", "full"]
    assert score(path)["baselines"] == {}


def test_the_same_twice_and_with_any_number_of_workers(tmp_path):
    rows = [(f"{number}{row[0]}", *row[1:]) for number in range(40) for row in ROWS]
    path = write_table(tmp_path / "table.csv", rows)
    assert score(path) == score(path) == score(path, "--workers", "2")


def test_studies_of_several_images_are_scored_as_a_whole_too(tmp_path, capsys):
    path = write_table(tmp_path / "table.csv")
    results = score(path, "--studies", "study")
    by_study = results["study_level"]["scores"]
    # s1 is abnormal by both texts. Found: effusion and pneumonia; missed: cardiomegaly and edema.
    assert by_study["report_14_micro_recall"] == pytest.approx(2 / 4)
    assert results["scores"]["report_14_micro_recall"] == score(path)["scores"]["report_14_micro_recall"]
    assert "studies with all their reports" in results["applied"]["intervals"]
    assert "Observations by study" in capsys.readouterr().out


def test_the_data_sets_own_labels_are_compared_where_they_are_given(tmp_path):
    labels = tmp_path / "labels.csv"
    rows = [["id", *observation_names()]]
    for name, positive in (("a", "Pleural Effusion"), ("c", "Fracture")):
        rows.append([name, *(1.0 if observation == positive else "" for observation in observation_names())])
    with labels.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    results = score(write_table(tmp_path / "table.csv"), "--labels", labels, "--studies", "study")
    assert results["scores"]["truth_14_micro_recall"] == 1 / 2
    assert results["scores"]["truth_14_micro_precision"] == 1 / 2  # "The lungs are clear" is a wrong No Finding
    assert results["study_level"]["scores"]["truth_14_micro_recall"] == 1 / 2
    assert results["tables"]["observations against the data set"]["Fracture"]["recall"] == 0


def test_the_labels_of_a_study_are_merged_as_those_of_its_texts_are(tmp_path):
    """s1 has a finding in one image and none in the other: it is normal neither by its texts nor by its labels."""
    rows = [
        ("a", "The heart is enlarged.", "The heart is enlarged.", "s1"),
        ("b", "The lungs are clear.", "The lungs are clear.", "s1"),
        ("c", "The lungs are clear.", "The lungs are clear.", "s2"),
    ]
    positives = {"a": "Cardiomegaly", "b": "No Finding", "c": "No Finding"}
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({name: {positive: 1} for name, positive in positives.items()}))
    results = score(write_table(tmp_path / "table.csv", rows), "--labels", labels, "--studies", "study")
    for scores in (results["scores"], results["study_level"]["scores"]):
        assert scores["truth_14_micro_f1"] == scores["report_14_micro_f1"] == 1


def test_reports_without_a_reference_are_in_no_score_that_compares_with_it(tmp_path, capsys):
    path = write_table(tmp_path / "table.csv")
    whole = score(path, "--studies", "study")
    unreferenced = [("e", "", "The lungs are clear.", "s3"), ("f", " ", "Mild pulmonary edema.", "s4")]
    results = score(write_table(path, ROWS + unreferenced), "--studies", "study")
    without_comparison = (
        "distinct_reports", "most_frequent_share", "repeated_sentences", "generated_words", "reference_words",
        "empty_references",
    )
    for level in (whole["scores"], whole["study_level"]["scores"]):
        scores = results["scores"] if level is whole["scores"] else results["study_level"]["scores"]
        assert {name: value for name, value in scores.items() if not name.startswith(without_comparison)} == {
            name: value for name, value in level.items() if not name.startswith(without_comparison)
        }
    assert whole["scores"]["empty_references"] == 0 and results["scores"]["empty_references"] == 2
    assert "empty references: 2 of 6 reports" in capsys.readouterr().out

    results = score(write_table(path, unreferenced), "--studies", "study")
    for scores in (results, results["study_level"]):
        for name in ("report_14_example_f1", "report_5_micro_f1_certain"):
            assert scores["scores"][name] is None and scores["absent"][name] == "every reference is empty"
    assert {results["absent"][name] for name in ("bleu_4", "cider", "triple_f1")} == {"every reference is empty"}


def test_our_predictions_have_the_scores_of_their_evaluation(tmp_path):
    rows = [
        {"id": name, "reference": reference, "generated": generated, "scored_reference": reference[:9],
         "labels": {"Edema": 1}}
        for name, reference, generated, _ in ROWS
    ]
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "metrics.json").write_text('{"protocol": "r2gen", "list": "r2gen"}')
    results = score(path)
    assert results["applied"]["list"] == "the studies of the list r2gen"
    assert results["protocol"] == "r2gen" and results["scores"]["truth_14_micro_f1"] == 0
    assert results["scores"]["reference_words_mean"] == pytest.approx(np.mean([len(row[1].split()) for row in ROWS]))


def test_meteor_and_intervals_can_be_left_out(tmp_path):
    results = score(write_table(tmp_path / "table.csv"), "--no-meteor", "--resamples", "0")
    assert results["absent"]["meteor"] == "switched off for this evaluation" and results["intervals"] == {}
    assert results["applied"]["intervals"] == "none: --resamples 0"
    alone = score(write_table(tmp_path / "table.csv", ROWS[:1]))
    assert set(alone["intervals"].values()) == {None} and alone["applied"]["intervals"].startswith("none: there is one")


def test_chexbert_reads_the_reports_where_it_is_asked_for(tmp_path):
    pytest.importorskip("transformers", reason="CheXbert needs transformers (requirements-metrics.txt)")
    # These weights label every observation as present.
    folder = write_folder(tmp_path, published_weights([1] * 14))
    results = score(write_table(tmp_path / "table.csv"), "--labeler", "chexbert", "--weights", folder)
    assert results["labeler"] == "chexbert" and results["scores"]["report_14_micro_f1"] == 1
    assert results["tables"]["observations of the reports"]["Fracture"]["positives"] == len(ROWS)


TEXT = st.sampled_from(["", " ", ".", "No pneumothorax.", "Edema.", "<unk>", "___", "The lungs are clear.", "x " * 30])


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), protocol=st.sampled_from(["r2gen", "full"]))
def test_degenerate_reports_have_values_or_reasons(tmp_path, pairs, protocol):
    path = write_table(tmp_path / "table.csv", [(f"{number}", *pair, "s") for number, pair in enumerate(pairs)])
    results = score(path, "--protocol", protocol, "--resamples", "20")
    assert set(results["absent"]) == {name for name, value in results["scores"].items() if value is None}
    assert all(results["absent"].values()) and set(results["intervals"]) == set(TEXT_NAMES)
    for name, interval in results["intervals"].items():
        if results["scores"][name] is None or len(pairs) == 1:
            assert interval is None
    references, generated = ([pair[side].strip(" ._") for pair in pairs] for side in (0, 1))
    if not any(references):
        assert {"bleu_4", "rouge_l", "cider", "report_14_micro_f1", "triple_f1"} <= set(results["absent"])
    elif not any(generated):
        assert results["scores"]["bleu_4"] == pytest.approx(0, abs=1e-6)
