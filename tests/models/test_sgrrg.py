"""The whole model: what it may see, what must not matter, every switch, and every device."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from data.batch import Batch
from models import beam_search, patch_encoder, region_pooler, scene_graph_encoder
from models.layers import masking
from models.outputs import BoxSource, Generation, GraphOverrides, GraphSource
from models.patch_encoder import PatchEncoder
from models.sgrrg import SGRRG, annotated_regions
from modules.builders import build_criterion
from modules.config import Config
from modules.model_inputs import model_inputs
from modules.training.losses import Losses
from tests.support.reference_search import greedy, reference_search
from tests.support.tiny_model import (
    CHANNELS,
    LONGEST,
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

ENCODES = ["oa-c", "oa-d", "oa-pm"]
SENTENCE_ATTENTIONS = ["subgraph", "hierarchical", "node"]
CONNECTIONS = [(encode, attention) for encode in ENCODES for attention in SENTENCE_ATTENTIONS]


def connected(encode: str, sentence_attention: str, *overrides: str, seed: int = 0) -> SGRRG:
    settings = (f"model.encode={encode}", f"model.sentence_attention={sentence_attention}", *overrides)
    return tiny_model(*settings, seed=seed)


def generate(
    model: SGRRG, batch: Batch, graph_source: GraphSource = GraphSource.PREDICTED,
    box_source: BoxSource = BoxSource.LOCALIZER, beam_size: int = 2, max_tokens: int = LONGEST, **settings,
) -> Generation:
    inputs = model_inputs(batch, graph_source, box_source)
    with torch.no_grad():
        return model.generate(inputs, graph_source, box_source, beam_size, max_tokens, **settings)


def graph_of(encoded) -> dict[str, Tensor]:
    return vars(encoded.graph)


def assert_finite_gradients(model: SGRRG, losses: Losses) -> None:
    """Backpropagate; every parameter has a gradient, and it is finite."""
    model.zero_grad()
    losses.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} is cut off"
        assert torch.isfinite(parameter.grad).all(), name


# What must not matter


def test_padding_tokens_change_nothing():
    model, batch = tiny_model().eval(), tiny_batch(3)
    garbage = replace(batch, token_ids=batch.token_ids.masked_fill(~batch.token_mask, 7))
    before, after = teacher_forced(model, batch), teacher_forced(model, garbage)
    kept = batch.token_mask[:, :-1]
    assert torch.equal(before.word_logits[kept], after.word_logits[kept])
    for name, term in losses_of(model, batch).terms.items():
        assert torch.equal(term, losses_of(model, garbage).terms[name]), name


@pytest.mark.parametrize("graph_in", ["decoder", "both"])
@pytest.mark.parametrize(("encode", "sentence_attention"), CONNECTIONS)
def test_regions_without_subgraph_change_nothing(encode, sentence_attention, graph_in):
    model, batch = connected(encode, sentence_attention, f"model.graph_in={graph_in}").eval(), tiny_batch(3)
    regions = batch.regions
    unselected = ~(regions.visible & regions.mentioned)
    slots = tiny_vocabularies().attributes.slots()
    garbage = with_regions(
        batch,
        boxes=torch.where(regions.visible.unsqueeze(-1), regions.boxes, torch.tensor([0.2, 0.1, 0.7, 0.9])),
        attributes=regions.attributes | (unselected.unsqueeze(-1) & slots),
        abnormal=regions.abnormal | unselected,
    )
    before, after = teacher_forced(model, batch), teacher_forced(model, garbage)
    assert torch.equal(before.word_logits, after.word_logits)
    assert torch.equal(before.encoded.graph.embeddings, after.encoded.graph.embeddings)
    for name, term in losses_of(model, batch).terms.items():
        assert torch.equal(term, losses_of(model, garbage).terms[name]), name


@pytest.mark.parametrize("graph_source", [GraphSource.ORACLE, GraphSource.PREDICTED])
@pytest.mark.parametrize(("encode", "sentence_attention"), CONNECTIONS)
def test_two_studies_equal_one_and_one(encode, sentence_attention, graph_source):
    model = connected(encode, sentence_attention, "model.graph_in=both").eval()
    batch = tiny_batch(3, seed=4)
    together = teacher_forced(model, batch, graph_source)
    written = generate(model, batch, graph_source)
    assert together.encoded.graph.selected.any(1).all()
    for study in range(3):
        one = studies_of(batch, [study])
        alone = teacher_forced(model, one, graph_source)
        torch.testing.assert_close(alone.word_logits[0], together.word_logits[study], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            alone.encoded.graph.embeddings[0], together.encoded.graph.embeddings[study], atol=1e-5, rtol=1e-4
        )
        assert torch.equal(generate(model, one, graph_source).token_ids[0], written.token_ids[study])


def test_missing_second_view_changes_nothing():
    model, batch = tiny_model().eval(), tiny_batch(2, views=2)
    one_view = replace(batch, images=batch.images[:, :1], view_mask=batch.view_mask[:, :1])
    missing = replace(batch, view_mask=torch.tensor([[True, False], [True, False]]))
    expected, found = teacher_forced(model, one_view), teacher_forced(model, missing)
    torch.testing.assert_close(found.word_logits, expected.word_logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.encoded.region_logits, expected.encoded.region_logits, atol=1e-5, rtol=1e-4)
    assert torch.equal(generate(model, missing).token_ids, generate(model, one_view).token_ids)
    second_seen = teacher_forced(model, batch)
    assert not torch.allclose(second_seen.word_logits, expected.word_logits, atol=1e-3)
    assert torch.equal(second_seen.encoded.boxes, expected.encoded.boxes)  # regions live on the frontal view


# Words


def teacher_forced_logits(model: SGRRG, batch: Batch, study: int):
    """Next-word logits of one study after a list of words, each time from the beginning."""
    one = studies_of(batch, [study])
    inputs = model_inputs(one, GraphSource.PREDICTED, BoxSource.LOCALIZER)

    def logits(words: list[int]) -> Tensor:
        token_ids = torch.tensor([[model.bos_id, *words, model.pad_id]])
        with torch.no_grad():
            real = torch.ones_like(token_ids, dtype=torch.bool)
            return model(inputs, token_ids, real, GraphSource.PREDICTED, BoxSource.LOCALIZER).word_logits[0, -1]

    return logits


@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("sentence_attention", SENTENCE_ATTENTIONS)
def test_decoding_equals_an_uncached_search(sentence_attention, distinct):
    vocabularies = tiny_vocabularies(distinct)
    model = tiny_model(f"model.sentence_attention={sentence_attention}", seed=3, vocabularies=vocabularies).eval()
    batch = tiny_batch(2, seed=5, vocabularies=vocabularies)
    forbidden = {model.bos_id, model.pad_id} - {model.eos_id}
    best, first = generate(model, batch, beam_size=3), generate(model, batch, beam_size=1)
    for study in range(2):
        logits = teacher_forced_logits(model, batch, study)
        expected, score, _ = reference_search(logits, 3, LONGEST - 1, model.eos_id, forbidden)
        assert best.token_ids[study, : len(expected)].tolist() == expected
        assert (best.token_ids[study, len(expected) :] == model.pad_id).all()
        assert best.scores[study].item() == pytest.approx(score, abs=1e-4)
        plain = greedy(logits, LONGEST - 1, model.eos_id, forbidden)
        assert first.token_ids[study, : len(plain)].tolist() == plain
        assert (first.token_ids[study, len(plain) :] == model.pad_id).all()


def test_sampling_follows_its_generator():
    model, batch = tiny_model().eval(), tiny_batch(3)

    def draw(seed: int) -> Tensor:
        return generate(model, batch, sampled=True, generator=torch.Generator().manual_seed(seed)).token_ids

    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))
    assert draw(0).shape == (3, LONGEST - 1)


# What the model may see


def other_annotation(batch: Batch) -> Batch:
    """`batch` with everything that comes from the report turned into something else."""
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
    # Padding slots hold the logit 0, a probability of one half.
    generous = generate(tiny_model("model.attribute_threshold=0.1").eval(), batch).encoded.graph
    assert generous.attributes.sum() > encoded.graph.attributes.sum()
    assert not (generous.attributes & ~tiny_vocabularies().attributes.slots()).any()


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
    overrides.boxes[1, other], overrides.boxes_given[1, other] = torch.tensor([0.1, 0.2, 0.3, 0.4]), True
    changed = overridden(model, batch, overrides)
    for name, value in changed.items():
        if name not in ("nodes", "node_mask"):  # padded to the fullest sub-graph of the batch
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

    def watched(grid: Tensor, boxes: Tensor, regions: Tensor) -> Tensor:
        pooled.append(int(regions.sum()))
        return pooler(grid, boxes, regions)

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


# Training on little


@pytest.mark.parametrize("graph_source", [GraphSource.ORACLE, GraphSource.MIXED])
@pytest.mark.parametrize("reduce", [without_regions, without_annotation])
@pytest.mark.parametrize(("encode", "sentence_attention"), CONNECTIONS)
def test_batches_without_regions_or_annotation_train(encode, sentence_attention, reduce, graph_source):
    overrides = ("model.graph_in=both", "model.fuse=concat", "model.gate=true", "model.dropout=0.1")
    model, batch = connected(encode, sentence_attention, *overrides), reduce(tiny_batch(3))
    losses = losses_of(model, batch, graph_source, mixing_probability=0.5)
    assert torch.isfinite(losses.total) and losses.terms["contrast"] == 0 and losses.terms["attributes"] == 0
    assert_finite_gradients(model, losses)


def test_fully_annotated_batch_reaches_every_parameter():
    model = tiny_model("model.graph_in=both", "model.fuse=concat", "model.gate=true")
    assert_finite_gradients(model, losses_of(model, tiny_batch(3)))
    # Softmax does not feel a bias of the keys: that gradient is zero but for rounding.
    silent = [name for name, p in model.named_parameters() if (p.grad == 0).all() and not name.endswith("key.bias")]
    assert silent == []


# Every switch


SWITCHES = {
    **{f"{encode}, {attention}": (f"model.encode={encode}", f"model.sentence_attention={attention}")
       for encode, attention in CONNECTIONS},
    **{f"{attention}, {graph_in}, {fuse}, gate {gate}": (
        f"model.sentence_attention={attention}", f"model.graph_in={graph_in}", f"model.fuse={fuse}",
        f"model.gate={gate}")
       for attention in SENTENCE_ATTENTIONS for graph_in, fuse, gate in
       (("encoder", "attention", False), ("both", "concat", True), ("both", "add", False), ("encoder", "add", True))},
    "mean pooling": ("model.pooling=mean",),
    "no graph": ("model.graph_in=none",),
    "no memory": ("model.memory=false",),
    "roi align": ("model.roi=align",),
    "no observation head": ("model.observation_head=false",),
    "no localizer": ("model.localizer=false", "eval.box_source=atlas"),
    "dropout": ("model.dropout=0.2", "model.image_dropout=0.3"),
    **{f"grounding, {attention}": ("loss.grounding=0.5", f"model.sentence_attention={attention}")
       for attention in SENTENCE_ATTENTIONS},
    "nothing but words": ("model.graph_in=none", "model.observation_head=false"),
}


def step_and_generate(model: SGRRG, config: Config, batch: Batch) -> tuple[Losses, Generation]:
    """One training step that lowers the loss of its batch, then a report for every study."""
    box_source = config.eval.box_source
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    losses = losses_of(model, batch, config.train.graph_source, box_source, 0.5, config)
    losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    optimizer.step()
    model.eval()
    generation = generate(model, batch, GraphSource.PREDICTED, box_source)
    assert generation.token_ids.shape == (len(batch), LONGEST - 1)
    assert torch.isfinite(generation.scores).all()
    return losses, generation


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_trains_and_generates(switch):
    config = tiny_config(*SWITCHES[switch])
    model, batch = tiny_model(*SWITCHES[switch]), tiny_batch(3)
    losses, generation = step_and_generate(model, config, batch)
    has_graph = config.model.graph_in != "none"
    expected = {"report"} | ({"observations"} if config.model.observation_head else set())
    if has_graph:
        expected |= {"regions", "attributes", "contrast"}
        expected |= {"boxes", "visibility"} if config.model.localizer else set()
        expected |= {"grounding"} if config.loss.grounding else set()
    assert set(losses.terms) == expected
    assert (generation.encoded.graph is not None) == has_graph
    assert (generation.encoded.observation_logits is not None) == config.model.observation_head


@pytest.mark.parametrize("term", ["report", "observations", "regions", "attributes", "contrast", "boxes", "visibility"])
def test_every_loss_can_be_switched_off(term):
    config = tiny_config(f"loss.{term}=0")
    losses, _ = step_and_generate(tiny_model(), config, tiny_batch(2))
    assert term not in losses.terms and len(losses.terms) == 6
    weighted = sum(getattr(config.loss, name) * value for name, value in losses.terms.items())
    torch.testing.assert_close(losses.total, weighted)


@pytest.mark.parametrize("overrides", SWITCHES.values(), ids=SWITCHES)
def test_every_switch_matters(overrides):
    """Other settings give other parameters, or the same parameters another answer."""
    plain, switched, batch = tiny_model(), tiny_model(*overrides), tiny_batch(2)
    if plain.state_dict().keys() != switched.state_dict().keys():
        return
    switched.load_state_dict(plain.state_dict())
    config = tiny_config(*overrides)
    torch.manual_seed(0)
    found = teacher_forced(switched, batch, box_source=config.eval.box_source).word_logits
    same = torch.allclose(found, teacher_forced(plain, batch).word_logits, atol=1e-5)
    # A loss changes what is learned, not what is written.
    changes_nothing = {"model.encode=oa-c", "model.sentence_attention=subgraph", "loss.grounding=0.5"}
    assert same == (set(overrides) <= changes_nothing)


# Arithmetic and devices


@pytest.mark.parametrize(("encode", "sentence_attention"), CONNECTIONS)
def test_bf16_on_the_cpu_stays_close(encode, sentence_attention):
    overrides = ("model.graph_in=both", "model.fuse=concat", "model.gate=true")
    model, batch = connected(encode, sentence_attention, *overrides), tiny_batch(3)
    expected = losses_of(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = teacher_forced(model, batch)
        generation = generate(model, batch)
    assert output.word_logits.dtype == torch.bfloat16
    criterion = build_criterion(tiny_config(), tiny_vocabularies())
    losses = criterion(output, batch, criterion.counts(batch))
    for name, term in losses.terms.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, expected.terms[name], atol=0.15, rtol=0.1, msg=name)
    assert_finite_gradients(model, losses)
    assert generation.scores.dtype == torch.float32 and torch.isfinite(generation.scores).all()


class OneCellTrunk(nn.Module):
    """A trunk of pooling and a 1x1 convolution."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3, CHANNELS, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.mix(nn.functional.avg_pool2d(images, 8))


