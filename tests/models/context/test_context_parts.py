"""A model that reads indication and prior: what it sees, what it ignores, and what change it predicts."""

import math
from dataclasses import replace

import pytest
import torch

from data.ontology import CHANGES
from models.outputs import BoxSource, GraphSource
from models.sgrrg import annotated_regions
from modules.model_inputs import count_sizes, model_inputs
from modules.settings.context import ContextUse
from modules.training.loss_terms import ChangeLoss, ReportLoss
from tests.support.context.tiny_batch_context import with_context, with_context_fields
from tests.support.tiny_model import studies_of, teacher_forced, tiny_batch, tiny_model, with_regions

BOTH = ("model.context=[indication,prior]", "model.prior_report=true")
SOURCES = (GraphSource.PREDICTED, BoxSource.LOCALIZER)


@pytest.fixture(scope="module")
def model():
    return tiny_model(*BOTH).eval()


@pytest.fixture
def batch():
    return with_context(tiny_batch(4, views=2))


def logits(model, batch, source=GraphSource.PREDICTED, use=ContextUse.ALL, training=False, sizes=None):
    inputs = model_inputs(batch, source, BoxSource.LOCALIZER, training=training, sizes=sizes, context=use)
    with torch.no_grad():
        return model(inputs, batch.token_ids, batch.token_mask, source, BoxSource.LOCALIZER)


def logits_with_gradient(model, batch):
    inputs = model_inputs(batch, GraphSource.ORACLE, BoxSource.LOCALIZER, training=True)
    return model(inputs, batch.token_ids, batch.token_mask, GraphSource.ORACLE, BoxSource.LOCALIZER)


def generated(model, batch):
    with torch.no_grad():
        return model.generate(model_inputs(batch, *SOURCES), *SOURCES, beam_size=2, max_tokens=10)


def other_context(batch):
    """`batch` with all other context."""
    other = with_context(batch, seed=9)
    context = other.context
    return with_context_fields(
        other, has_prior=torch.ones_like(context.has_prior), prior_image=context.prior_image + 1,
        indication_mask=torch.ones_like(context.indication_mask),
        prior_report_mask=torch.ones_like(context.prior_report_mask),
    )


@pytest.mark.parametrize("source", [GraphSource.PREDICTED, GraphSource.ORACLE])
def test_a_model_without_context_is_blind_to_it(batch, source):
    model = tiny_model().eval()
    changed = replace(other_context(batch), regions=batch.regions)
    assert torch.equal(
        logits(model, batch, source).packed_logits, logits(model, changed, source).packed_logits
    )
    assert torch.equal(
        logits(model, replace(batch, context=None), source).packed_logits, logits(model, batch, source).packed_logits
    )
    one, other = generated(model, batch), generated(model, changed)
    assert torch.equal(one.token_ids, other.token_ids) and torch.equal(one.token_log_probs, other.token_log_probs)


def test_a_model_without_context_has_the_weights_of_today():
    assert not [name for name in tiny_model().state_dict() if "context" in name or "change" in name]


def test_nothing_of_the_annotation_reaches_the_model_in_predicted_mode(model, batch):
    """The change of regions included, which the report states."""
    other = tiny_batch(4, views=2, seed=5).regions
    changed = replace(batch, regions=replace(other, change=torch.randint(len(CHANGES), other.change.shape)))
    one, two = generated(model, batch), generated(model, changed)
    assert torch.equal(one.token_ids, two.token_ids) and torch.equal(one.token_log_probs, two.token_log_probs)
    assert torch.equal(one.encoded.memory, two.encoded.memory)


@pytest.mark.parametrize("part", ["prior_image", "indication", "prior_report"])
def test_each_part_of_the_context_is_read(model, batch, part):
    changed = with_context_fields(batch, **{part: getattr(other_context(batch).context, part)})
    one, two = logits(model, batch).word_logits, logits(model, changed).word_logits
    masked = batch.context.indication_mask.any(1) if part == "indication" else batch.context.has_prior
    differs = (one != two).flatten(1).any(1)
    assert differs.equal(masked)  # what is masked has no effect


