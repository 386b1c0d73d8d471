"""Comparing systems: paired differences, their intervals and p-values, against slow and obvious ways."""

import csv
import json

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu

from modules.compare import MAIN_SCORES, main
from modules.evaluation.metrics.text_scores import TEXT_NAMES
from tests.support.tiny_chexbert import published_weights, write_folder

FINDINGS = ("the heart is enlarged .", "there is pulmonary edema .", "there is a left pleural effusion .",
            "the lungs are clear .", "no pneumothorax .")


@pytest.fixture(autouse=True)
def without_java(monkeypatch, tmp_path):
    """No Java: these tests have no need to wait for METEOR."""
    monkeypatch.setenv("PATH", str(tmp_path))


def write_run(folder, right, seed=0, studies=24, **changes):
    """A run folder whose reports are the references with the probability `right`, sentence by sentence."""
    references = np.random.default_rng(99)
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    with (folder / "predictions.jsonl").open("w") as file:
        for number in range(studies):
            told = list(references.choice(FINDINGS, size=3, replace=False))
            written = [text if generator.random() < right else FINDINGS[generator.integers(5)] for text in told]
            reference = " ".join(told)
            file.write(json.dumps({
                "id": f"s{number}", "reference": reference, "scored_reference": reference + changes.get("more", ""),
                "generated": " ".join(written), "labels": {"Edema": int("edema" in reference)},
            }) + "\n")
    evaluation = {"dataset": "tiny", "split": "test", "protocol": "r2gen", "seed": seed, "graph_source": "predicted"}
    evaluation |= changes.get("evaluation", {})
    (folder / "metrics.json").write_text(json.dumps(evaluation))
    return folder


def run(folder, *arguments, resamples=200):
    """The rows of the CSV table: (score, system) -> column -> text."""
    table = folder / "table.csv"
    assert main([*map(str, arguments), "--csv", str(table), "--resamples", str(resamples), "--workers", "1"]) == 0
    with table.open() as file:
        return {(row["score"], row["system"]): row for row in csv.DictReader(file)}


def corpus_bleu(folder):
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return Bleu(4).compute_score(
        {row["id"]: [row["scored_reference"]] for row in rows}, {row["id"]: [row["generated"]] for row in rows},
        verbose=0,
    )[0][3]


def test_a_better_system_is_better_beyond_chance(tmp_path, capsys):
    good, bad = write_run(tmp_path / "good", 0.9, 1), write_run(tmp_path / "bad", 0.2, 2)
    rows = run(tmp_path, bad, good)
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


def test_a_system_does_not_differ_from_itself(tmp_path):
    one = write_run(tmp_path / "one", 0.5)
    rows = run(tmp_path, one, write_run(tmp_path / "same", 0.5), "--scores", "all")
    assert {score for score, _ in rows} <= set(TEXT_NAMES)
    for (_, system), row in rows.items():
        if system == "same":
            assert [float(row[column]) for column in ("difference", "low", "high", "p")] == [0, 0, 0, 1]


def test_p_values_of_equal_systems_are_spread_over_0_to_1(tmp_path):
    values = []
    for seed in range(12):
        first = write_run(tmp_path / f"a{seed}", 0.5, 2 * seed + 10)
        other = write_run(tmp_path / f"b{seed}", 0.5, 2 * seed + 11)
        rows = run(tmp_path, first, other, "--scores", "rouge_l", resamples=100)
        values.append(float(rows["rouge_l", f"b{seed}"]["p"]))
    assert 0.25 < np.mean(values) < 0.75


def test_the_p_value_of_a_mean_is_that_of_all_exchanges(tmp_path):
    """With three studies there are eight exchanges."""
    first, other = write_run(tmp_path / "a", 0.3, 3, studies=3), write_run(tmp_path / "b", 0.9, 4, studies=3)
    row = run(tmp_path, first, other, "--scores", "rouge_l", resamples=4000)["rouge_l", "b"]
    from pycocoevalcap.rouge.rouge import Rouge

    values = []
    for folder in (first, other):
        lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        values.append([Rouge().calc_score([line["generated"]], [line["scored_reference"]]) for line in lines])
    gains = np.array(values[1]) - np.array(values[0])
    signs = np.array(np.meshgrid([1, -1], [1, -1], [1, -1])).reshape(3, -1)
    expected = (np.abs(gains @ signs) >= abs(gains.sum()) - 1e-12).mean()
    assert float(row["p"]) == pytest.approx(expected, abs=0.03)


