"""Loaders: order, resuming, shards, workers, and global random state."""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batch import Batch, RegionAnnotation
from data.dataset import StudyDataset
from data.errors import UserError
from data.images.network_input import to_network_input
from data.images.transforms import Augmentation
from data.loaders import (
    BatchPlan,
    epoch_order,
    evaluation_loader,
    training_loader,
    worker_count,
    worker_errors,
)
from tests.data.images.test_image_store import pack
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
    later = {study: image for batch in map(to_network_input, training_loader(studies, 4, seed=0, epoch=1))
             for study, image in zip(batch.study_ids, batch.images, strict=True)}
    common = [(image, later[study]) for batch in map(to_network_input, first)
              for study, image in zip(batch.study_ids, batch.images, strict=True) if study in later]
    assert common and not any(torch.equal(image, other) for image, other in common)


@pytest.mark.parametrize(("world_size", "batch_size", "micro_batch_size"), [
    (2, 8, None), (2, 8, 2), (2, 8, 3), (1, 8, 4), (3, 6, None), (11, 44, 1),
])
def test_processes_and_micro_batches_divide_the_batch_of_one_process(
    dataset, world_size, batch_size, micro_batch_size
):
    studies = dataset()
    plan = BatchPlan(22, batch_size, world_size, micro_batch_size)
    whole = ids(training_loader(studies, batch_size, seed=3, epoch=1))
    shares = [
        ids(training_loader(studies, batch_size, seed=3, epoch=1, rank=rank, world_size=world_size,
                            micro_batch_size=micro_batch_size))
        for rank in range(world_size)
    ]
    assert len(whole) == plan.steps
    for step, batch in enumerate(whole):
        for rank, share in enumerate(shares):
            micro_batches = share[step * plan.micro_batches : (step + 1) * plan.micro_batches]
            assert sum(micro_batches, []) == batch[rank::world_size]
            assert len({len(each) for each in micro_batches}) == 1
            assert len(micro_batches[0]) <= (micro_batch_size or batch_size)


@given(studies=st.integers(1, 200), batch_size=st.integers(1, 40), world_size=st.integers(1, 5),
       micro_batch_size=st.none() | st.integers(1, 20))
