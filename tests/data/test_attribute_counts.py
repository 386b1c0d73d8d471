"""How often attributes occur among the annotated regions of a split."""

import torch

from data.attribute_counts import count_attributes
from data.dataset import StudyDataset
from data.storage.statistics import training_statistics
from data.vocabulary_builder import build_vocabularies
from models.outputs import GraphAnnotation
from models.sgrrg import annotated_regions
from tests.support.tiny_dataset import write_tiny_dataset


def test_counts_are_those_of_the_regions_that_the_loss_counts(tmp_path):
    """The data set has studies without a graph, graphs without boxes, and regions without a box."""
    root = write_tiny_dataset(tmp_path / "data", train=12, image_size=32)
    vocabularies = build_vocabularies(root, "corrected", 1, 1, True)
    dataset = StudyDataset(root, "train", vocabularies, "corrected", 32, 30, 1, "ignored")
    expected_positives, expected_annotated = 0, 0
    for sample in dataset:
        fields = {name: value.unsqueeze(0) for name, value in vars(sample.regions).items()}
        annotated = annotated_regions(GraphAnnotation(**fields))[0]
        expected_annotated = expected_annotated + annotated.long()
        expected_positives = expected_positives + (sample.regions.attributes & annotated.unsqueeze(-1)).long()
    positives, annotated = count_attributes(training_statistics(root, "corrected"), vocabularies)
    assert torch.equal(torch.from_numpy(positives), expected_positives) and positives.sum() > 0
    assert torch.equal(torch.from_numpy(annotated), expected_annotated)
