"""Loaders: order, resuming, shards, workers, and global random state."""

import multiprocessing
import random
import shutil
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.batch import Batch, RegionAnnotation
from data.dataset import StudyDataset
from data.errors import UserError
from data.images.transforms import Augmentation
from data.loaders import batches_per_epoch, evaluation_loader, training_loader
from tests.support.tiny_dataset import write_tiny_dataset

STRONG = Augmentation(rotate=10, translate=0.05, scale=0.1, intensity=0.1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("prepared") / "tiny", train=22, val=7, test=1, image_size=24)


@pytest.fixture
def dataset(root, vocabularies):
    """A function that creates a dataset of 16-pixel images with the given settings."""
    def make(split="train", root=root, **settings):
        return StudyDataset(root, split, vocabularies, cleaning="corrected", image_size=16, max_tokens=20, views=1,
                            uncertain="positive", **settings)
    return make


def ids(loader):
    return [batch.study_ids for batch in loader]


def assert_same(first: Batch, second: Batch):
    """Assert that two batches are equal bit for bit."""
    for record_type, one, other in ((Batch, first, second), (RegionAnnotation, first.regions, second.regions)):
        for field in fields(record_type):
            value, expected = getattr(one, field.name), getattr(other, field.name)
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, expected), field.name
            elif not isinstance(value, RegionAnnotation):
                assert value == expected, field.name


def test_a_restart_equals_going_on_bit_for_bit(dataset):
    uninterrupted = list(training_loader(dataset(augmentation=STRONG), 4, seed=5, epoch=2, workers=2))
    resumed = list(training_loader(dataset(augmentation=STRONG), 4, seed=5, epoch=2, start_batch=2, workers=2))
    assert len(uninterrupted) == 5 and len(resumed) == 3
    for expected, batch in zip(uninterrupted[2:], resumed, strict=True):
        assert_same(expected, batch)


def test_workers_and_memory_change_nothing(dataset):
    plain = list(training_loader(dataset(augmentation=STRONG), 4, seed=5, epoch=1))
    for other in (training_loader(dataset(augmentation=STRONG), 4, seed=5, epoch=1, workers=2),
                  training_loader(dataset(augmentation=STRONG, cache_images=True), 4, seed=5, epoch=1, workers=2)):
        for first, second in zip(plain, other, strict=True):
            assert_same(first, second)


def test_order_and_augmentation_depend_on_seed_and_epoch(dataset):
    studies = dataset(augmentation=STRONG)
    first = list(training_loader(studies, 4, seed=0, epoch=0))
    assert_same(first[0], next(iter(training_loader(studies, 4, seed=0, epoch=0))))
    assert [batch.study_ids for batch in first] != ids(training_loader(studies, 4, seed=0, epoch=1))
    assert [batch.study_ids for batch in first] != ids(training_loader(studies, 4, seed=1, epoch=0))
    later = {study: image for batch in training_loader(studies, 4, seed=0, epoch=1)
             for study, image in zip(batch.study_ids, batch.images, strict=True)}
    common = [(image, later[study]) for batch in first
              for study, image in zip(batch.study_ids, batch.images, strict=True) if study in later]
    assert common and not any(torch.equal(image, other) for image, other in common)


@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 4), (3, 2), (2, 16)])
def test_shards_are_disjoint_and_make_up_the_batch_of_one_process(dataset, world_size, batch_size):
    studies = dataset()
    shards = [ids(training_loader(studies, batch_size, seed=3, epoch=1, rank=rank, world_size=world_size))
              for rank in range(world_size)]
    joint = ids(training_loader(studies, batch_size * world_size, seed=3, epoch=1))
    assert {len(shard) for shard in shards} == {len(joint)} == {batches_per_epoch(22, batch_size, world_size)}
    for parts, whole in zip(zip(*shards, strict=True), joint, strict=True):
        union = [study for part in parts for study in part]
        assert len(union) == len(set(union)) and set(union) == set(whole)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1 and min(map(len, parts)) >= 1


@given(size=st.integers(1, 200), batch_size=st.integers(1, 20), world_size=st.integers(1, 5))
def test_only_a_last_incomplete_batch_is_dropped(size, batch_size, world_size):
    count = batches_per_epoch(size, batch_size, world_size)
    assert count >= 1
    assert count == 1 or 0 <= size - count * batch_size * world_size < batch_size * world_size


def test_a_split_smaller_than_a_batch_is_one_batch(dataset):
    assert [len(batch) for batch in training_loader(dataset("val"), 16, seed=0, epoch=0)] == [7]


def test_too_few_studies_for_the_processes(dataset):
    with pytest.raises(UserError, match="7 studies are too few for 8 processes"):
        training_loader(dataset("val"), 1, seed=0, epoch=0, world_size=8)


def test_the_end_of_an_epoch_is_no_batch(dataset):
    assert list(training_loader(dataset(), 4, seed=0, epoch=0, start_batch=5, workers=2)) == []


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_every_study_once(dataset, world_size):
    shards = [ids(evaluation_loader(dataset("val"), 2, workers=0, rank=rank, world_size=world_size, pad_id=0,
                                    pin_memory=False)) for rank in range(world_size)]
    for rank, shard in enumerate(shards):
        assert [study for batch in shard for study in batch] == [f"val{index}" for index in range(rank, 7, world_size)]
        assert all(len(batch) <= 2 for batch in shard)


def test_evaluation_with_more_processes_than_studies(dataset):
    loader = evaluation_loader(dataset("test"), 2, workers=2, rank=1, world_size=2, pad_id=0, pin_memory=False)
    assert list(loader) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_global_generators_are_left_alone(dataset, workers):
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    list(training_loader(dataset(augmentation=STRONG), 4, seed=0, epoch=0, workers=workers))
    list(evaluation_loader(dataset("val"), 2, workers=workers, rank=0, world_size=1, pad_id=0, pin_memory=False))
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all() and python_state == random.getstate()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_worker_is_one_line(dataset, root, tmp_path, workers):
    copy = shutil.copytree(root, tmp_path / "copy")
    (copy / "images/train7_0.png").write_bytes(b"not an image")
    with pytest.raises(UserError) as caught:
        list(training_loader(dataset(root=copy), 11, seed=0, epoch=0, workers=workers))
    assert str(caught.value).startswith("Study train7: the image ") and "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []


def test_workers_share_what_they_cached(dataset, root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "copy")
    studies = dataset(root=copy, cache_images=True)
    first = {study: image for batch in training_loader(studies, 11, seed=0, epoch=0, workers=2)
             for study, image in zip(batch.study_ids, batch.images, strict=True)}
    shutil.rmtree(copy / "images")
    for batch in training_loader(studies, 11, seed=0, epoch=1, workers=2):
        for study, image in zip(batch.study_ids, batch.images, strict=True):
            assert torch.equal(first[study], image)


def test_reports_are_padded_with_the_given_id(dataset):
    batch = next(iter(training_loader(dataset(), 11, seed=0, epoch=0, pad_id=77)))
    assert (batch.token_ids[~batch.token_mask] == 77).all() and (~batch.token_mask).any()
