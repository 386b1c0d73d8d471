"""Every loss term by hand, what it divides by, and what becomes of it over micro-batches."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou

from data.batch import Batch
from models.outputs import Encoded, SceneGraph, SGRRGOutput
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

WEIGHTS = {"report": 1.0, "observations": 0.25, "regions": 0.5, "attributes": 0.1, "contrast": 0.2, "boxes": 1.0,
           "visibility": 0.3}
SLOTS = tiny_vocabularies().attributes.slots()


@pytest.fixture
def criterion() -> ReportCriterion:
    return ReportCriterion(WEIGHTS, SLOTS, contrast_margin=0.4)


@pytest.fixture
def batch() -> Batch:
    """Three studies: the second without graph labels, the third with labels but without boxes."""
    full = tiny_batch(3, seed=2)
    regions, boxes_known = full.regions, torch.tensor([True, True, False])
    known = torch.tensor([True, False, True])
    return with_regions(
        full, graph_known=known, boxes_known=boxes_known, visible=regions.visible & boxes_known.unsqueeze(1),
        boxes=regions.boxes * boxes_known[:, None, None], mentioned=regions.mentioned & known.unsqueeze(1),
        abnormal=regions.abnormal & known.unsqueeze(1), attributes=regions.attributes & known[:, None, None],
    )


def annotated(batch: Batch) -> Tensor:
    regions = batch.regions
    return regions.mentioned & (regions.visible | ~regions.boxes_known.unsqueeze(1))


def random_output(batch: Batch, seed: int = 0) -> SGRRGOutput:
    """Made-up answers to `batch`."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, requires_grad=True)

    studies, regions, attributes = len(batch), *SLOTS.shape
    selected = annotated(batch)
    embeddings = draw(studies, regions, 6)
    graph = SceneGraph(
        selected, batch.regions.boxes, batch.regions.attributes, embeddings * selected.unsqueeze(-1),
        torch.zeros(studies, regions, 1, 6), selected.unsqueeze(-1),
    )
    corner = torch.rand(studies, regions, 2, generator=generator) * 0.7
    encoded = Encoded(
        memory=torch.zeros(studies, 1, 6), memory_mask=torch.ones(studies, 1, dtype=torch.bool), annotated_graph=graph,
        attribute_logits=draw(studies, regions, attributes), attribute_regions=selected,
        region_logits=draw(studies, regions), boxes=torch.cat([corner, corner + 0.25], -1).requires_grad_(),
        visible_logits=draw(studies, regions), observation_logits=draw(studies, 14),
    )
    return SGRRGOutput(encoded, draw(studies, batch.token_ids.shape[1] - 1, 23))


def cross_entropy(logit: float, target: bool) -> float:
    """Binary cross-entropy of one logit."""
    probability = 1 / (1 + math.exp(-logit))
    return -math.log(probability if target else 1 - probability)


def mean(values: list[float]) -> float:
    assert values
    return sum(values) / len(values)


def terms_of(criterion: ReportCriterion, output: SGRRGOutput, batch: Batch) -> dict[str, float]:
    return {name: term.item() for name, term in criterion(output, batch, criterion.counts(batch)).terms.items()}


# Values


def test_report_is_the_mean_over_real_next_words(criterion, batch):
    output = random_output(batch)
    expected = []
    for study in range(3):
        for position in range(1, int(batch.token_mask[study].sum())):
            probabilities = output.word_logits[study, position - 1].softmax(-1)
            expected.append(-math.log(probabilities[batch.token_ids[study, position]].item()))
    assert len(expected) == 7 + 5 + 3
    assert terms_of(criterion, output, batch)["report"] == pytest.approx(mean(expected), rel=1e-5)


def test_observations_are_the_mean_over_known_labels(criterion, batch):
    output = random_output(batch)
    expected = [
        cross_entropy(output.encoded.observation_logits[study, name].item(), bool(batch.observations[study, name]))
        for study, name in batch.observations_known.nonzero().tolist()
    ]
    assert 0 < len(expected) < 3 * 14
    assert terms_of(criterion, output, batch)["observations"] == pytest.approx(mean(expected), rel=1e-5)


def test_regions_are_the_mean_over_annotated_studies(criterion, batch):
    output = random_output(batch)
    expected = [
        cross_entropy(output.encoded.region_logits[study, region].item(), bool(batch.regions.mentioned[study, region]))
        for study in (0, 2) for region in range(29)
    ]
    assert terms_of(criterion, output, batch)["regions"] == pytest.approx(mean(expected), rel=1e-5)


def test_attributes_are_the_mean_over_those_that_annotated_regions_can_have(criterion, batch):
    output = random_output(batch)
    expected = [
        cross_entropy(output.encoded.attribute_logits[study, region, slot].item(),
                      bool(batch.regions.attributes[study, region, slot]))
        for study, region in annotated(batch).nonzero().tolist() for slot in range(region % 5)
    ]
    assert terms_of(criterion, output, batch)["attributes"] == pytest.approx(mean(expected), rel=1e-5)


def test_visibility_is_the_mean_over_studies_with_boxes(criterion, batch):
    output = random_output(batch)
    expected = [
        cross_entropy(output.encoded.visible_logits[study, region].item(), bool(batch.regions.visible[study, region]))
        for study in (0, 1) for region in range(29)
    ]
    assert terms_of(criterion, output, batch)["visibility"] == pytest.approx(mean(expected), rel=1e-5)


