"""Data sets and models for `data.sections`; nothing of the study's own sections reaches a model."""

import json
from dataclasses import fields

import pytest
import torch

from data.collate import collate
from data.errors import UserError
from data.images.network_input import to_network_input
from models.outputs import BoxSource, GraphSource
from modules import builders
from modules.config import load_config
from modules.model_inputs import model_inputs
from modules.training.loss_terms import ReportLoss
from tests.support.sections.tiny_sections import add_impressions
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_model import enliven
from tests.support.tiny_run import TINY

SOURCES = GraphSource.PREDICTED, BoxSource.LOCALIZER


@pytest.fixture
def root(tmp_path):
    return add_impressions(write_tiny_dataset(tmp_path / "tiny", image_size=32))


def built(root, *overrides, split="test"):
    """Model and a split."""
    config = load_config(None, [*TINY, f"data.root={root}", "data.max_tokens=30", *overrides])
    vocabularies = builders.build_vocabularies(config)
    torch.manual_seed(0)
    model = builders.build_model(config, vocabularies)
    enliven(model)
    return model.eval(), builders.build_dataset(config, vocabularies, split)


def change_records(root, change):
    path = root / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        change(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def batch_of(studies):
    return collate([studies[index] for index in range(len(studies))], studies.vocabularies.tokenizer.pad_id)


def tensors(value):
    found = [each for field in fields(value) if (each := getattr(value, field.name)) is not None]
    return [each for each in found if isinstance(each, torch.Tensor)]


def test_the_default_learns_the_findings_alone(root):
    _, studies = built(root, split="train")
    references = [studies[index].reference for index in range(3)]
    assert all(references[:1]) and references[1] == "" and studies[0].untrained_tokens is None
    change_records(root, lambda record: record.pop("impression"))
    _, others = built(root, split="train")
    assert [others[index].reference for index in range(3)] == references
    assert studies.vocabularies.tokenizer.words == others.vocabularies.tokenizer.words
    assert not studies.vocabularies.tokenizer.marks_sections


def test_impressions_alone_are_the_reports(root):
    _, studies = built(root, "data.sections=impression", split="train")
    assert [studies[index].reference for index in range(3)] == ["no acute disease .", "small effusion .", ""]
    assert studies.vocabularies.tokenizer.words == (".", "<unk>", "acute", "disease", "effusion", "no", "small")
    batch = batch_of(studies)
    assert batch.has_report.tolist() == [number % 3 < 2 for number in range(8)]
    assert len(studies.with_reports()) == 6


def test_both_sections_are_one_report_with_markers(root):
    _, studies = built(root, "data.sections=both", split="train")
    tokenizer = studies.vocabularies.tokenizer
    assert tokenizer.marks_sections
    first, second, third = (studies[index] for index in range(3))
    assert first.reference.startswith("<findings> ") and first.reference.endswith("<impression> no acute disease .")
    assert second.reference == "<impression> small effusion ."
    assert third.reference.startswith("<findings> ") and "<impression>" not in third.reference
    assert tokenizer.decode(first.token_ids) == first.reference


def test_a_section_that_a_study_lacks_is_not_learned(root):
    """The begin of a report without findings, and the end of one without an impression, do not enter the loss."""
    _, studies = built(root, "data.sections=both", split="train")
    assert [studies[index].untrained_tokens.nonzero().flatten().tolist() for index in range(3)] == [
        [], [1], [len(studies[2].token_ids) - 1]
    ]
    batch = batch_of(studies)
    model = built(root, "data.sections=both")[0]
    inputs = model_inputs(to_network_input(batch), *SOURCES)
    term = ReportLoss(None, 0.4, None, 0.25, None)
    with torch.no_grad():
        output = model(inputs, batch.token_ids, batch.token_mask, *SOURCES)
        before = term.sum(output, batch)
        changed = batch.token_ids.clone()
        changed[batch.untrained_tokens] = 3
        after = term.sum(output, batch.__class__(**vars(batch) | {"token_ids": changed}))
        changed[0, 2] = 3 if changed[0, 2] != 3 else 4
        other = term.sum(output, batch.__class__(**vars(batch) | {"token_ids": changed}))
    assert term.count(batch) == batch.token_mask[:, 1:].sum() - batch.untrained_tokens.sum()
    assert torch.equal(before, after) and not torch.equal(before, other)


def test_an_impression_that_is_cut_off_counts_as_absent(root):
    _, studies = built(root, "data.sections=both", "data.max_tokens=8", split="train")
    first = studies[0]
    assert len(first.token_ids) == 8 and first.untrained_tokens.tolist() == [False] * 7 + [True]


def test_another_impression_gives_bit_equal_outputs(root):
    """Impression and findings of the studies at hand are another's."""
    def predicted(model, studies):
        with torch.no_grad():
            inputs = model_inputs(to_network_input(batch_of(studies)), *SOURCES)
            return model.generate(inputs, *SOURCES, beam_size=2, max_tokens=20)

    model, studies = built(root, "data.sections=both")
    before, references = predicted(model, studies), [studies[index].reference for index in range(3)]

    def change(record):
        if record["split"] == "test":
            record |= {"impression": "It has worsened.", "report": "A new effusion."}

    change_records(root, change)
    _, others = built(root, "data.sections=both")
    others = builders.build_dataset(
        load_config(None, [*TINY, f"data.root={root}", "data.max_tokens=30", "data.sections=both"]),
        studies.vocabularies, "test",
    )
    assert all(reference != others[index].reference for index, reference in enumerate(references))
    after = predicted(model, others)
    for one, other in ((before, after), (before.encoded, after.encoded), (before.encoded.graph, after.encoded.graph)):
        assert len(tensors(one)) > 2
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(tensors(one), tensors(other), strict=True))


def test_a_data_set_without_impressions_is_named(root):
    change_records(root, lambda record: record.update(impression=None))
    for sections in ("both", "impression"):
        with pytest.raises(UserError, match="no training study of .*tiny has an impression"):
            built(root, f"data.sections={sections}")


@pytest.mark.parametrize(("trained", "asked"), [("findings", "both"), ("both", "findings"), ("both", "impression")])
def test_a_model_writes_the_sections_it_was_trained_with(root, trained, asked):
    _, studies = built(root, f"data.sections={trained}")
    config = load_config(None, [*TINY, f"data.root={root}", f"data.sections={asked}"])
    with pytest.raises(UserError, match=f"data.sections={asked}: must be what the model was trained with"):
        builders.build_dataset(config, studies.vocabularies, "test")


@pytest.mark.parametrize(("overrides", "message"), [
    (["data.sections=all"], "data.sections"),
    (["data.sections=both", "data.max_tokens=5"], "data.max_tokens=5: must be at least 6 with data.sections=both"),
])
def test_wrong_settings_are_named(overrides, message):
    with pytest.raises(UserError, match=message):
        load_config(None, overrides)


def test_reports_without_frequent_words_are_refused_in_sections_too(root):
    config = load_config(None, [*TINY, f"data.root={root}", "data.sections=both", "data.min_word_count=99"])
    vocabularies = builders.build_vocabularies(config)
    assert vocabularies.tokenizer.marks_sections
    with pytest.raises(UserError, match="data.min_word_count"):
        builders.check_words(config, vocabularies)
