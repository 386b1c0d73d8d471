"""The value of every loss term, computed by hand from its definition."""

import math
from dataclasses import replace

import pytest
import torch
from torchvision.ops import generalized_box_iou

from data.batch import Batch
from models.layers.masking import EXCLUDED
from modules.training.loss_terms import positive_weights
from modules.training.losses import ReportCriterion
from tests.support.tiny_model import (
    studies_of,
    teacher_forced,
    tiny_batch,
    tiny_model,
    with_regions,
    without_regions,
)
from tests.support.training.loss_cases import SLOTS, WEIGHTS, annotated, partly_annotated_batch, random_output, terms_of


@pytest.fixture
def criterion() -> ReportCriterion:
    return ReportCriterion(WEIGHTS, SLOTS, contrast_margin=0.4)


@pytest.fixture
def batch() -> Batch:
    return partly_annotated_batch()


def cross_entropy(logit: float, target: bool) -> float:
    """Binary cross-entropy of one logit."""
    probability = 1 / (1 + math.exp(-logit))
    return -math.log(probability if target else 1 - probability)


def mean(values: list[float]) -> float:
    assert values
    return sum(values) / len(values)


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


def test_a_positive_attribute_counts_its_weight(batch):
    weights = torch.linspace(1, 4, SLOTS.numel()).view_as(SLOTS)
    output = random_output(batch)
    expected = []
    for study, region in annotated(batch).nonzero().tolist():
        for slot in range(region % 5):
            positive = bool(batch.regions.attributes[study, region, slot])
            loss = cross_entropy(output.encoded.attribute_logits[study, region, slot].item(), positive)
            expected.append(loss * (weights[region, slot].item() if positive else 1))
    weighted = ReportCriterion(WEIGHTS, SLOTS, attribute_weights=weights)
    assert terms_of(weighted, output, batch)["attributes"] == pytest.approx(mean(expected), rel=1e-5)


def test_weights_of_positives_are_their_odds_within_bounds():
    positives, counts = torch.tensor([[25, 50, 90, 1, 0]]), torch.tensor([100])
    weights = positive_weights(positives, counts, cap=10)
    assert weights.tolist() == [[3, 1, 1, 10, 10]]
    assert positive_weights(torch.zeros(2, 3).long(), torch.zeros(2).long(), 4.0).tolist() == [[4, 4, 4]] * 2


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
            for second in studies:  # self-pairs included: they add a pair but no loss
                cosine = torch.cosine_similarity(vectors[first, region], vectors[second, region], dim=0).item()
                same = batch.regions.abnormal[first, region] == batch.regions.abnormal[second, region]
                expected.append(max(0.0, 1 - cosine) if same else max(0.0, cosine - 0.4))
    assert len(expected) > int(chosen.sum())
    assert terms_of(criterion, output, batch)["contrast"] == pytest.approx(mean(expected), abs=1e-6)


def test_one_box_by_hand(criterion):
    """Equal squares of side 1/2, shifted by 1/4 both ways: overlap 1/16, union 7/16, hull 9/16."""
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
        predicted, target = output.encoded.boxes[study, region], batch.regions.boxes[study, region]
        overlap = generalized_box_iou(predicted.unsqueeze(0), target.unsqueeze(0)).item()
        expected.append(5 * (predicted - target).abs().sum().item() + 2 * (1 - overlap))
    assert terms_of(criterion, output, batch)["boxes"] == pytest.approx(mean(expected), rel=1e-5)


def test_empty_boxes_have_finite_gradients(criterion, batch):
    output = random_output(batch)
    output.encoded.boxes.data[..., 2:] = output.encoded.boxes.data[..., :2]
    losses = criterion(output, batch, criterion.counts(batch))
    losses.terms["boxes"].backward()
    assert torch.isfinite(output.encoded.boxes.grad).all()


def grounded(batch: Batch) -> Batch:
    """Tokens 1 and 2 of every study are about regions 0 and 1."""
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
    attention = torch.full((3, batch.token_ids.shape[1] - 1, SLOTS.shape[0]), math.log(0.25))
    output.region_log_attention = attention.masked_fill(~selected.unsqueeze(1), EXCLUDED).requires_grad_()
    criterion = ReportCriterion({"grounding": 2.0}, SLOTS)
    counts = criterion.counts(batch)
    assert counts[ReportCriterion.TERMS.index("grounding")] == 4  # two tokens of each study that has region 0 or 1
    losses = criterion(output, batch, counts)
    assert losses.terms["grounding"].item() == pytest.approx(-math.log(0.25))
    assert losses.total.item() == pytest.approx(-2 * math.log(0.25))


@pytest.mark.parametrize("silent", ["no sentence was assigned to regions", "no study has a sub-graph"])
def test_grounding_is_an_exact_zero_without_a_word_about_a_subgraph(batch, silent):
    batch = replace(batch, token_regions=None) if silent.startswith("no sentence") else grounded(without_regions(batch))
    output = random_output(batch)
    output.encoded.graph = output.encoded.annotated_graph
    output.region_log_attention = torch.zeros(3, batch.token_ids.shape[1] - 1, SLOTS.shape[0], requires_grad=True)
    criterion = ReportCriterion({"grounding": 1.0}, SLOTS)
    losses = criterion(output, batch, criterion.counts(batch))
    losses.total.backward()
    assert losses.total.item() == 0.0 and not output.region_log_attention.grad.any()


def test_grounding_counts_the_tokens_that_it_sums(batch):
    """With a predicted graph, regions that are not annotated are not targets, and missing ones add 0."""
    mentioned = torch.zeros(3, SLOTS.shape[0], dtype=torch.bool)
    mentioned[:, 0] = True
    batch = grounded(with_regions(
        batch, mentioned=mentioned, graph_known=torch.ones(3, dtype=torch.bool),
        boxes_known=torch.zeros(3, dtype=torch.bool), visible=torch.zeros_like(mentioned),
    ))
    output = random_output(batch)
    predicted = torch.zeros_like(mentioned)
    predicted[0, :2] = predicted[1, 1] = True  # study 0: region 0 and one that is not annotated; study 1: only that
    output.encoded.graph = replace(output.encoded.annotated_graph, selected=predicted)
    log_attention = torch.full((3, batch.token_ids.shape[1] - 1, SLOTS.shape[0]), math.log(0.5))
    output.region_log_attention = log_attention.masked_fill(~predicted.unsqueeze(1), EXCLUDED)
    criterion = ReportCriterion({"grounding": 1.0}, SLOTS)
    counts = criterion.counts(batch)
    assert counts[ReportCriterion.TERMS.index("grounding")] == 6  # two tokens of each study
    losses = criterion(output, batch, counts)
    assert losses.terms["grounding"].item() == pytest.approx(-2 * math.log(0.5) / 6)


def test_grounding_has_a_gradient_where_attention_is_most_wrong():
    """Keys that favour another region so much that the attention to the right one is 0 in fp32."""
    model = tiny_model("model.decoder_layers=1").eval()
    batch = grounded(tiny_batch(2))
    attention = model.decoder.layers[0].graph_attention.attention
    with torch.no_grad():
        attention.query.weight.mul_(100)
        attention.key.weight.mul_(100)
    output = teacher_forced(model, batch)
    log_attention = output.region_log_attention
    assert log_attention[log_attention > EXCLUDED / 2].min() < -50
    criterion = ReportCriterion({"grounding": 1.0}, SLOTS)
    criterion(output, batch, criterion.counts(batch)).total.backward()
    assert torch.isfinite(attention.query.weight.grad).all() and attention.query.weight.grad.abs().max() > 1e-3