def onto(mode: FakeTensorMode, model: SGRRG, device: str) -> None:
    """Replace every parameter and buffer by a fake one on `device`, as `model.to(device)` does with real ones."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(mode.from_tensor(parameter).detach().to(device))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = mode.from_tensor(buffer).to(device)


def fake_batch(mode: FakeTensorMode, batch: Batch, device: str) -> Batch:
    """`batch` with fake tensors on `device`."""

    def fake(record):
        values = {name: mode.from_tensor(v) if isinstance(v, Tensor) else v for name, v in vars(record).items()}
        return replace(record, **values)

    return replace(fake(batch), regions=fake(batch.regions)).to(device)


@pytest.fixture
def sizes_without_values(monkeypatch):
    """Fake tensors have no values: where a size depends on them, every slot is kept."""

    def every_slot(mask: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = mask.shape
        positions = torch.arange(rows * columns, device=mask.device)
        return positions // columns, positions % columns

    replacements = {
        "packed_rows": every_slot, "largest_count": lambda mask: mask.shape[-1], "all_true": lambda mask: False
    }
    for module in (masking, patch_encoder, region_pooler, scene_graph_encoder, beam_search):
        for name, function in replacements.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, function)


@pytest.mark.parametrize(("encode", "sentence_attention"), list(zip(ENCODES, SENTENCE_ATTENTIONS, strict=True)))
def test_no_tensor_stays_on_the_cpu(encode, sentence_attention, sizes_without_values):
    overrides = ("model.graph_in=both", "model.fuse=concat", "model.gate=true", "model.dropout=0.1")
    model = connected(encode, sentence_attention, *overrides)
    model.patch_encoder = PatchEncoder(OneCellTrunk(), CHANNELS)
    batch, criterion = tiny_batch(2, views=2), build_criterion(tiny_config(), tiny_vocabularies())
    with FakeTensorMode() as mode:
        criterion.attribute_slots = mode.from_tensor(criterion.attribute_slots)
        onto(mode, model, "cuda")
        batch = fake_batch(mode, batch, "cuda")
        for source, boxes in (
            (GraphSource.ORACLE, BoxSource.LOCALIZER), (GraphSource.PREDICTED, BoxSource.ORACLE_BOXES),
            (GraphSource.MIXED, BoxSource.ATLAS), (GraphSource.NONE, BoxSource.LOCALIZER),
        ):
            output = teacher_forced(model, batch, source, boxes, 0.5)
            losses = criterion(output, batch, criterion.counts(batch))
            assert losses.total.device.type == "cuda"
        model.eval()
        for settings in ({"beam_size": 1}, {"beam_size": 3}, {"sampled": True}):
            written = generate(model, batch, max_tokens=4, **settings)
            assert written.token_ids.device.type == written.scores.device.type == "cuda"


def test_fake_tensors_catch_what_stays_on_the_cpu(sizes_without_values):
    model, batch = tiny_model(), tiny_batch(2)
    with FakeTensorMode() as mode:
        onto(mode, model, "cuda")
        model.graph.encoder.attribute_offsets = model.graph.encoder.attribute_offsets.cpu()
        with pytest.raises(RuntimeError, match="cpu"):
            teacher_forced(model, fake_batch(mode, batch, "cuda"))


@pytest.fixture
def full_precision_convolutions():
    """No TF32: convolutions on a GPU as on the CPU."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("encode", "sentence_attention"), CONNECTIONS)
