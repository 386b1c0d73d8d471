"""Models and data sets with context, built from settings; nothing of the study's own report reaches such a model."""

import json
from dataclasses import fields

import pytest
import torch

from data.collate import collate
from data.context.counts import count_changes
from data.errors import UserError
from data.images.network_input import to_network_input
from data.ontology import CHANGES
from data.records import read_records
from models.outputs import BoxSource, GraphSource
from modules import builders
from modules.config import load_config
from modules.model_inputs import model_inputs
from modules.settings.context import ContextUse
from modules.training.loss_terms import class_weights
from tests.support.context.tiny_context import add_context
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_model import enliven
from tests.support.tiny_run import TINY

ALL = ["model.context=[indication,prior]", "model.prior_report=true"]


@pytest.fixture
def root(tmp_path):
    return add_context(write_tiny_dataset(tmp_path / "tiny", image_size=32))


def built(root, *overrides):
    """Model and test split."""
    config = load_config(None, [*TINY, f"data.root={root}", *overrides])
    vocabularies = builders.build_vocabularies(config)
    torch.manual_seed(0)
    model = builders.build_model(config, vocabularies)
    enliven(model)
    return model.eval(), builders.build_dataset(config, vocabularies, "test")


def predicted(model, studies):
    batch = to_network_input(collate([studies[index] for index in range(len(studies))], 0))
    sources = GraphSource.PREDICTED, BoxSource.LOCALIZER
    with torch.no_grad():
        return model.generate(model_inputs(batch, *sources), *sources, beam_size=2, max_tokens=12)


def tensors(value):
    found = [each for field in fields(value) if (each := getattr(value, field.name)) is not None]
    return [each for each in found if isinstance(each, torch.Tensor)]


def test_another_reference_report_gives_bit_equal_outputs(root):
    """Report, impression, comparison, graph and its changes of the studies at hand are another's; all context is on."""
    model, studies = built(root, *ALL)
    before, references = predicted(model, studies), [studies[index].reference for index in range(3)]
    path = root / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    generator = torch.Generator().manual_seed(0)
    changed = [record for record in records if record["split"] == "test"]
    is_prior = {record["prior"] for record in changed}
    for record in changed:
        if record["id"] in is_prior:
            continue  # its report is the previous report of another study
        record |= {"report": "A new effusion.", "impression": "It has worsened.", "comparison": "With yesterday."}
        record["observations"] = {"Edema": 1}
        for region in record["graph"]["regions"].values():
            region |= {"mentioned": True, "abnormal": True, "attributes": ["nlp|yes|abnormal"], "box": [0, 0, 1, 1]}
            region["change"] = CHANGES[int(torch.randint(len(CHANGES), (), generator=generator))]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    _, others = built(root, *ALL)
    assert all(reference != others[index].reference for index, reference in list(enumerate(references))[1:])
    after = predicted(model, others)
    for one, other in ((before, after), (before.encoded, after.encoded), (before.encoded.graph, after.encoded.graph)):
        assert len(tensors(one)) > 2
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(tensors(one), tensors(other), strict=True))


def test_the_default_reads_no_context_and_has_its_words(root):
    model, studies = built(root)
    assert model.context is None and studies[1].context is None
    words = studies.vocabularies.tokenizer.words
    reading, others = built(root, *ALL)
    assert "cough" not in words and set(words) < set(others.vocabularies.tokenizer.words)
    assert reading.context.text_encoder is not None and reading.context.change_head is not None


def test_parts_follow_the_settings(root):
    model, studies = built(root, "model.context=[indication]")
    context = studies[1].context
    assert context.has_prior is None and context.prior_report is None and len(context.indication) > 0
    assert model.context.change_head is None and model.graph.encoder.change_embedding is None
    model, studies = built(root, "model.context=[prior]")
    context = studies[1].context
    assert context.indication is None and bool(context.has_prior) and context.prior_report is None
    assert model.context.text_encoder is None and model.graph.encoder.change_embedding is not None


@pytest.mark.parametrize(("override", "message"), [
    ("model.context=[history]", "model.context"), ("model.context=[prior,prior]", "model.context"),
    ("model.prior_report=true", "needs prior in model.context"),
    ("model.indication_evidence=true", "needs indication in model.context"),
    ("train.context_dropout=1", "train.context_dropout"),
    ("eval.context=both", "eval.context"),
])
def test_wrong_settings_are_named(override, message):
    with pytest.raises(UserError, match=message):
        load_config(None, [override])