@pytest.mark.parametrize("source", [GraphSource.PREDICTED, GraphSource.ORACLE])
def test_evidence_of_the_indication_enters_every_prediction(batch, source):
    """Of studies with an indication; others, and those whose indication is withheld, are as without."""
    model = tiny_model("model.context=[indication]", "model.indication_evidence=true").eval()
    with_it = logits(model, batch, source).encoded
    without = logits(model, batch, source, use=ContextUse.NONE).encoded
    known = batch.context.indication_mask.any(1)
    assert known.any() and not known.all()
    for name in ("observation_logits", "region_logits", "attribute_logits"):
        differs = (getattr(with_it, name) != getattr(without, name)).flatten(1).any(1)
        assert torch.equal(differs, known), name
    # Linear heads: the same evidence moves the logits of a region alike, whatever the image shows.
    shift = with_it.observation_logits - without.observation_logits
    torch.testing.assert_close(shift, with_it.evidence @ model.observation_head.head.weight.T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(with_it.boxes, without.boxes)


def test_evidence_is_learned_from_observations_alone():
    settings = ("model.context=[indication]", "model.indication_evidence=true")
    model, batch = tiny_model(*settings), with_context(tiny_batch(4))
    output = logits_with_gradient(model, batch)
    output.encoded.observation_logits.sum().backward()
    assert model.context.evidence.project.weight.grad.any() and model.decoder.embedding.tokens.weight.grad.any()


@pytest.mark.parametrize(("use", "shown"), [
    (ContextUse.NONE, ()), (ContextUse.INDICATION, ("indication_mask",)),
    (ContextUse.PRIOR, ("has_prior", "prior_report_mask")),
])
def test_withheld_context_equals_absent_context(model, batch, use, shown):
    names = ("has_prior", "prior_report_mask", "indication_mask")
    hidden = {name: torch.zeros_like(getattr(batch.context, name)) for name in names if name not in shown}
    absent = logits(model, with_context_fields(batch, **hidden))
    torch.testing.assert_close(logits(model, batch, use=use).word_logits, absent.word_logits, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(logits(model, batch).word_logits, absent.word_logits, atol=1e-3)


def test_studies_do_not_affect_each_other(model, batch):
    together, alone = logits(model, batch).word_logits, logits(model, studies_of_context(batch, 1)).word_logits
    torch.testing.assert_close(together[1], alone[0], atol=1e-5, rtol=1e-4)


def studies_of_context(batch, study):
    return replace(studies_of(replace(batch, context=None), [study]), context=batch.select([study]).context)


def test_known_sizes_change_nothing(model, batch):
    outputs = [
        logits(model, batch, GraphSource.ORACLE, training=True, sizes=sizes) for sizes in (None, count_sizes(batch))
    ]
    torch.testing.assert_close(*(output.packed_logits for output in outputs))
    torch.testing.assert_close(*(output.encoded.change_logits for output in outputs))


@pytest.mark.parametrize("encode", ["oa-c", "oa-d", "oa-pm"])
def test_an_annotated_change_is_one_more_attribute_node(batch, encode):
    model = tiny_model("model.context=[prior]", f"model.encode={encode}").eval()
    graph = logits(model, batch, GraphSource.ORACLE, training=True).encoded.graph
    known = (batch.regions.change >= 0) & graph.selected & batch.context.has_prior[:, None]
    assert known.any() and torch.equal(graph.changes >= 0, known)
    assert torch.equal(graph.changes[known], batch.regions.change[known])
    attributes = (batch.regions.attributes & graph.selected[..., None]).sum(-1)
    assert torch.equal(graph.node_mask.sum(-1), (graph.selected + attributes + known).long())
    study, region = known.nonzero()[0].tolist()
    change = batch.regions.change.clone()
    change[study, region] = (change[study, region] + 1) % len(CHANGES)
    other = logits(model, with_regions(batch, change=change), GraphSource.ORACLE, training=True).encoded.graph
    differs = (other.embeddings != graph.embeddings).any(-1)
    assert differs[study, region] and (encode != "oa-c" or differs.sum() == 1)


def test_predicted_changes_are_of_abnormal_or_resolved_regions_with_a_prior(model, batch):
    output = logits(model, batch).encoded
    likeliest = output.change_logits.argmax(-1)
    abnormal = (output.graph.attributes & model.context.abnormal_slots).any(-1)
    expected = output.graph.selected & batch.context.has_prior[:, None] & (
        abnormal | (likeliest == CHANGES.index("resolved"))
    )
    assert torch.equal(output.graph.changes >= 0, expected) and expected.any() and not expected.all()
    assert torch.equal(output.graph.changes[expected], likeliest[expected])
    assert torch.equal(output.change_regions, output.attribute_regions & batch.context.has_prior[:, None])


def test_a_region_that_did_not_change_looks_the_same_now_and_before(model):
    """With the same image as prior, the head sees equal features where the boxes are the localizer's."""
    batch = with_context(tiny_batch(3))
    batch = with_context_fields(
        batch, prior_image=batch.images[:, 0], has_prior=torch.ones(3, dtype=torch.bool)
    )
    seen = []
    handle = model.context.change_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    logits(model, batch)
    handle.remove()
    now, before = seen[0]
    torch.testing.assert_close(now, before, atol=1e-5, rtol=1e-4)


def test_every_part_gets_a_gradient_even_in_a_batch_without_context(batch):
    none = with_context_fields(
        batch, has_prior=torch.zeros(4, dtype=torch.bool), prior_image=torch.zeros_like(batch.context.prior_image),
        indication_mask=torch.zeros_like(batch.context.indication_mask),
        prior_report_mask=torch.zeros_like(batch.context.prior_report_mask),
    )
    for each, is_zero in ((batch, False), (none, True)):
        model = tiny_model(*BOTH)
        output = teacher_forced(model, each)
        loss = output.packed_logits.square().sum() + output.encoded.change_logits.sum() * 0
        loss.backward()
        parts = {name: parameter.grad for name, parameter in model.context.named_parameters()}
        parts["change embedding"] = model.graph.encoder.change_embedding.weight.grad
        assert all(gradient is not None and gradient.isfinite().all() for gradient in parts.values())
        assert (parts["change embedding"].abs().sum() == 0) == is_zero


def test_mixed_graphs_choose_changes_by_study(model, batch):
    inputs = model_inputs(batch, GraphSource.MIXED, BoxSource.LOCALIZER, training=True)
    with torch.no_grad():
        annotated = model.encode(inputs, GraphSource.MIXED, BoxSource.LOCALIZER, 0.0).graph
        predicted = model.encode(inputs, GraphSource.MIXED, BoxSource.LOCALIZER, 1.0).graph
    assert torch.equal(annotated.changes >= 0, (batch.regions.change >= 0) & annotated.selected & (
        batch.context.has_prior[:, None]
    ))
    assert torch.equal(predicted.changes, logits(model, batch).encoded.graph.changes)


def test_patches_are_marked_where_no_prior_is_shown(batch):
    model = tiny_model("model.context=[prior]").eval()
    parts = model.context
    with torch.no_grad():
        parts.alone_embedding += 1
    inputs = model_inputs(batch, *SOURCES)
    has_prior = batch.context.has_prior
    assert has_prior.any() and not has_prior.all()
    memory = model.encode(inputs, *SOURCES).memory
    with torch.no_grad():
        parts.alone_embedding -= 1
    change = memory - model.encode(inputs, *SOURCES).memory
    own = change.shape[1] - model.encode(inputs, *SOURCES).context_rows
    torch.testing.assert_close(change[has_prior], torch.zeros_like(change[has_prior]))
    root = math.sqrt(len(parts.alone_embedding))
    torch.testing.assert_close(
        change[~has_prior][:, :own], torch.full_like(change[~has_prior][:, :own], root), atol=1e-5, rtol=1e-5
    )
    assert not change[:, own:].any()
    memory.sum().backward()
    patches = own * (~has_prior).sum()
    torch.testing.assert_close(parts.alone_embedding.grad, torch.full_like(parts.alone_embedding, root * patches))
    # Without any context, as with one that shows no study a prior.
    with torch.no_grad():
        parts.alone_embedding += 1
    nothing = replace(inputs, context=replace(inputs.context, has_prior=None, prior_image=None))
    hidden = replace(inputs, context=replace(inputs.context, has_prior=torch.zeros_like(has_prior)))
    one, other = model.encode(nothing, *SOURCES).memory, model.encode(hidden, *SOURCES).memory
    torch.testing.assert_close(one, other[:, : one.shape[1]])


def test_a_model_that_reads_no_prior_marks_nothing():
    assert tiny_model("model.context=[indication]").context.alone_embedding is None


def test_a_model_without_regions_reads_the_prior_image(batch):
    model = tiny_model("model.context=[prior]", "model.graph_in=none").eval()
    changed = with_context_fields(batch, prior_image=batch.context.prior_image + 1)
    assert not torch.equal(logits(model, batch).word_logits, logits(model, changed).word_logits)


def test_the_loss_of_changes_counts_known_ones_of_visible_priors(batch):
    model = tiny_model("model.context=[prior]")
    output = teacher_forced(model, batch)
    weights = torch.tensor([0.5, 1.0, 2.0, 1.0, 3.0])
    term = ChangeLoss(torch.zeros(29, 4, dtype=torch.bool), 0.4, change_weights=weights)
    expected = count = 0.0
    for study, region in ((batch.regions.change >= 0) & annotated_regions(batch.regions)).nonzero().tolist():
        if batch.context.has_prior[study]:
            change = batch.regions.change[study, region]
            expected -= weights[change] * output.encoded.change_logits[study, region].log_softmax(-1)[change]
            count += weights[change]
    assert count > 5
    torch.testing.assert_close(term.sum(output, batch), expected)
    torch.testing.assert_close(term.count(batch), count)
    assert term.count(replace(batch, context=None)) == 0
    assert term.sum(teacher_forced(tiny_model(), batch), batch) is None


def test_comparisons_with_an_unseen_prior_do_not_count_in_the_report_loss(batch):
    model = tiny_model("model.context=[prior]")
    term = ReportLoss(torch.zeros(29, 4, dtype=torch.bool), 0.4)
    unseen = torch.zeros(batch.token_ids.shape, dtype=torch.bool)
    unseen[1, 2:4] = True
    marked = with_context_fields(batch, unseen_comparison=unseen)
    output = teacher_forced(model, marked)
    losses = torch.nn.functional.cross_entropy(
        output.word_logits.transpose(1, 2), batch.token_ids[:, 1:], reduction="none"
    )
    counted = batch.token_mask[:, 1:] & ~unseen[:, 1:]
    torch.testing.assert_close(term.sum(output, marked), (losses * counted).sum())
    assert term.count(marked) == counted.sum() == term.count(batch) - 2
    none = with_context_fields(batch, unseen_comparison=torch.zeros_like(unseen))
    torch.testing.assert_close(term.sum(output, none), term.sum(output, batch))
