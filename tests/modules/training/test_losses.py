"""Counts, what is left out of the losses, and equality of micro-batches with the joint batch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data.batch import Batch
from models.outputs import Encoded, SGRRGOutput
from modules.builders import build_criterion
from modules.training.losses import Losses, ReportCriterion
from tests.support.tiny_model import (
    losses_of,
    studies_of,
    teacher_forced,
    tiny_batch,
    tiny_config,
    tiny_model,
    tiny_vocabularies,
    with_regions,
    without_annotation,
    without_regions,
)
from tests.support.training.loss_cases import SLOTS, WEIGHTS, annotated, partly_annotated_batch, random_output, terms_of


@pytest.fixture
def criterion() -> ReportCriterion:
    return ReportCriterion(WEIGHTS, SLOTS, contrast_margin=0.4)


@pytest.fixture
def batch() -> Batch:
    return partly_annotated_batch()


def test_total_is_the_weighted_sum(criterion, batch):
    losses = criterion(random_output(batch), batch, criterion.counts(batch))
    assert tuple(losses.terms) == tuple(WEIGHTS)
    expected = sum(WEIGHTS[name] * term.item() for name, term in losses.terms.items())
    assert losses.total.item() == pytest.approx(expected, rel=1e-6)


def test_weights_of_unknown_terms_are_refused():
    with pytest.raises(AssertionError, match=r"unknown loss terms \['grammar'\]"):
        ReportCriterion({"grammar": 1.0}, SLOTS)


# Missing annotation


def test_what_is_not_annotated_changes_no_term(criterion, batch):
    output = random_output(batch)
    before = terms_of(criterion, output, batch)
    regions = batch.regions
    changed = replace(
        batch,
        observations=torch.where(batch.observations_known, batch.observations, 1 - batch.observations),
        token_ids=torch.where(batch.token_mask, batch.token_ids, 9),
        regions=replace(
            regions, boxes=torch.where(regions.visible.unsqueeze(-1), regions.boxes, 0.3),
            attributes=regions.attributes | ~annotated(batch).unsqueeze(-1),
            abnormal=regions.abnormal | ~annotated(batch),
        ),
    )
    assert terms_of(criterion, output, changed) == before


def test_gradients_of_what_is_not_annotated_are_zero(criterion, batch):
    output = random_output(batch)
    encoded = output.encoded
    for tensor in (output.packed_logits, encoded.boxes):
        tensor.retain_grad()
    criterion(output, batch, criterion.counts(batch)).total.backward()
    assert len(output.packed_logits.grad) == batch.token_mask[:, 1:].sum()  # padding has no logits
    assert (encoded.observation_logits.grad[~batch.observations_known] == 0).all()
    assert (encoded.region_logits.grad[1] == 0).all() and (encoded.visible_logits.grad[2] == 0).all()
    assert (encoded.attribute_logits.grad[~(annotated(batch).unsqueeze(-1) & SLOTS)] == 0).all()
    assert (encoded.boxes.grad[~batch.regions.visible] == 0).all()
    assert (encoded.region_logits.grad[[0, 2]] != 0).all()


def test_terms_without_anything_to_count_are_exact_zeros_that_keep_the_graph(criterion):
    batch = without_annotation(tiny_batch(2))
    batch = replace(batch, token_mask=torch.zeros_like(batch.token_mask))
    losses = criterion(random_output(batch), batch, criterion.counts(batch))
    for name, term in losses.terms.items():
        assert term.item() == 0 and term.requires_grad, name
    losses.total.backward()


@pytest.mark.parametrize("reduce", [without_regions, without_annotation])
def test_model_without_anything_annotated_keeps_every_parameter_in_the_graph(reduce):
    model = tiny_model()
    losses = losses_of(model, reduce(tiny_batch(2)))
    for name in ("attributes", "contrast", "boxes"):
        assert losses.terms[name].item() == 0, name
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_parts_that_the_model_lacks_have_no_term(criterion, batch):
    output = random_output(batch)
    bare = Encoded(memory=output.encoded.memory, memory_mask=output.encoded.memory_mask)
    losses = criterion(SGRRGOutput(bare, output.packed_logits, output.packing), batch, criterion.counts(batch))
    assert set(losses.terms) == {"report"} and losses.total.item() == losses.terms["report"].item()


def test_term_of_weight_zero_is_left_out(batch):
    criterion = ReportCriterion(WEIGHTS | {"contrast": 0.0, "boxes": 0}, SLOTS)
    assert set(terms_of(criterion, random_output(batch), batch)) == set(WEIGHTS) - {"contrast", "boxes"}


# Counts


def test_counts_come_from_the_batch_alone(criterion, batch):
    counts = dict(zip(ReportCriterion.TERMS, criterion.counts(batch).tolist(), strict=True))
    assert criterion.counts(batch).dtype == torch.float64
    about = batch.token_regions[:, 1:] & annotated(batch).unsqueeze(1)
    pairs = sum(region % 5 for _, region in annotated(batch).nonzero().tolist())
    assert counts == {
        "report": 7 + 5 + 3, "observations": batch.observations_known.sum().item(), "regions": 2 * 29,
        "attributes": pairs, "contrast": 1, "boxes": batch.regions.visible[:2].sum().item(), "visibility": 2 * 29,
        "grounding": about.any(-1).sum().item(), "change": 0,
        "image_contrast": 1, "text_contrast": 1,
        "attention_consistency": 3,  # every study has one view and a positive observation
    }


def test_world_size_undoes_the_mean_over_processes(criterion, batch):
    output, counts = random_output(batch), criterion.counts(batch)
    once, thrice = criterion(output, batch, counts), criterion(output, batch, counts, world_size=3)
    for name, term in once.terms.items():
        assert thrice.terms[name].item() == pytest.approx(3 * term.item(), rel=1e-6), name


def gradients(losses: Losses, model: torch.nn.Module) -> dict[str, Tensor]:
    losses.total.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_two_micro_batches_have_the_gradient_of_one_batch():
    """For all terms but the contrast, whose pairs are within a micro-batch."""
    criterion = build_criterion(tiny_config("loss.contrast=0"), tiny_vocabularies())
    batch = tiny_batch(5, seed=3)
    known = torch.tensor([True, False, True, True, True])
    batch = with_regions(batch, graph_known=known)
    model = tiny_model()
    expected = gradients(criterion(teacher_forced(model, batch), batch, criterion.counts(batch)), model)
    model.zero_grad()
    parts = [studies_of(batch, [0, 1]), studies_of(batch, [2, 3, 4])]
    counts = sum(criterion.counts(part) for part in parts)
    for part in parts:
        criterion(teacher_forced(model, part), part, counts).total.backward()
    for name, parameter in model.named_parameters():
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5 * scale + 1e-7, rtol=1e-4, msg=name)
