"""Which batch fields reach the model with which sources."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from models.outputs import BoxSource, GraphSource, ModelInputs
from modules.model_inputs import model_inputs
from tests.support.tiny_model import tiny_batch, with_regions


def tensors_of(inputs: ModelInputs) -> dict[str, Tensor]:
    """All tensors of the inputs by name; those of the annotation as annotation.NAME."""
    tensors = {}
    for field in fields(inputs):
        value = getattr(inputs, field.name)
        if isinstance(value, Tensor):
            tensors[field.name] = value
        elif value is not None:
            tensors |= {f"{field.name}.{name}": tensor for name, tensor in vars(value).items()}
    return tensors


IMAGES_ALONE = {"images", "view_mask", "frontal"}
BOXES = {"detector_boxes", "detector_visible"}


@pytest.mark.parametrize("box_source", [BoxSource.LOCALIZER, BoxSource.ATLAS])
@pytest.mark.parametrize("graph_source", [GraphSource.PREDICTED, GraphSource.NONE])
def test_images_alone_pass_outside_of_training(graph_source, box_source):
    batch = tiny_batch(2)
    inputs = model_inputs(batch, graph_source, box_source)
    assert inputs.annotation is None
    assert set(tensors_of(inputs)) == IMAGES_ALONE
    assert all(value is getattr(batch, name) for name, value in tensors_of(inputs).items())


@pytest.mark.parametrize("graph_source", [GraphSource.PREDICTED, GraphSource.NONE])
def test_boxes_of_a_file_pass_with_the_images(graph_source):
    batch = tiny_batch(2)
    tensors = tensors_of(model_inputs(batch, graph_source, BoxSource.FILE))
    assert set(tensors) == IMAGES_ALONE | BOXES
    assert tensors["detector_boxes"] is batch.detector_boxes and tensors["detector_visible"] is batch.detector_visible


@pytest.mark.parametrize("graph_source", [GraphSource.PREDICTED, GraphSource.NONE])
def test_oracle_boxes_show_boxes_and_nothing_else(graph_source):
    batch = tiny_batch(2)
    tensors = tensors_of(model_inputs(batch, graph_source, BoxSource.ORACLE_BOXES))
    assert set(tensors) == IMAGES_ALONE | BOXES
    assert tensors["detector_boxes"] is batch.regions.boxes and tensors["detector_visible"] is batch.regions.visible


@pytest.mark.parametrize("graph_source", [GraphSource.ORACLE, GraphSource.MIXED])
def test_annotation_passes_where_the_source_says_so(graph_source):
    batch = tiny_batch(2)
    inputs = model_inputs(batch, graph_source, BoxSource.LOCALIZER)
    assert vars(inputs.annotation) == vars(batch.regions)
    assert inputs.detector_boxes is None


@pytest.mark.parametrize("graph_source", list(GraphSource))
def test_training_always_shows_the_annotation(graph_source):
    batch = tiny_batch(2)
    inputs = model_inputs(batch, graph_source, BoxSource.LOCALIZER, training=True)
    assert vars(inputs.annotation) == vars(batch.regions)


def test_file_boxes_are_passed_on_even_where_a_batch_has_none():
    batch = tiny_batch(2)
    batch.detector_visible = torch.zeros_like(batch.detector_visible)
    inputs = model_inputs(batch, GraphSource.PREDICTED, BoxSource.FILE)
    assert inputs.detector_boxes is batch.detector_boxes and not inputs.detector_visible.any()


def test_changed_annotation_changes_no_input():
    batch = tiny_batch(2)
    other = with_regions(batch, **{name: torch.zeros_like(value) for name, value in vars(batch.regions).items()})
    other.token_ids, other.references = torch.zeros_like(batch.token_ids), ["", ""]
    for graph_source in (GraphSource.PREDICTED, GraphSource.NONE):
        for box_source in (BoxSource.LOCALIZER, BoxSource.ATLAS, BoxSource.FILE):
            first = tensors_of(model_inputs(batch, graph_source, box_source))
            second = tensors_of(model_inputs(other, graph_source, box_source))
            assert first.keys() == second.keys()
            assert all(torch.equal(first[name], second[name]) for name in first)