def test_one_step_on_a_gpu(encode, sentence_attention, precision, full_precision_convolutions):
    overrides = ("model.graph_in=both", "model.fuse=concat", "model.gate=true")
    model, batch = connected(encode, sentence_attention, *overrides), tiny_batch(3)
    expected = losses_of(model, batch).terms
    model, batch = model.cuda(), batch.to("cuda")
    criterion = build_criterion(tiny_config(), tiny_vocabularies())
    with torch.autocast("cuda", precision, enabled=precision != torch.float32):
        output = teacher_forced(model, batch)
    losses = criterion(output, batch, criterion.counts(batch))
    tolerance = 1e-3 if precision == torch.float32 else 0.15
    for name, term in losses.terms.items():
        torch.testing.assert_close(term.cpu(), expected[name], atol=tolerance, rtol=tolerance, msg=name)
    assert_finite_gradients(model, losses)
    model.eval()
    with torch.autocast("cuda", precision, enabled=precision != torch.float32):
        for graph_source in (GraphSource.PREDICTED, GraphSource.ORACLE, GraphSource.NONE):
            for beams in (1, 3):
                written = generate(model, batch, graph_source, beam_size=beams)
                assert torch.isfinite(written.scores).all()


@pytest.mark.gpu
def test_gpu_and_cpu_write_the_same_reports(full_precision_convolutions):
    model, batch = tiny_model().eval(), tiny_batch(3)
    expected = generate(model, batch, beam_size=3)
    written = generate(model.cuda(), batch.to("cuda"), beam_size=3)
    assert torch.equal(written.token_ids.cpu(), expected.token_ids)
    torch.testing.assert_close(written.scores.cpu(), expected.scores, atol=1e-3, rtol=1e-3)