def test_seeds_of_a_system_are_averaged(tmp_path, capsys):
    groups = {name: [write_run(tmp_path / f"{name}{seed}", right, 7 * seed + len(name)) for seed in range(3)]
              for name, right in (("plain", 0.3), ("graph", 0.8))}
    arguments = [f"--group={name}={','.join(map(str, runs))}" for name, runs in groups.items()]
    rows = run(tmp_path, *arguments, "--scores", "bleu_4")
    for name, runs in groups.items():
        values = [corpus_bleu(folder) for folder in runs]
        assert float(rows["bleu_4", name]["value"]) == pytest.approx(np.mean(values), abs=1e-6)
        assert float(rows["bleu_4", name]["deviation"]) == pytest.approx(np.std(values, ddof=1), abs=1e-6)
        assert rows["bleu_4", name]["runs"] == "3"
    assert float(rows["bleu_4", "graph"]["p"]) < 0.05 and float(rows["bleu_4", "graph"]["low"]) > 0
    rows = run(tmp_path, groups["plain"][0], arguments[1], "--scores", "bleu_4")
    assert rows["bleu_4", "graph"]["p"] == "" and float(rows["bleu_4", "graph"]["low"]) > 0
    assert "graph has no p-values: its runs (3) and those of plain0 (1)" in capsys.readouterr().out


def test_the_order_of_the_reports_does_not_matter(tmp_path):
    one, other = write_run(tmp_path / "one", 0.5, 1), write_run(tmp_path / "other", 0.6, 2)
    before = run(tmp_path, one, other)
    lines = (other / "predictions.jsonl").read_text().splitlines(keepends=True)
    (other / "predictions.jsonl").write_text("".join(lines[::-1]))
    assert run(tmp_path, one, other) == before


def changed(folder, **changes):
    """`folder` with other values in all its predictions; None takes a key away."""
    path = folder / "predictions.jsonl"
    rows = [json.loads(line) | changes for line in path.read_text().splitlines()]
    kept = [{key: value for key, value in row.items() if value is not None} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    return folder


def test_truths_must_be_the_same(tmp_path, capsys):
    one, other = write_run(tmp_path / "one", 0.5, 1), write_run(tmp_path / "other", 0.6, 2)
    contrary = changed(write_run(tmp_path / "contrary", 0.6, 2), labels={"Edema": 0, "Fracture": 1})
    assert main([str(one), str(contrary)]) == 1
    assert "has other labels of the data set for s0" in capsys.readouterr().err
    rows = run(tmp_path, one, changed(other, labels=None))
    assert ("truth_14_micro_f1", "one") not in rows
    assert f"{other / 'predictions.jsonl'} has no labels of the data set, which other runs" in capsys.readouterr().out


def test_labels_from_a_table_are_of_all_runs(tmp_path):
    one, other = (changed(write_run(tmp_path / name, 0.5, seed), labels=None) for seed, name in enumerate("ab"))
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({f"s{number}": {"Edema": 1} for number in range(24)}))
    row = run(tmp_path, one, other, "--labels", labels)["truth_14_micro_f1", "b"]
    assert row["compared_with"] == "data set's labels" and row["p"]


def test_the_images_of_a_study_are_drawn_and_exchanged_together(tmp_path, capsys):
    one, other = write_run(tmp_path / "one", 0.3, 1, studies=6), write_run(tmp_path / "other", 0.9, 2, studies=6)
    for folder in (one, other):
        path = folder / "predictions.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row | {"study": int(row["id"] > "s2")}) + "\n" for row in rows))
    asked = (one, other, "--scores", "rouge_l")
    alone = run(tmp_path, *asked, resamples=2000)["rouge_l", "other"]
    together = run(tmp_path, *asked, "--studies", "study", resamples=2000)["rouge_l", "other"]
    assert together["difference"] == alone["difference"] and float(alone["p"]) < 0.2
    assert float(together["p"]) >= 0.45  # two studies: exchanging both or none is as large
    assert main([str(one), str(changed(other, study=3)), "--studies", "study"]) == 1
    assert "has another study for s3 than" in capsys.readouterr().err
    row = run(tmp_path, changed(one, study=3), other, "--scores", "rouge_l", "--studies", "study")["rouge_l", "other"]
    assert row["low"] == row["high"] == ""  # of a single study


