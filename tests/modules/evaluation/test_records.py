"""Records of an evaluation."""

import numpy as np

from modules.evaluation.records import annotations_from_batch
from tests.support.evaluation.fake_evaluation import open_split
from tests.support.evaluation.fake_model import loader_over
from tests.support.tiny_dataset import write_tiny_dataset


def test_annotations_of_a_batch_are_the_labels_of_its_studies(tmp_path):
    dataset = open_split(write_tiny_dataset(tmp_path / "tiny", train=3, val=1, test=4, image_size=32))
    annotations = [each for batch in loader_over(dataset, 3) for each in annotations_from_batch(batch)]
    assert len(annotations) == 4
    for annotation, sample in zip(annotations, (dataset[index] for index in range(4)), strict=True):
        for name, tensor in vars(sample.regions).items():
            np.testing.assert_array_equal(getattr(annotation, name), np.asarray(tensor), err_msg=name)
        np.testing.assert_array_equal(annotation.observations, sample.observations.numpy() > 0.5)
        np.testing.assert_array_equal(annotation.observations_known, sample.observations_known.numpy())