def test_contrast_is_the_mean_over_ordered_pairs_of_the_same_region(criterion, batch):
    output = random_output(batch)
    vectors, chosen = output.encoded.annotated_graph.embeddings, annotated(batch)
    expected = []
    for region in range(29):
        studies = chosen[:, region].nonzero().flatten().tolist()
        for first in studies:
            for second in studies:  # self-pairs included: they add a pair and no loss
                cosine = torch.cosine_similarity(vectors[first, region], vectors[second, region], dim=0).item()
                same = batch.regions.abnormal[first, region] == batch.regions.abnormal[second, region]
                expected.append(max(0.0, 1 - cosine) if same else max(0.0, cosine - 0.4))
    assert len(expected) > int(chosen.sum())
    assert terms_of(criterion, output, batch)["contrast"] == pytest.approx(mean(expected), abs=1e-6)


def test_one_box_by_hand(criterion):
    """Equal squares of side 1/2, moved by 1/4 both ways: overlap 1/16, union 7/16, hull 9/16."""
    batch = studies_of(tiny_batch(1), [0])
    visible = torch.zeros(1, 29, dtype=torch.bool)
    visible[0, 3] = True
    target = torch.zeros(1, 29, 4)
    target[0, 3] = torch.tensor([0.25, 0.25, 0.75, 0.75])
    batch = with_regions(batch, visible=visible, boxes=target)
    output = random_output(batch)
    output.encoded.boxes.data[0, 3] = torch.tensor([0.0, 0.0, 0.5, 0.5])
    expected = 5 * (4 * 0.25) + 2 * (1 - (1 / 7 - 2 / 9))
    assert terms_of(criterion, output, batch)["boxes"] == pytest.approx(expected, rel=1e-5)


def test_boxes_are_the_mean_over_visible_ones(criterion, batch):
    output = random_output(batch)
    expected = []
    for study, region in batch.regions.visible.nonzero().tolist():
        found, target = output.encoded.boxes[study, region], batch.regions.boxes[study, region]
        overlap = generalized_box_iou(found.unsqueeze(0), target.unsqueeze(0)).item()
        expected.append(5 * (found - target).abs().sum().item() + 2 * (1 - overlap))
    assert terms_of(criterion, output, batch)["boxes"] == pytest.approx(mean(expected), rel=1e-5)


def test_empty_boxes_have_finite_gradients(criterion, batch):
    output = random_output(batch)
    output.encoded.boxes.data[..., 2:] = output.encoded.boxes.data[..., :2]
    losses = criterion(output, batch, criterion.counts(batch))
    losses.terms["boxes"].backward()
    assert torch.isfinite(output.encoded.boxes.grad).all()


def test_total_is_the_weighted_sum(criterion, batch):
    losses = criterion(random_output(batch), batch, criterion.counts(batch))
    assert tuple(losses.terms) == tuple(WEIGHTS)
    expected = sum(WEIGHTS[name] * term.item() for name, term in losses.terms.items())
    assert losses.total.item() == pytest.approx(expected, rel=1e-6)


def test_weights_of_unknown_terms_are_refused():
    with pytest.raises(AssertionError, match=r"unknown loss terms \['grammar'\]"):
        ReportCriterion({"grammar": 1.0}, SLOTS)


# What does not count


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
    for tensor in (output.word_logits, encoded.boxes):
        tensor.retain_grad()
    criterion(output, batch, criterion.counts(batch)).total.backward()
    assert (output.word_logits.grad[~batch.token_mask[:, 1:]] == 0).all()
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
    losses = criterion(SGRRGOutput(bare, output.word_logits), batch, criterion.counts(batch))
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
        "grounding": about.any(-1).sum().item(),
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
    """For all terms but the contrast, whose pairs lie within a micro-batch."""
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


def grounded(batch: Batch) -> Batch:
    """Words 1 and 2 of every study are about regions 0 and 1."""
    about = torch.zeros(*batch.token_ids.shape, SLOTS.shape[0], dtype=torch.bool)
    about[:, 1:3, :2] = True
    return replace(batch, token_regions=about)


def test_grounding_is_minus_the_log_of_the_weight_on_the_regions_of_the_sentence(batch):
    batch = grounded(with_regions(
        batch, mentioned=torch.eye(3, SLOTS.shape[0], dtype=torch.bool), graph_known=torch.ones(3, dtype=torch.bool),
        boxes_known=torch.zeros(3, dtype=torch.bool), visible=torch.zeros(3, SLOTS.shape[0], dtype=torch.bool),
    ))
    output = random_output(batch)
    selected = annotated(batch)  # region 0 of study 0, region 1 of study 1, region 2 of study 2
    output.encoded.graph = output.encoded.annotated_graph
    attention = torch.full((3, batch.token_ids.shape[1] - 1, SLOTS.shape[0]), 0.25) * selected.unsqueeze(1)
    output.region_attention = attention.requires_grad_()
    criterion = ReportCriterion({"grounding": 2.0}, SLOTS)
    counts = criterion.counts(batch)
    assert counts[-1] == 4  # two words of each study that has region 0 or 1
    losses = criterion(output, batch, counts)
    assert losses.terms["grounding"].item() == pytest.approx(-math.log(0.25))
    assert losses.total.item() == pytest.approx(-2 * math.log(0.25))


@pytest.mark.parametrize("silent", ["nobody read the sentences", "no study has a sub-graph"])
def test_grounding_is_an_exact_zero_without_a_word_about_a_subgraph(batch, silent):
    batch = replace(batch, token_regions=None) if silent.startswith("nobody") else grounded(without_regions(batch))
    output = random_output(batch)
    output.encoded.graph = output.encoded.annotated_graph
    output.region_attention = torch.zeros(3, batch.token_ids.shape[1] - 1, SLOTS.shape[0], requires_grad=True)
    criterion = ReportCriterion({"grounding": 1.0}, SLOTS)
    losses = criterion(output, batch, criterion.counts(batch))
    losses.total.backward()
    assert losses.total.item() == 0.0 and not output.region_attention.grad.any()
