"""The package RadEval itself, with tiny weights in the files that it loads.

The weights are written, and the package is called directly, by `tests/support/evaluation/tiny_radeval.py`.
"""

import json
import os
import subprocess

import pytest

from modules.score import main
from tests.support.evaluation import tiny_radeval
from tests.support.evaluation.metrics_python import find_metrics_python
from tests.support.evaluation.scored_table import write_table

# The reports as they are written: the package reads them so, and not as our scores clean them.
ROWS = [
    ("a", "The heart is normal in size.\nThe lungs are clear.", "The heart is normal. No pneumonia.", "s1"),
    ("b", "There is a small left pleural effusion.", "There is a right pleural effusion.", "s1"),
    ("c", "", "The lungs are clear.", "s2"),
    ("d", "No pneumothorax. Mild edema.", "No pneumothorax.", "s3"),
    ("e", "The heart is large.", "The heart is large and there is edema.", "s4"),
]
ON_CORPUS = ("bleu", "f1chexbert", "f1radbert_ct", "srrbert")
PRINTED = {
    "bleu": 1, "rouge": 3, "bertscore": 1, "f1chexbert": 8, "radgraph": 3, "radcliq": 2, "radgraph_radcliq": 1,
    "radeval_bertscore": 1, "f1radbert_ct": 4, "srrbert": 3, "ratescore": 1, "green": 1, "crimson": 1,
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The package's own numbers, and the results of `modules.score` for the same reports."""
    python, folder = find_metrics_python(), tmp_path_factory.mktemp("radeval")
    weights, table = folder / "weights", write_table(folder / "table.csv", ROWS)
    pairs = [row for row in ROWS if row[1]]
    texts = {"references": [row[1] for row in pairs], "generated": [row[2] for row in pairs], "metrics": list(PRINTED)}
    (folder / "texts.json").write_text(json.dumps(texts))
    direct = subprocess.run(
        [python, tiny_radeval.__file__, weights, folder / "texts.json"], capture_output=True, text=True,
        env={**os.environ, "LOGURU_LEVEL": "ERROR"},
    )
    assert direct.returncode == 0, direct.stderr
    printed = json.loads(direct.stdout.splitlines()[-1])
    metrics = [metric for metric in PRINTED if metric != "ratescore" or metric in printed]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in tiny_radeval.environment(weights).items():
            patch.setenv(name, value)
        status = main([
            str(table), "--no-meteor", "--workers", "1", "--resamples", "50", "--out", str(folder / "scores.json"),
            "--metrics-python", str(python), "--radeval", *metrics, "crimson:batch_size=2", "srrbert:batch_size=1",
            "--radgraph", str(weights / "cache" / "radgraph" / "0.1.18"),
        ])
    assert status == 0
    return printed, json.loads((folder / "scores.json").read_text())


def test_every_score_equals_what_the_package_prints(scored):
    direct, results = scored
    ours = {name.removeprefix("radeval_"): value for name, value in results["scores"].items() if "radeval_" in name}
    assert ours == direct
    assert len(ours) == sum(PRINTED.values()) - ("ratescore" not in ours)
    # These weights tell reports apart, or equality would say little.
    assert len(set(direct.values())) > 15 and 0 < direct["radgraph_complete"] < direct["radgraph_simple"] < 1


def test_radgraph_from_a_folder_is_the_same(scored):
    _, results = scored
    for level in ("simple", "partial", "complete"):
        assert results["scores"][f"radgraph_{level}"] == results["scores"][f"radeval_radgraph_{level}"]


def test_ratescore_equals_what_the_package_prints(scored):
    direct, results = scored
    if "ratescore" not in direct:
        pytest.skip("spaCy does not run with this NumPy: pip install --no-deps -r requirements-ratescore.txt")
    assert results["scores"]["radeval_ratescore"] == direct["ratescore"]


def test_intervals_are_those_of_numbers_of_the_same_meaning(scored):
    _, results = scored
    for name, value in results["scores"].items():
        if "radeval_" in name:
            on_corpus = name.startswith(tuple(f"radeval_{metric}" for metric in ON_CORPUS))
            interval = results["intervals"][name]
            assert (interval is None) == on_corpus == (name in results["no_interval"]), name
            assert on_corpus or interval[0] <= value + 1e-4 and value <= interval[1] + 1e-4


def test_directions_are_stated(scored):
    _, results = scored
    lower = [name for name, higher in results["higher_is_better"].items() if "radeval_" in name and not higher]
    assert lower == ["radeval_radcliq_v1_distance"]
    distance = results["scores"]["radeval_radcliq_v1_distance"]
    assert results["scores"]["radeval_radcliq_v1"] == pytest.approx(1 / distance, abs=1e-4)


def test_what_was_run_is_stated(scored):
    _, results = scored
    (said,) = (text for step, text in results["applied"].items() if step.startswith("RadEval 2.2.1"))
    assert "crimson batch_size=2" in said and "as they are in the file" in said


def test_an_option_that_the_metric_lacks_is_one_line(tmp_path, capsys):
    python = find_metrics_python()
    table = write_table(tmp_path / "table.csv")
    assert main([
        str(table), "--no-meteor", "--metrics-python", str(python), "--radeval", "bleu:n=4"
    ]) == 1
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1 and not captured.out
    assert "RadEval's bleu failed (it has no option 'n'; options: it has none)" in captured.err
