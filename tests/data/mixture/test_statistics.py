"""Statistics of several training splits: sums and means over all their records."""

import json

import numpy as np
import pytest

from data.mixture import statistics
from data.mixture.statistics import count_boxes, joined_statistics
from data.records import read_records
from data.storage.statistics import training_statistics
from data.vocabulary_builder import build_vocabularies
from tests.support.tiny_dataset import write_tiny_dataset


@pytest.fixture
def roots(tmp_path):
    return [write_tiny_dataset(tmp_path / f"set{seed}", train=4 + seed, seed=seed, image_size=8) for seed in range(2)]


def rewrite(root, change):
    """Change every record of a data set."""
    records = [json.loads(line) for line in (root / "records.jsonl").read_text().splitlines()]
    for record in records:
        change(record)
    (root / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_they_are_those_of_all_records_in_one_data_set(roots, tmp_path):
    both = write_tiny_dataset(tmp_path / "both", train=1, image_size=8)
    lines = [line for number, root in enumerate(roots) for line in (root / "records.jsonl").read_text().splitlines()]
    records = [json.loads(line) | {"id": str(number)} for number, line in enumerate(lines)]
    (both / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (both / "dataset.yaml").write_text("name: both\ncounts: {}\n")
    joined, expected = joined_statistics(roots, "corrected"), training_statistics(both, "corrected")
    for name in ("words", "attributes", "annotated", "positives"):
        assert getattr(joined, name) == getattr(expected, name), name
    assert joined.mean_boxes.keys() == expected.mean_boxes.keys()
    for name, box in expected.mean_boxes.items():
        assert joined.mean_boxes[name] == pytest.approx(box, abs=2e-6)


def test_one_data_set_is_exactly_itself(roots):
    assert joined_statistics(roots[:1], "corrected") == training_statistics(roots[0], "corrected")
    names = ("min_word_count", "min_attribute_count")
    alone, listed = (build_vocabularies(root, "corrected", **dict.fromkeys(names, 1), distinct_special_tokens=True)
                     for root in (roots[0], roots[:1]))
    assert alone.fingerprints() == listed.fingerprints()


def test_images_without_reports_and_graphs_add_nothing(roots):
    rewrite(roots[1], lambda record: record.update(report=None, graph=None))
    joined, first = (joined_statistics(given, "corrected") for given in (roots, roots[:1]))
    assert joined == first
    vocabularies = build_vocabularies(roots[1:], "corrected", 1, 1, True)
    assert vocabularies.attributes.largest == 1 and len(vocabularies.tokenizer.words) <= 1


def test_boxes_of_an_incomplete_graph_count(roots):
    box = [0.1, 0.2, 0.3, 0.4]
    graph = {"complete": False, "regions": {"left lung": {"box": box}}}
    rewrite(roots[1], lambda record: record.update(report=None, graph=graph))
    counts = [count_boxes(root)["left lung"] for root in roots]
    means = [training_statistics(root, "corrected").mean_boxes["left lung"] for root in roots]
    assert counts[1] == 5 and means[1] == tuple(box)
    joined = joined_statistics(roots, "corrected")
    assert joined.mean_boxes["left lung"] == pytest.approx(np.average(means, axis=0, weights=counts), abs=2e-6)
    assert joined.annotated == training_statistics(roots[0], "corrected").annotated


def test_boxes_are_counted_once(roots, monkeypatch):
    counted = count_boxes(roots[0])
    monkeypatch.setattr(statistics, "MeanBox", lambda: pytest.fail("counted again"))
    assert count_boxes(roots[0]) == counted


def test_a_damaged_count_of_boxes_is_made_again(roots):
    counted = count_boxes(roots[0])
    file, = read_records(roots[0], "train").offsets_file.parent.glob("boxes.*.json")
    content = file.read_text()
    number = str(counted["left lung"])
    file.write_text(content.replace(f'"left lung": {number}', f'"left lung": {number}0'))
    assert file.read_text() != content and count_boxes(roots[0]) == counted


def test_a_data_set_without_training_studies_adds_nothing(roots, tmp_path):
    only_test = write_tiny_dataset(tmp_path / "only_test", train=0, image_size=8)
    assert joined_statistics([roots[0], only_test], "corrected") == training_statistics(roots[0], "corrected")
