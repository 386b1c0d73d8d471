"""User edits of the predicted graph."""

import re

import pytest

from data.errors import UserError
from data.text.report_graph import read_report
from modules.inference.graph_edits import GraphEdits


def find_region(prediction, name):
    return next(region for region in prediction.regions if region.name == name)


def test_no_edits_change_nothing(predictor, images):
    assert predictor.predict(images, [GraphEdits()] * len(images)) == predictor.predict(images)


def test_regions_are_switched_on_and_off(predictor, images):
    plain = predictor.predict(images[:1])[0]
    switched = {region.name: not region.selected for region in plain.regions[:12]}
    edited = predictor.predict(images[:1], [GraphEdits(regions=switched)])[0]
    for before, after in zip(plain.regions, edited.regions, strict=True):
        assert after.selected == switched.get(before.name, before.selected)
        assert after.probability == before.probability
    assert all(share for sentence in edited.sentences for share in sentence.regions.values())
    assert not {name for sentence in edited.sentences for name in sentence.regions} & {
        name for name, on in switched.items() if not on
    }


def test_edits_touch_their_own_study_alone(predictor, images):
    plain = predictor.predict(images)
    everything = {name: True for name in predictor.vocabularies.anatomy.names}
    edited = predictor.predict(images, [None, GraphEdits(regions=everything), None])
    assert edited[0] == plain[0] and edited[2] == plain[2]
    assert all(region.selected for region in edited[1].regions) and edited[1].report != plain[1].report


def test_attributes_are_switched_on_and_off(predictor, images):
    plain = predictor.predict(images[:1])[0]
    chosen = next(region for region in plain.regions if region.attributes and region.other_attributes)
    present, absent = next(iter(chosen.attributes)), next(iter(chosen.other_attributes))
    changes = {chosen.name: {present: False, absent: True}}
    edited = find_region(predictor.predict(images[:1], [GraphEdits(attributes=changes)])[0], chosen.name)
    assert absent in edited.attributes and present in edited.other_attributes
    assert edited.attributes[absent] == chosen.other_attributes[absent]


def test_a_drawn_box_replaces_the_models(predictor, images):
    hidden = next(region for region in predictor.predict(images[:1])[0].regions if region.box is None)
    drawn = (4, 6.5, 20, 30)
    edits = GraphEdits(boxes={hidden.name: drawn}, regions={hidden.name: True})
    edited = find_region(predictor.predict(images[:1], [edits])[0], hidden.name)
    assert edited.box == drawn and edited.selected


def test_a_report_on_chosen_regions_alone(predictor, images):
    for prediction in predictor.predict(images, [GraphEdits(only=frozenset({"left lung"}))] * len(images)):
        assert [region.name for region in prediction.regions if region.selected] == ["left lung"]
        assert prediction.report == " ".join(sentence.text for sentence in prediction.sentences)
        for sentence in prediction.sentences:
            assert "left lung" in {name for said in read_report(sentence.text) for name in said.regions}
        if not prediction.sentences:
            assert prediction.warnings[-1] == "the model writes nothing about left lung"


@pytest.mark.parametrize(("edits", "said"), [
    (GraphEdits(regions={"heart": True}), "Unknown region 'heart'"),
    (GraphEdits(only=frozenset({"heart"})), "Unknown region 'heart'"),
    (GraphEdits(attributes={"spine": {"nlp|yes|odd": True}}), "'nlp|yes|odd' is not an attribute"),
    (GraphEdits(boxes={"spine": (5, 5, 5, 9)}), "has no area in the image of 32 x 32"),
    (GraphEdits(boxes={"spine": (50, 5, 60, 9)}), "has no area"),
    (GraphEdits(boxes={"spine": (float("nan"), 5, 60, 9)}), "has no area"),
])
def test_impossible_edits_are_refused(predictor, images, edits, said):
    with pytest.raises(UserError, match=re.escape(said)):
        predictor.predict(images[:1], [edits])