def test_chexbert_reads_the_reports_where_it_is_asked_for(tmp_path, capsys):
    pytest.importorskip("transformers", reason="CheXbert needs transformers (requirements-metrics.txt)")
    one, other = write_run(tmp_path / "one", 0.2, 1), write_run(tmp_path / "other", 0.9, 2)
    weights = write_folder(tmp_path, published_weights([1] * 14))
    rows = run(tmp_path, one, other, "--labeler", "chexbert", "--weights", weights, "--scores", "report_14_micro_f1")
    assert [float(row["value"]) for row in rows.values()] == [1, 1]  # this one calls everything present
    assert "observations by chexbert" in capsys.readouterr().out


def test_training_reports_give_rare_words_and_document_frequencies(tmp_path, capsys):
    one, other = write_run(tmp_path / "one", 0.2, 1), write_run(tmp_path / "other", 0.9, 2)
    training = tmp_path / "training.csv"
    training.write_text("id,report\n1,the lungs are clear .\n2,the lungs are clear . no pneumothorax .\n")
    asked = ("--scores", "bleu_1", "cider", "--protocol", "r2gen")
    plain = run(tmp_path, one, other, *asked)
    trained = run(
        tmp_path, one, other, *asked, "--training-reports", training, "--min-count", "2",
        "--document-frequencies", "training",
    )
    assert plain["bleu_1", "other"]["compared_with"] == "r2gen without <unk>"
    assert trained["bleu_1", "other"]["compared_with"] == "r2gen"
    assert float(trained["bleu_1", "other"]["value"]) < float(plain["bleu_1", "other"]["value"])
    assert "CIDEr's document frequencies: of the 2 training reports" in capsys.readouterr().out


def test_latex_is_a_table(tmp_path):
    one, other = write_run(tmp_path / "one", 0.5, 1), write_run(tmp_path / "o_t^h~e{r}\\", 0.6, 2)
    run(tmp_path, one, other, "--latex", tmp_path / "table.tex", "--scores", "bleu_4")
    lines = (tmp_path / "table.tex").read_text().splitlines()
    assert lines[0].startswith("% tiny") and lines[-1] == r"\end{tabular}"
    assert [line for line in lines if not line.startswith("%")][0] == r"\begin{tabular}{llrrrr}"
    rows = [line for line in lines if line.startswith(r"bleu\_4")]
    assert len(rows) == 2 and all(row.count("&") == 5 and row.endswith(r"\\") for row in rows)
    assert r"o\_t\textasciicircum{}h\textasciitilde{}e\{r\}\textbackslash{} &" in rows[1]


def test_runs_that_cannot_be_compared_are_refused_in_one_line(tmp_path, capsys):
    one = write_run(tmp_path / "one", 0.5)
    cases = {
        "split": write_run(tmp_path / "split", 0.5, evaluation={"split": "val"}),
        "protocol": write_run(tmp_path / "protocol", 0.5, evaluation={"protocol": "full"}),
        "not about the same studies": write_run(tmp_path / "fewer", 0.5, studies=20),
        "compares other references": write_run(tmp_path / "cut", 0.5, more=" more"),
        "Cannot read": tmp_path / "nowhere",
    }
    other = write_run(tmp_path / "reference", 0.5)
    text = (other / "predictions.jsonl").read_text()
    (other / "predictions.jsonl").write_text(text.replace('"reference": "', '"reference": "another ', 1))
    cases["another reference for s0"] = other
    for said, folder in cases.items():
        assert main([str(one), str(folder)]) == 1
        captured = capsys.readouterr()
        assert said in captured.err and len(captured.err.splitlines()) == 1 and not captured.out
    for said in ("compares other references", "protocol"):
        assert main([str(one), str(cases[said]), "--protocol", "full", "--resamples", "5"]) == 0


@pytest.mark.parametrize("arguments, said", [
    ([], "takes two systems"), (["--group", "x"], "NAME=RUN"), (["{one}", "{one}"], "one name"),
    (["{one}", "{other}", "--scores", "blue"], "no score 'blue'"),
    (["{one}", "{other}", "--scores", "region_micro_f1"], "which texts do not tell: see metrics.json"),
    (["{one}", "--group", "seeds={other},{other}/predictions.jsonl"], "has a run twice"),
    (["{one}", "{other}", "--resamples", "0"], "--resamples"),
])
def test_what_a_user_can_mend_is_one_line(tmp_path, capsys, arguments, said):
    folders = {name: write_run(tmp_path / name, 0.5) for name in ("one", "other")}
    assert main([argument.format(**folders) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert said in captured.err and len(captured.err.splitlines()) == 1
