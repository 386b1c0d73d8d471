"""The files of an evaluation: their names, their schema, and that a failed write leaves the old ones unchanged."""

import json
import resource

import numpy as np
import pytest

from data.errors import UserError
from models.outputs import GraphSource
from modules.evaluation.results import (
    MIN_SHARE,
    prediction_entry,
    result_path,
    write_atomically,
    write_metrics,
    write_predictions,
)
from tests.support.evaluation.fake_evaluation import evaluate, open_split
from tests.support.evaluation.fake_model import FakeModel
from tests.support.tiny_dataset import write_tiny_dataset

TEXTS = ["the heart is normal .", "the spine is clear ."]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "folder"
    return open_split(write_tiny_dataset(root, train=4, val=1, test=3, image_size=32))


def test_names_tell_graph_source_and_split_apart(tmp_path):
    assert result_path(tmp_path, "metrics.json", GraphSource.PREDICTED, "test") == tmp_path / "metrics.json"
    assert result_path(tmp_path, "metrics.json", GraphSource.ORACLE, "test") == tmp_path / "metrics_oracle.json"
    names = {
        result_path(tmp_path, "report.html", source, split)
        for source in (GraphSource.PREDICTED, GraphSource.ORACLE, GraphSource.NONE)
        for split in ("train", "val", "test")
    }
    assert len(names) == 9
    first = result_path(tmp_path, "metrics.json", GraphSource.ORACLE, "test", default_source=GraphSource.ORACLE)
    second = result_path(tmp_path, "metrics.json", GraphSource.PREDICTED, "test", default_source=GraphSource.ORACLE)
    assert (first.name, second.name) == ("metrics.json", "metrics_predicted.json")


def test_predictions_have_one_study_a_line(tmp_path, dataset):
    evaluation = evaluate(dataset, FakeModel(dataset.vocabularies, TEXTS))
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
        for sentence_entry, sentence in zip(entry["sentences"], record.sentences, strict=True):
            assert sentence_entry["confidence"] == pytest.approx(sentence.confidence, abs=1e-6)
            assert sentence_entry["confidence"] > 0
            assert sentence_entry["regions"] == {
                name: pytest.approx(share, abs=1e-6)
                for name, share in zip(names, sentence.regions, strict=True) if share >= MIN_SHARE
            }
            assert sentence_entry["regions"]
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
            region_entry = entry["regions"][name]
            assert region_entry["box"] == pytest.approx(record.prediction.boxes[region].tolist(), abs=1e-6)
            assert all(0 <= value <= 1 for value in region_entry["box"])
            probability = record.prediction.region_probabilities[region]
            assert region_entry["probability"] == pytest.approx(probability, abs=1e-6)
            assert 0 <= region_entry["visible_probability"] <= 1
            assert region_entry["selected"] is bool(record.prediction.region_selected[region])
        attributes = {
            (region, attribute): probability
            for region, probabilities in entry["attributes"].items()
            for attribute, probability in probabilities.items()
        }
        expected = {
            (names[region], dataset.vocabularies.attributes.by_region[region][slot])
            for region, slot in np.argwhere(record.prediction.attributes)
        }
        assert set(attributes) == expected and expected
        assert min(attributes.values()) > 0.5
        assert all(entry["regions"][region]["selected"] for region, _ in attributes)
        assert tuple(entry["observations"]) == dataset.vocabularies.observations
        assert entry["observations"]["Edema"] == pytest.approx(
            record.prediction.observation_probabilities[dataset.vocabularies.observations.index("Edema")], abs=1e-6
        )


def test_parts_that_a_model_lacks_are_null_or_empty(dataset):
    model = FakeModel(dataset.vocabularies, TEXTS, with_graph=False, with_observations=False)
    record = evaluate(dataset, model).records[0]
    record.log_probability = float("-inf")
    entry = prediction_entry(record, dataset.vocabularies)
    assert entry["regions"]["svc"] == {"box": None, "probability": None, "visible_probability": None, "selected": False}
    assert entry["attributes"] == entry["observations"] == {}
    assert entry["score"] is None


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
