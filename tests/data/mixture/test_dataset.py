"""Several data sets as one: studies, loaders, restarts, shards, weights."""

from itertools import chain

import pytest
import torch

from data.batch import Batch
from data.dataset import StudyDataset
from data.errors import UserError
from data.images.transforms import Augmentation
from data.loaders import BatchPlan, evaluation_loader, training_loader
from data.mixture.dataset import MixedDataset
from tests.support.tiny_dataset import write_tiny_dataset

STRONG = Augmentation(rotate=10, translate=0.05, scale=0.1, intensity=0.1)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    return [write_tiny_dataset(folder / name, train=train, val=2, test=1, image_size=24, seed=seed)
            for seed, (name, train) in enumerate([("first", 9), ("second", 5)])]


@pytest.fixture
def mixed(roots, vocabularies):
    """A function that mixes both data sets with the given weights and settings."""
    def make(weights=None, split="train", **settings):
        return MixedDataset([
            StudyDataset(root, split, vocabularies, cleaning="corrected", image_size=16, max_tokens=20, views=1,
                         uncertain="positive", number=number, **settings)
            for number, root in enumerate(roots)
        ], weights)
    return make


def identities(dataset, batches) -> list[list[float]]:
    """What tells the studies of each batch apart: both data sets have the same ids."""
    return [batch.images.float().flatten(1).mean(1).tolist() for batch in batches]


def test_studies_are_those_of_the_data_sets(mixed):
    dataset = mixed()
    assert len(dataset) == 14
    for index in range(14):
        own, position = dataset.data_sets[index >= 9], index - 9 * (index >= 9)
        assert torch.equal(dataset[3, index].images[0], own[3, position].images[0])
        assert dataset.study_id(index) == own.study_id(position)
        assert dataset.read_reference(index) == own.read_reference(position)
        assert dataset.data_set_name(index) == ("second" if index >= 9 else "first")
        assert torch.equal(dataset.read_annotation(index)[1], own.read_annotation(position)[1])
    assert "first" in dataset.root and "second" in dataset.root
    with pytest.raises(IndexError):
        dataset[14]


def test_a_restart_equals_going_on_bit_for_bit(mixed):
    dataset = mixed((1, 3), augmentation=STRONG)
    whole = list(training_loader(dataset, 4, seed=5, epoch=2, workers=2))
    resumed = list(training_loader(dataset, 4, seed=5, epoch=2, start_batch=1, workers=0))
    assert len(whole) == 3 and len(resumed) == 2
    for expected, batch in zip(whole[1:], resumed, strict=True):
        assert isinstance(batch, Batch) and batch.study_ids == expected.study_ids
        assert torch.equal(batch.images, expected.images) and torch.equal(batch.warps, expected.warps)


@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(2, None), (2, 1), (4, None)])
def test_processes_divide_the_batch_of_one_process(mixed, world_size, micro_batch_size):
    dataset = mixed((1, 3))
    whole = identities(dataset, training_loader(dataset, 4, seed=3, epoch=1))
    plan = BatchPlan(14, 4, world_size, micro_batch_size)
    shares = [identities(dataset, training_loader(dataset, 4, seed=3, epoch=1, rank=rank, world_size=world_size,
                                                  micro_batch_size=micro_batch_size)) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        for rank, share in enumerate(shares):
            own = share[step * plan.micro_batches : (step + 1) * plan.micro_batches]
            assert list(chain(*own)) == batch[rank::world_size]


def test_weights_decide_how_often_a_data_set_is_drawn(mixed):
    dataset = mixed((1, 6))
    draws = dataset.mixture.draws(0, 0)
    assert dataset.mixture.draws_per_epoch == (2, 12) and (draws[:, 1] >= 9).sum() == 12


def test_a_study_that_is_drawn_again_is_augmented_differently(mixed):
    dataset = mixed((1, 6), augmentation=STRONG)
    again = [draw for draw in dataset.mixture.draws(0, 0).tolist() if draw[1] == 10]
    assert len(again) >= 2
    warps = [dataset[tuple(draw)].warps for draw in again]
    assert not torch.equal(warps[0], warps[1])


def test_data_sets_have_their_own_augmentation(mixed):
    dataset = mixed(augmentation=STRONG)
    assert not torch.equal(dataset[0, 0].warps, dataset[0, 9].warps)


def test_evaluation_goes_through_all_in_order(mixed):
    dataset = mixed(split="val")
    batches = list(evaluation_loader(dataset, 3, 0, 0, 1, 0, False))
    assert [name for batch in batches for name in batch.study_ids] == ["val0", "val1", "val0", "val1"]


@pytest.mark.parametrize(("weights", "message"), [
    ([1], "needs one weight for each of the 2 training sets"), ([1, 0], "every weight must be above 0"),
    ([1, -1], "every weight must be above 0"), ([1, 1000], "first none of the 14 studies of an epoch"),
])
def test_wrong_weights_are_named(mixed, weights, message):
    with pytest.raises(UserError, match=message):
        mixed(weights)
