"""The context of studies: read, hidden at random, collated, and brought to the network's input."""

import json
import shutil
from dataclasses import fields

import numpy as np
import pytest
import torch

from data.collate import collate
from data.context.fields import StudyContext
from data.context.settings import ContextSettings
from data.dataset import StudyDataset
from data.images.network_input import to_network_input
from data.images.transforms import Augmentation
from data.ontology import CHANGES
from data.text.cleaning import clean
from data.vocabulary_builder import build_vocabularies
from tests.support.context.tiny_context import add_context
from tests.support.tiny_dataset import write_tiny_dataset

ALL = ContextSettings(indication=True, prior=True, prior_report=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return add_context(write_tiny_dataset(tmp_path_factory.mktemp("context") / "tiny", train=8, image_size=32))


def data_set(root, context=ALL, indications=True, **options):
    vocabularies = build_vocabularies(root, "corrected", 1, 1, True, indications=indications)
    settings = {"image_size": 32, "max_tokens": 30, "views": 1, "uncertain": "positive"} | options
    return StudyDataset(root, "train", vocabularies, "corrected", context=context, **settings)


def records(root):
    return [json.loads(line) for line in (root / "records.jsonl").read_text().splitlines()][:8]


def test_without_settings_there_is_no_context(root):
    studies = data_set(root, context=None)
    assert studies[1].context is None and collate([studies[0], studies[1]], 0).context is None


def test_the_prior_is_the_image_and_report_of_the_previous_study(root):
    studies = data_set(root)
    tokenizer = studies.vocabularies.tokenizer
    for number, sample in enumerate(studies[index] for index in range(8)):
        context = sample.context
        assert bool(context.has_prior) == (number % 2 == 1)
        if number % 2:
            assert torch.equal(context.prior_image, studies[number - 1].images[0])
            assert torch.equal(context.prior_report, studies[number - 1].token_ids[1:-1])
        else:
            assert not context.prior_image.any() and len(context.prior_report) == 0
        expected = {0: "chronic cough .", 1: "rule out effusion .", 2: ""}[number % 3]
        assert tokenizer.decode(context.indication) == expected


def test_cached_priors_are_the_priors(root, tmp_path):
    copied = shutil.copytree(root, tmp_path / "data")
    cached, of_another_rank = data_set(copied, cache_images=True), data_set(copied, cache_images=True)
    addresses = []
    cached.share_cache(lambda address: addresses.append(address) or [address])
    remaining = iter(addresses)
    of_another_rank.share_cache(lambda address: [next(remaining), address])
    first = [cached[index].context.prior_image for index in range(8)]
    shutil.rmtree(copied / "images")
    for index, image in enumerate(first):
        assert torch.equal(image, data_set(root)[index].context.prior_image)
        assert torch.equal(image, cached[index].context.prior_image)
        assert torch.equal(image, of_another_rank[index].context.prior_image)


def test_words_of_indications_are_known_only_where_indications_are_read(root):
    assert "cough" in data_set(root).vocabularies.tokenizer.words
    tokenizer = data_set(root, indications=False).vocabularies.tokenizer
    assert "cough" not in tokenizer.words
    again = build_vocabularies(root, "corrected", 1, 1, True, indications=True).tokenizer  # from the stored counts
    assert again.words == data_set(root).vocabularies.tokenizer.words


def test_changes_are_known_where_the_record_states_them(root):
    studies = data_set(root)
    stated = 0
    for number, record in enumerate(records(root)):
        change = studies[number].regions.change
        regions = record["graph"]["regions"] if record["graph"] else {}
        for position, name in enumerate(studies.vocabularies.anatomy.names):
            expected = regions.get(name, {}).get("change")
            assert change[position] == (-1 if expected is None else CHANGES.index(expected))
            stated += expected is not None
    assert stated > 5


def test_a_batch_masks_what_is_absent(root):
    studies = data_set(root)
    batch = collate([studies[0], studies[1], studies[2]], studies.vocabularies.tokenizer.pad_id)
    context = batch.context
    assert context.has_prior.tolist() == [False, True, False]
    assert context.indication_mask.sum(1).tolist() == [3, 4, 0] and context.indication.shape == (3, 4)
    assert context.prior_report_mask.any(1).tolist() == [False, True, False]
    images = to_network_input(batch).context.prior_image
    assert images.shape == (3, 3, 32, 32) and not images[0].any() and images[1].any()
    alone = collate([studies[2]], 0).context
    assert alone.indication.shape == (1, 1) and not alone.indication_mask.any()
    selected = batch.select([1]).context
    assert torch.equal(selected.prior_image, context.prior_image[1:2]) and selected.has_prior.tolist() == [True]


def test_the_prior_is_augmented_on_its_own_and_the_study_as_without_context(root):
    augmentation = Augmentation(rotate=10, translate=0.1, scale=0.1, intensity=0.2)
    with_context, without = (data_set(root, context, augmentation=augmentation) for context in (ALL, None))
    one, other = with_context[3, 1], without[3, 1]
    for name in ("images", "warps", "intensities"):
        for mine, theirs in zip(getattr(one, name), getattr(other, name), strict=True):
            assert torch.equal(mine, theirs)
    assert not torch.equal(one.context.prior_warp, one.warps[0])
    batch = to_network_input(collate([with_context[3, index] for index in range(4)], 0))
    assert batch.context.prior_image.shape == (4, 3, 32, 32) and batch.context.prior_warp is None
    assert not batch.context.prior_image[0].any()
    again = with_context[3, 1].context
    for field in fields(StudyContext):
        if (value := getattr(again, field.name)) is not None:
            assert torch.equal(value, getattr(one.context, field.name))


def test_dropout_hides_indication_and_prior_independently_in_training_only(root):
    settings = ContextSettings(indication=True, prior=True, prior_report=True, dropout=0.5)
    training = data_set(root, settings, augmentation=Augmentation(0, 0, 0, 0))
    drawn = [training[epoch, 1].context for epoch in range(200)]
    shown = np.array([(len(context.indication) > 0, bool(context.has_prior)) for context in drawn])
    assert ((0.35 < shown.mean(0)) & (shown.mean(0) < 0.65)).all()
    assert 0.1 < (shown[:, 0] & shown[:, 1]).mean() < 0.4
    assert all((len(context.prior_report) > 0) == bool(context.has_prior) for context in drawn)
    assert all(bool(data_set(root, settings)[1].context.has_prior) for _ in range(5))


def test_comparisons_with_a_prior_that_is_not_shown_are_marked_in_training(root):
    training = data_set(root, augmentation=Augmentation(0, 0, 0, 0))
    marked = 0
    for number in range(8):
        sample = training[number]
        flags = sample.context.unseen_comparison
        if number % 2:  # its prior is shown
            assert not flags.any()
            continue
        assert flags.shape == sample.token_ids.shape
        words = sample.reference.split()
        for word, flag in zip(words, flags[1:], strict=False):
            if word == "stable":  # of a region
                assert flag
                marked += 1
        assert not flags[0] and not flags[-1]
    assert marked
    batch = collate([training[0], training[1], training[2]], 0)
    assert batch.context.unseen_comparison.shape == batch.token_ids.shape
    assert data_set(root)[0].context.unseen_comparison is None


def test_general_remarks_on_a_prior_that_is_not_shown_are_removed_in_training(tmp_path):
    root = add_context(write_tiny_dataset(tmp_path / "tiny", train=8, image_size=32))
    remark = "Comparison is made with the prior study."
    lines = [json.loads(line) for line in (root / "records.jsonl").read_text().splitlines()]
    reports = {line["id"]: line["report"] for line in lines}
    first = lines[2]["id"]  # it has no prior, like every second one
    for line in lines:
        line["report"] = remark if line["id"] == first else f"{remark} {line['report']}"
    (root / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    training = data_set(root, ContextSettings(prior=True), augmentation=Augmentation(0, 0, 0, 0), token_regions=True)
    complete = data_set(root, ContextSettings(prior=True))
    for number in range(8):
        sample = training[number]
        flags, length = sample.context.unseen_comparison, len(sample.token_ids)
        assert len(flags) == len(sample.token_regions) == length
        assert complete[number].reference.startswith("comparison is made with the prior study .")
        if number % 2:  # its prior is shown
            assert sample.reference == complete[number].reference
        elif sample.study_id == first:  # nothing else is in its report
            assert sample.reference == complete[number].reference and flags[1:-1].all()
        else:
            assert sample.reference == clean(reports[sample.study_id], "corrected")
    alone = data_set(root, ContextSettings(indication=True), augmentation=Augmentation(0, 0, 0, 0))
    assert all(alone[number].reference == complete[number].reference for number in range(8))


def test_a_model_that_reads_indications_alone_learns_all_sentences(root):
    alone = data_set(root, ContextSettings(indication=True), augmentation=Augmentation(0, 0, 0, 0))
    assert all(alone[number].context.unseen_comparison is None for number in range(8))


def test_texts_are_no_longer_than_a_report(root):
    """The embedding of words has no more positions than that."""
    contexts = [sample.context for sample in (data_set(root, max_tokens=3)[index] for index in range(8))]
    assert max(len(context.indication) for context in contexts) == 3
    assert max(len(context.prior_report) for context in contexts) == 3
