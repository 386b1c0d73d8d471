"""Moving batches to a device and to pinned memory."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from data.batch import Batch, RegionAnnotation
from tests.support.tiny_model import tiny_batch


def tensors_of(batch: Batch) -> dict[str, Tensor]:
    """All tensors of a batch by name; those of its regions are called regions.NAME."""
    tensors = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            tensors[field.name] = value
        elif isinstance(value, RegionAnnotation):
            tensors |= {f"regions.{name}": tensor for name, tensor in vars(value).items()}
    return tensors


def test_every_tensor_moves_and_the_rest_stays():
    batch = tiny_batch(3, views=2)
    moved = batch.to("meta")
    assert len(tensors_of(batch)) == 19
    for name, tensor in tensors_of(batch).items():
        copy = tensors_of(moved)[name]
        assert copy.device.type == "meta" and tensor.device.type == "cpu", name
        assert copy.shape == tensor.shape and copy.dtype == tensor.dtype, name
    assert moved.study_ids == batch.study_ids and moved.references == batch.references
    assert len(moved) == len(batch) == 3


def test_pinning_reaches_every_tensor(monkeypatch):
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor.clone())
    batch = tiny_batch(2)
    pinned = batch.pin_memory()
    for name, tensor in tensors_of(batch).items():
        copy = tensors_of(pinned)[name]
        assert torch.equal(copy, tensor) and copy.data_ptr() != tensor.data_ptr(), name


@pytest.mark.gpu
def test_pinned_batch_arrives_on_the_gpu():
    batch = tiny_batch(2)
    pinned = batch.pin_memory()
    assert all(tensor.is_pinned() for tensor in tensors_of(pinned).values())
    moved = pinned.to("cuda")
    for name, tensor in tensors_of(batch).items():
        assert torch.equal(tensors_of(moved)[name].cpu(), tensor), name


def test_some_studies_of_a_batch():
    batch = tiny_batch(3, views=2)
    selected = batch.select([2, 0])
    assert selected.study_ids == ["study2", "study0"]
    assert selected.references == [batch.references[2], batch.references[0]]
    for name, tensor in tensors_of(batch).items():
        assert torch.equal(tensors_of(selected)[name], tensor[[2, 0]]), name
