"""The files of an evaluation: their names, their schema, and that a full disk leaves the old ones whole."""

import json
import re
import resource

import numpy as np
import pytest
import torch

from data.dataset import StudyDataset
from data.errors import UserError
from data.vocabulary_builder import build_vocabularies
from models.outputs import BoxSource, GraphSource
from modules.evaluation.evaluator import SCORE_GROUPS, SCORE_NAMES, Evaluator
from modules.evaluation.results import (
    SMALLEST_SHARE,
    dataset_name,
    graph_comparison,
    graph_table,
    prediction_entry,
    result_path,
    score_table,
    write_atomically,
    write_metrics,
    write_predictions,
)
from tests.support.fake_model import FakeModel, loader_over
from tests.support.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "folder", train=4, val=1, test=3, image_size=32)


@pytest.fixture(scope="module")
def dataset(root):
    vocabularies = build_vocabularies(root, "corrected", 1, 1, True)
    return StudyDataset(root, "test", vocabularies, "corrected", 32, 30, 1, "ignored")


def evaluate(dataset, **parts):
    evaluator = Evaluator(
        vocabularies=dataset.vocabularies, protocol="r2gen", max_tokens=30, graph_source=GraphSource.PREDICTED,
        box_source=BoxSource.LOCALIZER, beam_size=1,
    )
    model = FakeModel(dataset.vocabularies, ["the heart is normal .", "the spine is clear ."], **parts)
    return evaluator.evaluate(model, loader_over(dataset), torch.device("cpu"), meteor=False)


def test_names_tell_graph_source_and_split_apart(tmp_path):
    assert result_path(tmp_path, "metrics.json", GraphSource.PREDICTED, "test") == tmp_path / "metrics.json"
    assert result_path(tmp_path, "metrics.json", GraphSource.ORACLE, "test") == tmp_path / "metrics_oracle.json"
    names = {
        result_path(tmp_path, "report.html", source, split)
        for source in (GraphSource.PREDICTED, GraphSource.ORACLE, GraphSource.NONE)
        for split in ("train", "val", "test")
    }
    assert len(names) == 9
    first = result_path(tmp_path, "metrics.json", GraphSource.ORACLE, "test", plain=GraphSource.ORACLE)
    second = result_path(tmp_path, "metrics.json", GraphSource.PREDICTED, "test", plain=GraphSource.ORACLE)
    assert (first.name, second.name) == ("metrics.json", "metrics_predicted.json")


def test_predictions_have_one_study_a_line(tmp_path, dataset):
    evaluation = evaluate(dataset)
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, evaluation.records, dataset.vocabularies)
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [entry["id"] for entry in entries] == ["test0", "test1", "test2"]
    names = dataset.vocabularies.anatomy.names
    for number, (entry, record) in enumerate(zip(entries, evaluation.records, strict=True)):
        assert list(entry) == [
            "id", "reference", "scored_reference", "generated", "score", "sentences", "regions", "attributes",
            "observations", "labels",
        ]
        assert " ".join(sentence["text"] for sentence in entry["sentences"]) == entry["generated"]
        for told, sentence in zip(entry["sentences"], record.sentences, strict=True):
            assert told["confidence"] == pytest.approx(sentence.confidence, abs=1e-6) and told["confidence"] > 0
            assert told["regions"] == {
                name: pytest.approx(share, abs=1e-6)
                for name, share in zip(names, sentence.regions, strict=True) if share >= SMALLEST_SHARE
            }
            assert told["regions"]
        assert entry["reference"] == dataset[number].reference
        assert entry["scored_reference"] == record.scored_reference
        known = record.annotation.observations_known.nonzero()[0]
        assert entry["labels"] == {
            dataset.vocabularies.observations[position]: record.annotation.observations[position] for position in known
        }
        assert entry["generated"] == record.generated
        assert entry["score"] == -1
        assert tuple(entry["regions"]) == names
        for region, name in enumerate(names):
            found = entry["regions"][name]
            assert found["box"] == pytest.approx(record.prediction.boxes[region].tolist(), abs=1e-6)
            assert all(0 <= value <= 1 for value in found["box"])
            assert found["probability"] == pytest.approx(record.prediction.region_probabilities[region], abs=1e-6)
            assert 0 <= found["visible_probability"] <= 1
            assert found["selected"] is bool(record.prediction.region_selected[region])
        given = {
            (region, attribute): probability
            for region, attributes in entry["attributes"].items() for attribute, probability in attributes.items()
        }
        expected = {
            (names[region], dataset.vocabularies.attributes.by_region[region][slot])
            for region, slot in np.argwhere(record.prediction.attributes)
        }
        assert set(given) == expected and expected
        assert min(given.values()) > 0.5
        assert all(entry["regions"][region]["selected"] for region, _ in given)
        assert tuple(entry["observations"]) == dataset.vocabularies.observations
        assert entry["observations"]["Edema"] == pytest.approx(
            record.prediction.observation_probabilities[dataset.vocabularies.observations.index("Edema")], abs=1e-6
        )


