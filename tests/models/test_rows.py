"""Which weights have rows that stand for words, regions, attributes or observations."""

import dataclasses

import pytest
from torch import nn

from data.text.tokenizer import Tokenizer
from models.rows import Rows, row_meanings
from tests.support.tiny_model import tiny_model, tiny_vocabularies


@pytest.mark.parametrize("settings", [[], ["model.share_attribute_names=true"], ["model.graph_in=none"]])
def test_every_weight_whose_size_follows_the_vocabularies_is_declared(settings):
    vocabularies = tiny_vocabularies()
    larger = dataclasses.replace(
        vocabularies,
        attributes=dataclasses.replace(
            vocabularies.attributes,
            by_region=tuple((*names, f"nlp|yes|{i}") for i, names in enumerate(vocabularies.attributes.by_region)),
        ),
        observations=(*vocabularies.observations, "Another"),
        tokenizer=Tokenizer((*vocabularies.tokenizer.words, "zygoma"), distinct_special_tokens=True),
    )
    before, after = (tiny_model(*settings, vocabularies=each).state_dict() for each in (vocabularies, larger))
    assert before.keys() == after.keys()
    resized = {name for name, value in before.items() if value.shape != after[name].shape}
    declared = row_meanings(tiny_model(*settings))
    assert resized and resized <= declared.keys()
    # The anatomy is the same in both, so the rows of regions keep their sizes.
    assert {rows for name, rows in declared.items() if name not in resized} <= {Rows.REGIONS, Rows.NODE_TYPES}


def test_a_declared_weight_that_was_renamed_is_an_error():
    class Head(nn.Module):
        rows = {"renamed.weight": Rows.WORDS}

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(2, 2)

    with pytest.raises(AttributeError, match="renamed"):
        row_meanings(nn.Sequential(Head()))


def test_a_weight_that_a_model_lacks_is_left_out():
    class Head(nn.Module):
        rows = {"optional.weight": Rows.WORDS, "head.weight": Rows.REGIONS}

        def __init__(self):
            super().__init__()
            self.optional = None
            self.head = nn.Linear(2, 2)

    assert row_meanings(nn.Sequential(Head())) == {"0.head.weight": Rows.REGIONS}
