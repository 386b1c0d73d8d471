"""Comparison of systems through `python -m modules.compare`: differences, intervals and p-values.

Expected values are computed in slow and obvious ways.
"""

import json

import numpy as np
import pytest
from pycocoevalcap.rouge.rouge import Rouge

from modules.compare import MAIN_SCORES, main
from modules.evaluation.metrics.text_scores import TEXT_NAMES
from tests.support.evaluation.compared_runs import change_rows, compare, corpus_bleu, read_rows, write_run
from tests.support.evaluation.tiny_chexbert import published_weights, write_folder

pytestmark = pytest.mark.usefixtures("without_java")


def test_a_better_system_is_better_beyond_chance(tmp_path, capsys):
    good, bad = write_run(tmp_path / "good", 0.9, 1), write_run(tmp_path / "bad", 0.2, 2)
    rows = compare(tmp_path, bad, good)
    assert {score for score, _ in rows} == set(MAIN_SCORES) - {"meteor"}
    row = rows["bleu_4", "good"]
    assert float(row["value"]) == pytest.approx(corpus_bleu(good), abs=1e-6)
    assert float(rows["bleu_4", "bad"]["value"]) == pytest.approx(corpus_bleu(bad), abs=1e-6)
    assert rows["bleu_4", "bad"]["difference"] == rows["bleu_4", "bad"]["p"] == ""
    assert float(row["difference"]) == pytest.approx(corpus_bleu(good) - corpus_bleu(bad), abs=2e-6)
    assert 0 < float(row["low"]) < float(row["difference"]) < float(row["high"])
    assert float(row["p"]) == pytest.approx(1 / 201, abs=1e-6)
    printed = capsys.readouterr().out
    assert f"good: {good / 'predictions.jsonl'} (graph predicted, seed 1)" in printed
    assert "tiny, split test, 24 reports; protocol r2gen" in printed and "differences to bad" in printed
    assert "CIDEr's document frequencies: of the 24 references" in printed and "cleaning: none" in printed
    assert rows["bleu_4", "good"]["compared_with"] == "r2gen"
    assert rows["triple_f1", "good"]["compared_with"] == "complete references"
    assert "meteor is absent: METEOR needs Java" in printed


def test_the_list_of_the_studies_is_named(tmp_path, capsys):
    one, other = (
        write_run(tmp_path / name, 0.5, seed, evaluation={"list": "r2gen"}) for seed, name in enumerate(("a", "b"))
    )
    compare(tmp_path, one, other, resamples=5)
    assert "tiny (list r2gen), split test, 24 reports" in capsys.readouterr().out


def test_a_system_does_not_differ_from_itself(tmp_path):
    one = write_run(tmp_path / "one", 0.5)
    rows = compare(tmp_path, one, write_run(tmp_path / "same", 0.5), "--scores", "all")
    assert {score for score, _ in rows} <= set(TEXT_NAMES)
    for (_, system), row in rows.items():
        if system == "same":
            assert [float(row[column]) for column in ("difference", "low", "high", "p")] == [0, 0, 0, 1]


def test_p_values_of_equal_systems_are_spread_over_0_to_1(tmp_path):
    values = []
    for seed in range(12):
        first = write_run(tmp_path / f"a{seed}", 0.5, 2 * seed + 10)
        other = write_run(tmp_path / f"b{seed}", 0.5, 2 * seed + 11)
        rows = compare(tmp_path, first, other, "--scores", "rouge_l", resamples=100)
        values.append(float(rows["rouge_l", f"b{seed}"]["p"]))
    assert 0.25 < np.mean(values) < 0.75


