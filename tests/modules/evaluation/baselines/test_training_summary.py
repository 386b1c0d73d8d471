"""The summary of a training split and the constant prediction, compared with slow and obvious implementations."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from data.errors import UserError
from modules.evaluation.baselines import training_summary
from modules.evaluation.baselines.training_summary import TrainingSummary, blind_prediction, summarise
from tests.support.evaluation.fake_evaluation import open_split
from tests.support.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    root = write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", train=9, val=4, test=5, image_size=32, seed=3)
    return open_split(root, "train")


def test_summary_counts_what_is_annotated(training):
    summary = summarise(training, range(len(training)))
    samples = [training[index] for index in range(len(training))]
    with_boxes = [sample for sample in samples if sample.regions.boxes_known]
    graphs = [sample for sample in samples if sample.regions.graph_known]
    assert 0 < len(with_boxes) < len(graphs) < len(samples)
    assert summary.graph_count == len(graphs)
    np.testing.assert_array_equal(
        summary.mention_counts, sum(sample.regions.mentioned.int() for sample in graphs).numpy()
    )
    np.testing.assert_array_equal(
        summary.attribute_counts,
        sum((sample.regions.attributes & sample.regions.mentioned[:, None]).int() for sample in graphs).numpy(),
    )
    np.testing.assert_array_equal(
        summary.label_counts, sum(sample.observations_known.int() for sample in samples).numpy()
    )
    np.testing.assert_array_equal(
        summary.observation_counts, sum(sample.observations * sample.observations_known for sample in samples).numpy()
    )
    boxes = blind_prediction(summary).boxes
    for region in range(len(boxes)):
        visible = [sample.regions.boxes[region] for sample in with_boxes if sample.regions.visible[region]]
        expected = torch.stack(visible).mean(0).numpy() if visible else np.zeros(4)
        np.testing.assert_allclose(boxes[region], expected, atol=1e-6)


def test_the_change_of_a_region_is_its_most_frequent_one(training, monkeypatch):
    assert blind_prediction(summarise(training, range(len(training)))).change is None
    changes = np.full((3, 29), -1)
    changes[:, 4] = 3, 1, 3
    changes[1, 7] = 2
    read = type(training).read_annotation

    def read_annotation(self, index):
        regions, *observations = read(self, index)
        return replace(regions, change=torch.from_numpy(changes[index])), *observations

    monkeypatch.setattr(type(training), "read_annotation", read_annotation)
    change = blind_prediction(summarise(training, range(3))).change
    assert (change[4], change[7]) == (3, 2) and (np.delete(change, [4, 7]) == -1).all()


def summary_of(mentioned, observations, known):
    """A summary of studies with mentioned [studies, R], observations and known [studies, K] as their only labels."""
    mentioned, observations, known = (np.array(table, dtype=bool) for table in (mentioned, observations, known))
    regions = mentioned.shape[1]
    return TrainingSummary(
        box_sums=np.zeros((regions, 4)), box_counts=np.zeros(regions, int),
        graph_count=len(mentioned), mention_counts=mentioned.sum(0), attribute_counts=np.zeros((regions, 1), int),
        observation_counts=(observations & known).sum(0), label_counts=known.sum(0),
        change_counts=np.zeros((regions, 5), int),
    )


TABLE = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=5, max_size=5)


@settings(deadline=None)
@given(mentioned=TABLE, observations=TABLE, known=TABLE)
def test_thresholds_are_the_best_on_the_training_split(mentioned, observations, known):
    prediction = blind_prediction(summary_of(mentioned, observations, known))
    mentioned, observations, known = (np.array(table) for table in (mentioned, observations, known))

    def micro_f1(selected, reference, counted):
        return f1_score(reference[counted], np.broadcast_to(selected, reference.shape)[counted], zero_division=0)

    everything = np.ones_like(mentioned)
    cases = [(prediction.region_probabilities, prediction.region_selected, mentioned, everything)]
    if known.any():
        cases.append((prediction.observation_probabilities, prediction.observations, observations, known))
    else:
        assert prediction.observations is None
    for priors, selected, reference, counted in cases:
        for threshold in [*priors, 2.0]:
            best = micro_f1(selected, reference, counted)
            assert best >= micro_f1(priors >= threshold, reference, counted) - 1e-12
        assert not selected[priors == 0].any()


def test_parts_without_annotation_are_not_predicted():
    nothing = np.zeros((0, 3), dtype=bool)
    prediction = blind_prediction(summary_of(nothing, nothing, nothing))
    assert all(getattr(prediction, field.name) is None for field in fields(prediction))


def test_the_summary_reads_no_image_and_does_not_depend_on_the_workers(training, monkeypatch):
    monkeypatch.setattr(training_summary, "_CHUNK_SIZE", 2)
    monkeypatch.setattr(training, "_load_images", lambda *_: pytest.fail("an image was read"))
    alone, shared = (summarise(training, [0, 2, 4, 5, 8], workers) for workers in (1, 2))
    for name, value in vars(alone).items():
        np.testing.assert_array_equal(value, getattr(shared, name))


def test_a_study_with_an_unusable_annotation_is_left_out(training, monkeypatch):
    original = training.read_annotation

    def read(index):
        if index != 3:
            raise UserError(f"Study {index}: its graph is malformed")
        return original(index)

    expected = summarise(training, [3])
    monkeypatch.setattr(training, "read_annotation", read)
    for name, value in vars(summarise(training, range(9))).items():
        np.testing.assert_array_equal(value, getattr(expected, name))
    with pytest.raises(UserError, match="No study of the training split"):
        summarise(training, [0, 1])
