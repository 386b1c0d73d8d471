"""What SGRRG may see: graph and box sources, user edits, mixed training."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data.batch import Batch
from models.outputs import BoxSource, GraphOverrides, GraphSource
from models.sgrrg import SGRRG, annotated_regions
from modules.model_inputs import model_inputs

# What the model may see
from tests.support.connected_model import CONNECTIONS, connected, generate, graph_of
from tests.support.tiny_model import (
    losses_of,
    teacher_forced,
    tiny_batch,
    tiny_model,
    tiny_vocabularies,
    with_regions,
    without_annotation,
    without_regions,
)


def other_annotation(batch: Batch) -> Batch:
    """`batch` with everything derived from the report replaced."""
    regions = batch.regions
    changed = with_regions(
        batch, boxes=1 - regions.boxes[..., [2, 3, 0, 1]], visible=~regions.visible, mentioned=~regions.mentioned,
        abnormal=~regions.abnormal, attributes=~regions.attributes, graph_known=~regions.graph_known,
        boxes_known=~regions.boxes_known,
    )
    return replace(
        changed, observations=1 - batch.observations, observations_known=~batch.observations_known,
        token_ids=(batch.token_ids + 3) % 20, token_mask=~batch.token_mask, references=["nothing"] * len(batch),
    )


@pytest.mark.parametrize("box_source", [BoxSource.LOCALIZER, BoxSource.ATLAS, BoxSource.FILE])
@pytest.mark.parametrize("graph_source", [GraphSource.PREDICTED, GraphSource.NONE])
def test_nothing_of_the_report_reaches_the_model(graph_source, box_source):
    model, batch = tiny_model("model.graph_in=both").eval(), tiny_batch(3)
    before = generate(model, batch, graph_source, box_source)
    after = generate(model, other_annotation(batch), graph_source, box_source)
    assert torch.equal(before.token_ids, after.token_ids) and torch.equal(before.scores, after.scores)
    assert torch.equal(before.encoded.memory, after.encoded.memory)
    for name in ("region_logits", "attribute_logits", "observation_logits", "boxes", "visible_logits"):
        first, second = getattr(before.encoded, name), getattr(after.encoded, name)
        assert (first is None and second is None) or torch.equal(first, second), name
    if graph_source == GraphSource.PREDICTED:
        for name, value in graph_of(before.encoded).items():
            assert torch.equal(value, graph_of(after.encoded)[name]), name


def test_images_alone_are_enough():
    model, batch = tiny_model().eval(), tiny_batch(3)
    bare = replace(without_annotation(batch), token_ids=torch.zeros(3, 0, dtype=torch.long), references=[""] * 3)
    assert torch.equal(generate(model, bare).token_ids, generate(model, batch).token_ids)


def test_oracle_sees_the_annotated_graph():
    model, batch = tiny_model().eval(), tiny_batch(3)
    regions = batch.regions
    oracle = generate(model, batch, GraphSource.ORACLE).encoded
    assert torch.equal(oracle.graph.selected, regions.visible & regions.mentioned)
    assert torch.equal(oracle.graph.boxes, regions.boxes)
    assert torch.equal(oracle.graph.attributes, regions.attributes & oracle.graph.selected.unsqueeze(-1))
    assert oracle.graph is oracle.annotated_graph
    predicted = generate(model, batch).encoded
    assert not torch.equal(predicted.graph.selected, oracle.graph.selected)
    without_report = generate(model, other_annotation(batch), GraphSource.ORACLE).encoded
    assert not without_report.graph.selected.any()


def test_no_graph_source_leaves_the_decoder_without_graph():
    model, batch = tiny_model().eval(), tiny_batch(3)
    without = generate(model, batch, GraphSource.NONE)
    assert without.encoded.graph is None and without.encoded.region_logits is not None
    nothing_annotated = generate(model, without_regions(batch), GraphSource.ORACLE)
    assert torch.equal(without.token_ids, nothing_annotated.token_ids)


def test_written_words_tell_where_they_looked():
    model, batch = tiny_model().eval(), tiny_batch(3)
    written = generate(model, batch, GraphSource.ORACLE, with_region_attention=True)
    assert generate(model, batch, GraphSource.ORACLE).region_attention is None
    looked, selected = written.region_attention, written.encoded.graph.selected
    real = (written.token_log_probs < 0).unsqueeze(-1)
    assert selected.any(1).tolist() != [False] * 3
    shares = (real & selected.any(1)[:, None, None]).float()
    torch.testing.assert_close(looked.sum(-1, keepdim=True), shares)
    assert not looked[(~selected).unsqueeze(1).expand_as(looked)].any()


def test_without_a_graph_in_the_decoder_no_word_tells_where_it_looked():
    batch = tiny_batch(3)
    asked = {"with_region_attention": True}
    assert generate(tiny_model().eval(), batch, GraphSource.NONE, **asked).region_attention is None
    assert generate(tiny_model("model.graph_in=encoder").eval(), batch, **asked).region_attention is None
    assert generate(tiny_model("model.graph_in=none").eval(), batch, **asked).region_attention is None


def test_predicted_graph_follows_the_thresholds():
    model, batch = tiny_model().eval(), tiny_batch(3)
    encoded = generate(model, batch).encoded
    visible = torch.sigmoid(encoded.visible_logits) > 0.5
    selected = visible & (torch.sigmoid(encoded.region_logits) > 0.2)
    assert torch.equal(encoded.graph.selected, selected) and torch.equal(encoded.attribute_regions, visible)
    given = (torch.sigmoid(encoded.attribute_logits) > 0.5) & tiny_vocabularies().attributes.slots()
    assert torch.equal(encoded.graph.attributes, given & selected.unsqueeze(-1))
    strict = tiny_model("model.region_threshold=1", "model.visible_threshold=0.3").eval()
    assert not generate(strict, batch).encoded.graph.selected.any()
    # Padding slots have the logit 0, a probability of one half.
    generous = generate(tiny_model("model.attribute_threshold=0.1").eval(), batch).encoded.graph
    assert generous.attributes.sum() > encoded.graph.attributes.sum()
    assert not (generous.attributes & ~tiny_vocabularies().attributes.slots()).any()


def test_every_region_and_attribute_has_its_own_threshold():
    model, batch = tiny_model("model.region_threshold=0", "model.attribute_threshold=0").eval(), tiny_batch(3)
    assert not any("thresholds" in name for name in model.state_dict())  # checkpoints stay as they were
    before = generate(model, batch).encoded.graph
    region, slot = before.attributes.any(0).nonzero()[0].tolist()
    model.graph.attribute_thresholds[region, slot] = 1
    without_attribute = generate(model, batch).encoded.graph
    changed = before.attributes.clone()
    changed[:, region, slot] = False
    assert torch.equal(without_attribute.attributes, changed)
    model.graph.region_thresholds[region] = 1
    without_region = generate(model, batch).encoded.graph
    changed = before.selected.clone()
    changed[:, region] = False
    assert torch.equal(without_region.selected, changed)


def test_boxes_follow_their_source():
    model, batch = tiny_model().eval(), tiny_batch(3)

    def encode(box_source: BoxSource):
        return generate(model, batch, GraphSource.PREDICTED, box_source).encoded

    localized = encode(BoxSource.LOCALIZER)
    assert torch.equal(localized.graph.boxes, localized.boxes.clamp(0, 1))
    assert not torch.equal(localized.graph.boxes, localized.boxes)
    assert torch.equal(encode(BoxSource.ATLAS).graph.boxes, tiny_vocabularies().anatomy.boxes.expand(3, -1, -1))
    assert encode(BoxSource.ATLAS).attribute_regions.all()
    given = encode(BoxSource.FILE)
    assert torch.equal(given.graph.boxes, batch.detector_boxes)
    assert torch.equal(given.attribute_regions, batch.detector_visible)


def test_oracle_boxes_show_boxes_alone():
    model, batch = tiny_model().eval(), tiny_batch(3)
    before = generate(model, batch, GraphSource.PREDICTED, BoxSource.ORACLE_BOXES)
    assert torch.equal(before.encoded.graph.boxes, batch.regions.boxes)
    assert torch.equal(before.encoded.attribute_regions, batch.regions.visible)
    kept = {name: getattr(batch.regions, name) for name in ("boxes", "visible")}
    other = with_regions(other_annotation(batch), **kept)
    after = generate(model, other, GraphSource.PREDICTED, BoxSource.ORACLE_BOXES)
    assert torch.equal(before.token_ids, after.token_ids) and torch.equal(before.scores, after.scores)


def test_lateral_image_has_no_predicted_subgraph():
    model, batch = tiny_model().eval(), tiny_batch(3)
    lateral = replace(batch, frontal=torch.tensor([True, False, True]))
    selected = generate(model, lateral).encoded.graph.selected
    assert selected.any(1).tolist() == [True, False, True]


def no_overrides(studies: int) -> GraphOverrides:
    """Overrides that change nothing."""
    slots = tiny_vocabularies().attributes.slots().expand(studies, -1, -1)
    regions, attributes = torch.zeros_like(slots[..., 0]), torch.zeros_like(slots)
    return GraphOverrides(
        torch.zeros(*regions.shape, 4), *(regions.clone() for _ in range(3)), *(attributes.clone() for _ in range(2))
    )


def overridden(model: SGRRG, batch: Batch, overrides: GraphOverrides | None) -> dict[str, Tensor]:
    """The predicted graph."""
    sources = (GraphSource.PREDICTED, BoxSource.LOCALIZER)
    inputs = replace(model_inputs(batch, *sources), overrides=overrides)
    with torch.no_grad():
        return graph_of(model.encode(inputs, *sources))


def test_overrides_replace_the_models_choices_and_no_others():
    model, batch = tiny_model().eval(), tiny_batch(2)
    plain, overrides = overridden(model, batch, None), no_overrides(2)
    for name, value in overridden(model, batch, overrides).items():
        assert torch.equal(value, plain[name]), name
    region = int(plain["attributes"][1].any(-1).nonzero()[0])
    other = int((~plain["selected"][1]).nonzero()[0])
    slot = int(plain["attributes"][1, region].nonzero()[0])
    overrides.regions_on[1, other] = True
    overrides.attributes_off[1, region, slot] = True
    overrides.attributes_on[1, other] = True
    overrides.boxes[1, other], overrides.box_overridden[1, other] = torch.tensor([0.1, 0.2, 0.3, 0.4]), True
    changed = overridden(model, batch, overrides)
    for name, value in changed.items():
        if name not in ("nodes", "node_mask"):  # padded to the largest sub-graph of the batch
            assert torch.equal(value[0], plain[name][0]), name
    assert changed["selected"][1, other] and not changed["attributes"][1, region, slot]
    assert torch.equal(changed["attributes"][1, other], tiny_vocabularies().attributes.slots()[other])
    assert changed["boxes"][1, other].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    untouched = [r for r in range(29) if r not in (region, other)]
    for name in ("selected", "boxes", "attributes", "embeddings"):
        assert torch.equal(changed[name][1, untouched], plain[name][1, untouched]), name
    overrides.regions_off[:] = True
    assert not overridden(model, batch, overrides)["selected"].any()


def test_overrides_put_no_region_into_a_lateral_image():
    model, batch, overrides = tiny_model().eval(), tiny_batch(2), no_overrides(2)
    overrides.regions_on[:] = True
    batch = replace(batch, frontal=torch.tensor([True, False]))
    assert overridden(model, batch, overrides)["selected"].sum(1).tolist() == [29, 0]


def test_model_without_localizer_needs_other_boxes():
    model, batch = tiny_model("model.localizer=false", "eval.box_source=atlas").eval(), tiny_batch(2)
    with pytest.raises(ValueError, match="box_source localizer needs a model with model.localizer=true"):
        generate(model, batch)
    assert generate(model, batch, box_source=BoxSource.ATLAS).encoded.boxes is None


def test_annotated_regions_need_boxes_only_where_boxes_are_annotated():
    batch = tiny_batch(2)
    annotation = model_inputs(batch, GraphSource.ORACLE, BoxSource.LOCALIZER).annotation
    mentioned, visible = annotation.mentioned, annotation.visible
    assert torch.equal(annotated_regions(annotation), mentioned & visible)
    annotation.boxes_known[0] = False
    annotation.graph_known[1] = False
    assert torch.equal(annotated_regions(annotation)[0], mentioned[0])
    assert not annotated_regions(annotation)[1].any()


def test_study_with_a_graph_but_no_boxes_borrows_boxes():
    model, batch = tiny_model().eval(), tiny_batch(2)
    known = torch.tensor([True, False])
    zeros = batch.regions.boxes * known[:, None, None], batch.regions.visible & known[:, None]
    batch = with_regions(batch, boxes=zeros[0], visible=zeros[1], boxes_known=known)
    encoded = teacher_forced(model, batch).encoded
    assert torch.equal(encoded.graph.selected[1], batch.regions.mentioned[1])
    assert torch.equal(encoded.graph.boxes[0], batch.regions.boxes[0])
    seen = torch.sigmoid(encoded.visible_logits[1]) > model.graph.visible_threshold
    borrowed = torch.where(seen.unsqueeze(1), encoded.boxes[1].clamp(0, 1), model.graph.atlas)
    assert seen.any() and not seen.all() and torch.equal(encoded.graph.boxes[1], borrowed)


# Mixed training


@pytest.mark.parametrize(("encode", "sentence_attention"), CONNECTIONS)
def test_mixed_goes_from_oracle_to_predicted(encode, sentence_attention):
    model, batch = connected(encode, sentence_attention).eval(), tiny_batch(3)
    for probability, source in ((0.0, GraphSource.ORACLE), (1.0, GraphSource.PREDICTED)):
        mixed = teacher_forced(model, batch, GraphSource.MIXED, mixing_probability=probability)
        pure = teacher_forced(model, batch, source)
        torch.testing.assert_close(mixed.word_logits, pure.word_logits)
        selected = pure.encoded.graph.selected
        assert torch.equal(mixed.encoded.graph.selected, selected)
        for name in ("boxes", "attributes", "embeddings"):
            torch.testing.assert_close(graph_of(mixed.encoded)[name][selected], graph_of(pure.encoded)[name][selected])


def test_mixed_draws_study_by_study_from_the_generator():
    model, batch = tiny_model().eval(), tiny_batch(6)
    torch.manual_seed(1)
    drawn = torch.rand(6) < 0.5
    assert 0 < drawn.sum() < 6
    torch.manual_seed(1)
    mixed = teacher_forced(model, batch, GraphSource.MIXED, mixing_probability=0.5).encoded.graph
    oracle = teacher_forced(model, batch).encoded.graph
    predicted = teacher_forced(model, batch, GraphSource.PREDICTED).encoded.graph
    assert torch.equal(mixed.selected, torch.where(drawn.unsqueeze(1), predicted.selected, oracle.selected))
    assert not torch.equal(predicted.selected, oracle.selected)


def test_mixed_predicts_no_graph_that_nobody_will_see(monkeypatch):
    model, batch = tiny_model().eval(), tiny_batch(3)
    pooled, pooler = [], model.graph.pooler.forward

    def watched(grid: Tensor, boxes: Tensor, regions: Tensor, count: int | None = None) -> Tensor:
        pooled.append(int(regions.sum()))
        return pooler(grid, boxes, regions, count)

    monkeypatch.setattr(model.graph.pooler, "forward", watched)
    teacher_forced(model, batch, GraphSource.MIXED, mixing_probability=0.0)
    teacher_forced(model, batch, GraphSource.MIXED, mixing_probability=1.0)
    annotated = int((batch.regions.visible & batch.regions.mentioned).sum())
    assert pooled[:3] == [annotated, 0, annotated] and pooled[3] > 0


@pytest.mark.parametrize("graph_source", [GraphSource.PREDICTED, GraphSource.MIXED, GraphSource.NONE])
def test_graph_losses_use_annotated_regions_whatever_the_decoder_sees(graph_source):
    model, batch = tiny_model().eval(), tiny_batch(3)
    found = losses_of(model, batch, graph_source, mixing_probability=1.0).terms
    expected = losses_of(model, batch).terms
    for name in ("observations", "regions", "attributes", "contrast", "boxes", "visibility"):
        assert torch.equal(found[name], expected[name]), name
    assert not torch.allclose(found["report"], expected["report"])


def test_no_gradient_flows_through_the_choice_of_boxes_and_regions():
    model, batch = tiny_model("model.graph_in=both", "model.roi=align"), tiny_batch(3)
    output = teacher_forced(model, batch, GraphSource.PREDICTED)
    assert output.encoded.graph.selected.any() and not output.encoded.graph.boxes.requires_grad
    output.word_logits.square().sum().backward()
    untouched = ("graph.localizer.", "graph.selector.", "graph.attribute_predictor.")
    for name, parameter in model.named_parameters():
        if name.startswith(untouched):
            assert parameter.grad is None or (parameter.grad == 0).all(), name
    assert model.graph.pooler.project.weight.grad.abs().sum() > 0
    assert model.graph.encoder.attribute_embedding.weight.grad.abs().sum() > 0
