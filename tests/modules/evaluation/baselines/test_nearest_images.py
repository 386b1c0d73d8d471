"""The most similar training image."""

import multiprocessing

import numpy as np
import pytest
import torch
import torch.distributed as dist

from data.images.network_input import to_network_input
from modules.config import Precision
from modules.evaluation.baselines import nearest_images
from modules.evaluation.baselines.nearest_images import mean_patches, most_similar, nearest_training_studies
from tests.support.evaluation.fake_evaluation import CPU, open_split
from tests.support.evaluation.fake_model import FakeModel, loader_over
from tests.support.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", train=9, val=4, test=5, image_size=32, seed=3)


def make_model(training):
    return FakeModel(training.vocabularies, ["the heart is normal ."])


def features_of(model, dataset):
    return np.concatenate([mean_patches(model, batch, CPU, Precision.FP32) for batch in loader_over(dataset)])


def test_features_are_mean_patches_of_unit_length(root):
    test = open_split(root, "test")
    features = features_of(make_model(test), test)
    *_, last = loader_over(test)
    patches = torch.nn.functional.avg_pool2d(to_network_input(last).images[-1, :1, 0], 8).flatten()
    expected = torch.stack([patches.mean(), (patches**2).mean(), torch.tensor(1.0)])
    np.testing.assert_allclose(features[4], expected / expected.norm(), rtol=1e-5)


def test_the_most_similar_has_the_highest_cosine():
    training = np.eye(3, dtype=np.float32)
    features = np.array([[0.1, 0.9, 0.2], [0.5, 0.5, 0.0], [0.0, 0.1, 0.99]] * 200, dtype=np.float32)
    positions, values = most_similar(features, training)
    assert positions.tolist() == [1, 0, 2] * 200  # the first of equals
    np.testing.assert_array_equal(values, features[np.arange(600), positions])


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_the_nearest_study_is_that_of_comparing_all(root, chunk, monkeypatch):
    monkeypatch.setattr(nearest_images, "_TRAINING_CHUNK", chunk)
    training = open_split(root, "train")
    test = open_split(root, "test", training.vocabularies)
    model = make_model(training)
    expected = (features_of(model, test) @ features_of(model, training).T).argmax(1)
    assert nearest_training_studies(model, loader_over(test), loader_over(training), CPU) == {
        test.records[study]["id"]: training.records[int(position)]["id"] for study, position in enumerate(expected)
    }


def find_share(rank, root, rendezvous, answers):
    """Run one of two processes: each compares its shard of the training images."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    training = open_split(root, "train")
    test = open_split(root, "test", training.vocabularies)
    loaders = (loader_over(dataset, 2, rank, 2) for dataset in (test, training))
    answers.put((rank, nearest_training_studies(make_model(training), *loaders, CPU)))
    dist.destroy_process_group()


def test_two_processes_find_what_one_finds(root, tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    arguments = (root, f"file://{tmp_path / 'rendezvous'}", answers)
    processes = [context.Process(target=find_share, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    training = open_split(root, "train")
    test = open_split(root, "test", training.vocabularies)
    alone = nearest_training_studies(make_model(training), loader_over(test), loader_over(training), CPU)
    assert found == {0: alone, 1: None}