def test_a_plan_divides_every_step_equally_or_says_what_does_not_divide(
    studies, batch_size, world_size, micro_batch_size
):
    try:
        plan = BatchPlan(studies, batch_size, world_size, micro_batch_size)
    except UserError as error:
        message = str(error)
        assert "\n" not in message and ("cannot be divided" in message or "too few" in message)
        return
    order = np.arange(studies)
    divided = [plan.divide(order, rank) for rank in range(world_size)]
    assert {len(batch) for share in divided for batch in share} == {plan.share // plan.micro_batches}
    seen = [study for share in divided for batch in share for study in batch]
    assert sorted(seen) == list(range(plan.steps * plan.step_size))
    assert studies - len(seen) < batch_size
    assert plan.divide(order, 0, start=1) == divided[0][plan.micro_batches:]


@pytest.mark.parametrize(("arguments", "message"), [
    ((100, 16, 3), "optim.batch_size=16 cannot be divided over 3 processes: use a multiple of 3, or another number"),
    ((7, 16, 2), "optim.batch_size=16, with only 7 studies in the training split, cannot be divided over 2 processes"),
    ((100, 16, 2, 3), "optim.batch_size=16 gives 8 studies to each of 2 processes, which cannot be divided into 3 "
                      "equal micro-batches of at most data.micro_batch_size=3: use a divisor of 8"),
    ((7, 16, 8), "7 studies are too few for 8 processes"),
])
def test_what_does_not_divide_is_one_line(arguments, message):
    with pytest.raises(UserError) as caught:
        BatchPlan(*arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


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


# Persistent workers


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_workers_read_all_epochs(dataset, workers):
    """Another epoch, a position within it, and an iteration that was given up give what a new loader gives."""
    studies = dataset(augmentation=STRONG)
    loader = training_loader(studies, 4, seed=5, workers=workers)
    list(loader)
    processes = {child.pid for child in multiprocessing.active_children()}
    assert len(processes) == workers
    next(iter(loader))
    for epoch, start in ((1, 0), (2, 3), (1, 5), (0, 1)):
        loader.set_position(epoch, start)
        expected = list(training_loader(studies, 4, seed=5, epoch=epoch, start_batch=start))
        assert len(loader) == len(expected)
        for batch, other in zip(loader, expected, strict=True):
            assert_same(batch, other)
    assert {child.pid for child in multiprocessing.active_children()} == processes
    loader.close()
    assert multiprocessing.active_children() == []


def test_there_are_no_more_workers_than_batches_and_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert [worker_count(workers, 100) for workers in (0, 2, 8, 20)] == [0, 2, 8, 8]
    assert worker_count(8, 3) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert worker_count(8, 100) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert worker_count(8, 100) == 1


def test_a_killed_worker_is_one_line(dataset):
    loader = training_loader(dataset(), 2, seed=0, workers=1)
    with pytest.raises(UserError) as caught, worker_errors():
        for _ in loader:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
            time.sleep(0.2)  # torch's signal handler interrupts the main process here
    assert "data loader process was killed" in str(caught.value) and "train.resume=true" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_errors_are_left_alone():
    for error in (RuntimeError("shape"), UserError("one line"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, worker_errors():
            raise error
        assert caught.value is error


# Damaged studies


@pytest.fixture
def damaged_root(root, tmp_path):
    """A copy of the data set in which train7, train8 and val2 cannot be read."""
    copy = shutil.copytree(root, tmp_path / "copy")
    (copy / "images/train7_0.png").write_bytes(b"not an image")
    (copy / "images/train8_0.png").unlink()
    (copy / "images/val2_0.png").write_bytes(b"")
    return copy


@pytest.mark.parametrize("workers", [0, 2])
def test_training_replaces_damaged_studies(dataset, root, damaged_root, workers, capsys):
    damaged, whole = dataset(root=damaged_root, augmentation=STRONG), dataset(augmentation=STRONG)
    expected = ids(training_loader(whole, 4, seed=0))
    loader = training_loader(damaged, 4, seed=0, workers=workers, most_skipped=2)
    batches = list(loader)
    replaced = {"train7": "train9", "train8": "train9"}
    assert ids(batches) == [[replaced.get(study, study) for study in batch] for batch in expected]
    assert sorted((study.index, study.study_id) for study in loader.skipped.values()) == [(7, "train7"), (8, "train8")]
    assert "Study train7: the image" in loader.skipped[7].reason
    assert "No image of study train8" in loader.skipped[8].reason
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2 and all(line.startswith("Warning: skipping study train") for line in warnings)
    list(loader)
    assert capsys.readouterr().err == ""  # named once
    # Ranks stay in step: each replaces on its own what it meets.
    shards = [ids(training_loader(damaged, 4, seed=0, rank=rank, world_size=2, most_skipped=2)) for rank in (0, 1)]
    assert [first + second for first, second in zip(*shards, strict=True)] == [
        batch[::2] + batch[1::2] for batch in ids(batches)
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_damaged_studies_are_one_line(dataset, damaged_root, workers):
    with pytest.raises(UserError) as caught:
        list(training_loader(dataset(root=damaged_root), 11, seed=0, workers=workers, most_skipped=1))
    message = str(caught.value)
    assert message.startswith("2 studies cannot be read, more than data.most_skipped=1: train")
    assert "train7" in message and "train8" in message and "The first error: " in message and "\n" not in message
    assert multiprocessing.active_children() == []


def test_a_split_without_a_readable_study_is_one_line(dataset, root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "copy")
    shutil.rmtree(copy / "images")
    with pytest.raises(UserError, match="No study of the split can be read: No image of study"):
        list(training_loader(dataset("val", root=copy), 4, seed=0, most_skipped=100))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_damaged_studies_out(dataset, damaged_root, workers):
    def loader_of(batch_size, rank=0, world_size=1):
        return evaluation_loader(dataset("val", root=damaged_root), batch_size, workers=workers, rank=rank,
                                 world_size=world_size, pad_id=0, pin_memory=False, most_skipped=1)

    loader = loader_of(3)
    read = [study for batch in ids(loader) for study in batch]
    assert read == ["val0", "val1", "val3", "val4", "val5", "val6"]
    assert [study.study_id for study in loader.skipped.values()] == ["val2"]
    assert loader.align(read) == ["val0", "val1", None, "val3", "val4", "val5", "val6"]
    alone = loader_of(1, rank=0, world_size=2)  # the batch of the damaged study is empty
    assert ids(alone) == [["val0"], ["val4"], ["val6"]] and alone.align([0, 4, 6]) == [0, None, 4, 6]


def test_a_disk_that_cannot_be_staged_to_is_no_damaged_study(dataset, damaged_root, tmp_path):
    packed = pack(damaged_root, [("train0", 0, (damaged_root / "images/train0_0.png").read_bytes())])
    path = damaged_root / "records.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("images/train0_0.png", packed[0]), encoding="utf-8")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Cannot write data\.stage_dir=.*file.* \(Not a directory\)") as caught:
        list(training_loader(dataset(root=damaged_root, stage_dir=tmp_path / "file/below"), 11, seed=0, workers=1,
                             most_skipped=10))
    assert "\n" not in str(caught.value)


# Order in windows


@given(studies=st.integers(1, 20_000), window=st.none() | st.integers(2048, 30_000), epoch=st.integers(0, 3))
@settings(max_examples=30)
def test_an_order_is_a_permutation_and_a_function_of_seed_and_epoch(studies, window, epoch):
    order = epoch_order(studies, 4, epoch, window)
    assert np.array_equal(np.sort(order), np.arange(studies))
    assert np.array_equal(order, epoch_order(studies, 4, epoch, window))
    if studies > 20:
        assert not np.array_equal(order, epoch_order(studies, 5, epoch, window))
        assert not np.array_equal(order, epoch_order(studies, 4, epoch + 1, window))
    if window is None or studies <= window:
        assert np.array_equal(order, np.random.default_rng([3, 4, epoch]).permutation(studies))


def test_a_window_reads_few_blocks_and_shuffles_them():
    order = epoch_order(100_000, 0, 0, window=4 * 2048)
    windows = [order[start : start + 4 * 2048] for start in range(0, 100_000, 4 * 2048)]
    assert all(len(np.unique(window // 2048)) <= 5 for window in windows)
    seen = [set((window // 2048).tolist()) for window in windows]
    assert sum(len(first & second) for first, second in itertools.pairwise(seen)) <= len(windows)
    # Within a window, neighbours are as far apart as in a random order of its blocks.
    blocks = windows[0] // 2048
    assert (np.diff(blocks) != 0).mean() > 0.6
    assert np.unique(epoch_order(100_000, 0, 1, 4 * 2048)[: 4 * 2048] // 2048).tolist() != sorted(seen[0])