FAMILY = {
    "memory": ["model.cross_modal_memory.rows=8", "model.cross_modal_memory.responding=4"],
    "prototypes": [
        "model.prototypes.per_observation=2", "model.prototypes.channels=8", "model.prototypes.responding=4",
        "loss.image_contrast=1", "loss.text_contrast=1",
    ],
    "map": ["model.discriminative_map=true", "model.subtract_background=true", "loss.attention_consistency=1"],
}


@pytest.mark.parametrize("part", FAMILY)
def test_what_reads_patches_and_words_is_combined_with_context(root, part):
    """The context reaches the reports, and without it the model is as it would be if it read none."""
    overrides = [*FAMILY[part], "model.cross_modal_memory.heads=2", "model.prototypes.heads=2"]
    model, studies = built(root, *ALL, *overrides)
    batch = to_network_input(collate([studies[index] for index in range(3)], 0))
    sources = GraphSource.PREDICTED, BoxSource.LOCALIZER
    with torch.no_grad():
        shown, withheld = (
            model.encode(model_inputs(batch, *sources, context=use), *sources)
            for use in (ContextUse.ALL, ContextUse.NONE)
        )
    patches = withheld.memory.shape[1]
    assert withheld.context_rows == 0 and shown.context_rows == shown.memory.shape[1] - patches > 0
    torch.testing.assert_close(shown.memory[:, :patches], withheld.memory)
    assert torch.equal(shown.patch_mask, withheld.memory_mask)
    if part == "map":
        torch.testing.assert_close(shown.discriminative_map, withheld.discriminative_map)
    else:
        torch.testing.assert_close(shown.shared_memory.patch_response, withheld.shared_memory.patch_response)
    assert not torch.equal(predicted(model, studies).scores, predicted(built(root, *overrides)[0], studies).scores)


@pytest.mark.parametrize("part", FAMILY)
def test_the_losses_of_the_family_are_those_of_the_study_alone(root, part):
    """The previous image has no part in them, and a step trains everything."""
    overrides = [*FAMILY[part], "model.cross_modal_memory.heads=2", "model.prototypes.heads=2"]
    config = load_config(None, [*TINY, f"data.root={root}", *ALL, *overrides])
    vocabularies = builders.build_vocabularies(config)
    model, _ = built(root, *ALL, *overrides)
    studies = builders.build_dataset(config, vocabularies, "train")
    batch = to_network_input(collate([studies[index] for index in range(4)], 0))
    criterion = builders.build_criterion(config, vocabularies)
    sources = GraphSource.ORACLE, BoxSource.LOCALIZER

    def losses_of(use):
        inputs = model_inputs(batch, *sources, training=True, context=use)
        output = model(inputs, batch.token_ids, batch.token_mask, *sources, image_attention_layer=0)
        return criterion(output, batch, criterion.counts(batch))

    shown, withheld = losses_of(ContextUse.ALL), losses_of(ContextUse.NONE)
    for name in {"attention_consistency", "image_contrast"} & set(shown.terms):
        assert shown.terms[name].isfinite()
        if name == "image_contrast":  # attention to patches also depends on the context
            torch.testing.assert_close(shown.terms[name], withheld.terms[name])
    shown.total.backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all() for name, parameter in model.named_parameters()
        if name.startswith(("context.", "shared_memory.", "discriminative_map."))
    )


def test_context_needs_a_decoder():
    with pytest.raises(UserError, match="needs model.report=true"):
        load_config(None, ["model.context=[prior]", "model.report=false"])


def test_changes_are_weighted_by_the_root_of_their_rarity(root):
    counts = count_changes([root])
    stated = [
        region["change"] for line in (root / "records.jsonl").read_text().splitlines()
        if (record := json.loads(line))["split"] == "train" and record["prior"] and record["graph"]
        for region in record["graph"]["regions"].values() if "change" in region
    ]
    assert counts == [stated.count(change) for change in CHANGES] == count_changes([root]) and sum(counts) > 5
    file, = read_records(root, "train").offsets_file.parent.glob("changes.*.json")
    file.write_text(file.read_text().replace(": ", ": 1", 2))  # a damaged file is made again
    assert count_changes([root]) == counts
    weights = class_weights([40, 10, 0, 10, 40])
    assert weights.tolist() == pytest.approx([0.5**0.5, 2**0.5, 0, 2**0.5, 0.5**0.5])