def test_the_p_value_of_a_mean_is_that_of_all_exchanges(tmp_path):
    """Three studies have eight possible exchanges."""
    first, other = write_run(tmp_path / "a", 0.3, 3, studies=3), write_run(tmp_path / "b", 0.9, 4, studies=3)
    row = compare(tmp_path, first, other, "--scores", "rouge_l", resamples=4000)["rouge_l", "b"]
    values = []
    for folder in (first, other):
        values.append([
            Rouge().calc_score([row["generated"]], [row["scored_reference"]]) for row in read_rows(folder)
        ])
    gains = np.array(values[1]) - np.array(values[0])
    signs = np.array(np.meshgrid([1, -1], [1, -1], [1, -1])).reshape(3, -1)
    expected = (np.abs(gains @ signs) >= abs(gains.sum()) - 1e-12).mean()
    assert float(row["p"]) == pytest.approx(expected, abs=0.03)


def test_seeds_of_a_system_are_averaged(tmp_path, capsys):
    groups = {name: [write_run(tmp_path / f"{name}{seed}", accuracy, 7 * seed + len(name)) for seed in range(3)]
              for name, accuracy in (("plain", 0.3), ("graph", 0.8))}
    arguments = [f"--group={name}={','.join(map(str, runs))}" for name, runs in groups.items()]
    rows = compare(tmp_path, *arguments, "--scores", "bleu_4")
    for name, runs in groups.items():
        values = [corpus_bleu(folder) for folder in runs]
        assert float(rows["bleu_4", name]["value"]) == pytest.approx(np.mean(values), abs=1e-6)
        assert float(rows["bleu_4", name]["deviation"]) == pytest.approx(np.std(values, ddof=1), abs=1e-6)
        assert rows["bleu_4", name]["runs"] == "3"
    assert float(rows["bleu_4", "graph"]["p"]) < 0.05 and float(rows["bleu_4", "graph"]["low"]) > 0
    rows = compare(tmp_path, groups["plain"][0], arguments[1], "--scores", "bleu_4")
    assert rows["bleu_4", "graph"]["p"] == "" and float(rows["bleu_4", "graph"]["low"]) > 0
    assert "graph has no p-values: its runs (3) and those of plain0 (1)" in capsys.readouterr().out


def test_the_order_of_the_reports_does_not_matter(tmp_path):
    one, other = write_run(tmp_path / "one", 0.5, 1), write_run(tmp_path / "other", 0.6, 2)
    before = compare(tmp_path, one, other)
    lines = (other / "predictions.jsonl").read_text().splitlines(keepends=True)
    (other / "predictions.jsonl").write_text("".join(lines[::-1]))
    assert compare(tmp_path, one, other) == before


def test_truths_must_be_the_same(tmp_path, capsys):
    one, other = write_run(tmp_path / "one", 0.5, 1), write_run(tmp_path / "other", 0.6, 2)
    contrary = change_rows(write_run(tmp_path / "contrary", 0.6, 2), labels={"Edema": 0, "Fracture": 1})
    assert main([str(one), str(contrary)]) == 1
    assert "has other labels of the data set for s0" in capsys.readouterr().err
    rows = compare(tmp_path, one, change_rows(other, labels=None))
    assert ("truth_14_micro_f1", "one") not in rows
    assert f"{other / 'predictions.jsonl'} has no labels of the data set, which other runs" in capsys.readouterr().out


def test_labels_from_a_table_are_of_all_runs(tmp_path):
    one, other = (change_rows(write_run(tmp_path / name, 0.5, seed), labels=None) for seed, name in enumerate("ab"))
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({f"s{number}": {"Edema": 1} for number in range(24)}))
    row = compare(tmp_path, one, other, "--labels", labels)["truth_14_micro_f1", "b"]
    assert row["compared_with"] == "data set's labels" and row["p"]