def test_parts_that_a_model_lacks_are_null_or_empty(dataset):
    record = evaluate(dataset, with_graph=False, with_observations=False).records[0]
    record.log_probability = float("-inf")
    entry = prediction_entry(record, dataset.vocabularies)
    assert entry["regions"]["svc"] == {"box": None, "probability": None, "visible_probability": None, "selected": False}
    assert entry["attributes"] == entry["observations"] == {}
    assert entry["score"] is None


METRICS = {
    "dataset": "tiny", "split": "test", "studies": 3, "graph_source": "predicted", "graph_in": "decoder",
    "annotated_graphs": 2, "box_source": "atlas", "beam_size": 3, "protocol": "r2gen", "seed": 7,
    "scores": dict.fromkeys(SCORE_NAMES, 0.12345) | {"meteor": None}, "absent": {"meteor": "there is no Java"},
    "intervals": dict.fromkeys(SCORE_NAMES, (0.1, 0.15)) | {"meteor": None},
    "baselines": {"blind": dict.fromkeys(SCORE_NAMES, 0.5), "nearest_image": dict.fromkeys(SCORE_NAMES)},
}


def rows_of(table):
    return {line.split()[0]: re.split(r"  +", line)[1:] for line in table.splitlines() if line and line[0] != " "}


def test_the_table_shows_every_score_its_interval_its_baselines_and_what_is_absent():
    table = score_table(METRICS)
    lines, rows = table.splitlines(), rows_of(table)
    for said in ("tiny", "test", "graph predicted", "boxes atlas", "protocol r2gen", "beam 3", "seed 7", "3 studies"):
        assert said in lines[0]
    assert "without graph" not in lines[0]
    assert set(SCORE_NAMES) <= set(rows)
    assert [line[3:] for line in lines if line.startswith("-- ")] == list(SCORE_GROUPS)
    assert rows["cider"] == ["0.123", "[0.100, 0.150]", "0.500", "-"]
    assert rows["meteor"] == ["-", "0.500", "-"]
    assert lines[-1].endswith("meteor is absent: there is no Java")
    assert "graph predicted (of a model without graph)" in score_table(METRICS | {"graph_in": "none"})


def test_graph_sources_are_compared_with_the_first():
    oracle = METRICS | {
        "graph_source": "oracle", "box_source": "oracle_boxes", "scores": dict.fromkeys(SCORE_NAMES, 0.5),
    }
    steps = np.linspace(0, 1, 101)
    gaps = 0.37655 + 0.1 * (steps - 0.5)
    resampled = {"predicted": {"cider": steps}, "oracle": {"cider": steps + gaps, "rouge_l": steps}}
    compared = graph_comparison({"predicted": METRICS, "oracle": oracle}, resampled)
    # Both rise with the same resamples: the interval is of their difference, far narrower than theirs.
    assert compared["oracle"]["interval"]["cider"] == pytest.approx((0.329, 0.424), abs=1e-3)
    assert compared["predicted"]["interval"]["cider"] == (0, 0) and compared["oracle"]["interval"]["rouge_l"] is None
    assert compared["oracle"]["difference"]["cider"] == pytest.approx(0.37655)
    assert compared["oracle"]["difference"]["meteor"] is compared["predicted"]["difference"]["meteor"] is None
    assert compared["predicted"]["difference"]["cider"] == 0
    table = graph_table(METRICS | {"graph_sources": compared})
    assert "oracle: boxes oracle_boxes; 2 of 3 studies have an annotated graph" in table
    rows = rows_of(table)
    assert rows["score"] == ["predicted", "oracle", "difference", "95 % interval"]
    assert rows["cider"] == ["0.123", "0.500", "+0.377", "[0.329, 0.424]"] and rows["meteor"] == ["-", "0.500", "-"]


def test_metrics_keep_what_cannot_be_computed_as_null(tmp_path):
    write_metrics(tmp_path / "new" / "metrics.json", {"scores": {"meteor": None}})
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == {"scores": {"meteor": None}}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "metrics.json"
    write_atomically(path, ["old"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=r"Cannot write .*metrics\.json \(File too large\)"):
            write_atomically(path, ["x" * 5000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="Cannot write"):
        write_atomically(path / "below_a_file.json", ["x"])


def test_a_data_set_without_a_name_has_its_folders(root, tmp_path):
    assert dataset_name(root) == "tiny"
    (tmp_path / "dataset.yaml").write_text("counts: {}\n")
    assert dataset_name(tmp_path) == tmp_path.name