def test_the_images_of_a_study_are_drawn_and_exchanged_together(tmp_path, capsys):
    one, other = write_run(tmp_path / "one", 0.3, 1, studies=6), write_run(tmp_path / "other", 0.9, 2, studies=6)
    for folder in (one, other):
        rows = [row | {"study": int(row["id"] > "s2")} for row in read_rows(folder)]
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = (one, other, "--scores", "rouge_l")
    alone = compare(tmp_path, *arguments, resamples=2000)["rouge_l", "other"]
    together = compare(tmp_path, *arguments, "--studies", "study", resamples=2000)["rouge_l", "other"]
    assert together["difference"] == alone["difference"] and float(alone["p"]) < 0.2
    assert float(together["p"]) >= 0.45  # two studies: exchanging both or neither gives as large a difference
    assert main([str(one), str(change_rows(other, study=3)), "--studies", "study"]) == 1
    assert "has another study for s3 than" in capsys.readouterr().err
    rows = compare(tmp_path, change_rows(one, study=3), other, "--scores", "rouge_l", "--studies", "study")
    row = rows["rouge_l", "other"]
    assert row["low"] == row["high"] == ""  # a single study has no interval


def test_chexbert_reads_the_reports_where_it_is_asked_for(tmp_path, capsys):
    pytest.importorskip("transformers", reason="CheXbert needs transformers (requirements-metrics.txt)")
    one, other = write_run(tmp_path / "one", 0.2, 1), write_run(tmp_path / "other", 0.9, 2)
    weights = write_folder(tmp_path, published_weights([1] * 14))
    options = ("--labeler", "chexbert", "--weights", weights, "--scores", "report_14_micro_f1")
    rows = compare(tmp_path, one, other, *options)
    assert [float(row["value"]) for row in rows.values()] == [1, 1]  # these weights label every observation as present
    assert "observations by chexbert" in capsys.readouterr().out


def test_training_reports_give_rare_words_and_document_frequencies(tmp_path, capsys):
    one, other = write_run(tmp_path / "one", 0.2, 1), write_run(tmp_path / "other", 0.9, 2)
    training = tmp_path / "training.csv"
    training.write_text("id,report\n1,the lungs are clear .\n2,the lungs are clear . no pneumothorax .\n")
    arguments = ("--scores", "bleu_1", "cider", "--protocol", "r2gen")
    plain = compare(tmp_path, one, other, *arguments)
    trained = compare(
        tmp_path, one, other, *arguments, "--training-reports", training, "--min-count", "2",
        "--document-frequencies", "training",
    )
    assert plain["bleu_1", "other"]["compared_with"] == "r2gen without <unk>"
    assert trained["bleu_1", "other"]["compared_with"] == "r2gen"
    assert float(trained["bleu_1", "other"]["value"]) < float(plain["bleu_1", "other"]["value"])
    assert "CIDEr's document frequencies: of the 2 training reports" in capsys.readouterr().out


def test_runs_that_cannot_be_compared_are_refused_in_one_line(tmp_path, capsys):
    one = write_run(tmp_path / "one", 0.5, evaluation={"list": "r2gen"})
    cases = {
        "split": write_run(tmp_path / "split", 0.5, evaluation={"split": "val"}),
        "has the list frontal, ": write_run(tmp_path / "list", 0.5, evaluation={"list": "frontal"}),
        "protocol": write_run(tmp_path / "protocol", 0.5, evaluation={"protocol": "full"}),
        "not about the same studies": write_run(tmp_path / "fewer", 0.5, studies=20),
        "compares other references": write_run(tmp_path / "cut", 0.5, more=" more"),
        "Cannot read": tmp_path / "nowhere",
    }
    other = write_run(tmp_path / "reference", 0.5)
    text = (other / "predictions.jsonl").read_text()
    (other / "predictions.jsonl").write_text(text.replace('"reference": "', '"reference": "another ', 1))
    cases["another reference for s0"] = other
    for message, folder in cases.items():
        assert main([str(one), str(folder)]) == 1
        captured = capsys.readouterr()
        assert message in captured.err and len(captured.err.splitlines()) == 1 and not captured.out
    for message in ("compares other references", "protocol"):
        assert main([str(one), str(cases[message]), "--protocol", "full", "--resamples", "5"]) == 0
