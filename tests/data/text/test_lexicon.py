"""The lexicon: plurals, references between the files in `files/lexicon/`, and errors in them."""

from pathlib import Path

import pytest
import yaml

from data.errors import UserError
from data.text.lexicon import Lexicon
from data.text.report_graph import region_groups
from data.text.words import normalise_words

_FILES = Path(__file__).resolve().parents[3] / "files"


@pytest.mark.parametrize(
    ("word", "singular"),
    [
        ("pneumothoraces", "pneumothorax"),
        ("effusions", "effusion"),
        ("opacities", "opacity"),
        ("masses", "mass"),
        ("bases", "base"),
        ("apices", "apex"),
        ("hila", "hilum"),
        ("metastases", "metastasis"),
        ("atelectasis", "atelectasis"),
        ("Bullae", "bulla"),
        ("diaphragms", "diaphragm"),
        ("sulci", "sulcus"),
        ("vertebrae", "vertebra"),
    ],
)
def test_plurals(word, singular):
    assert normalise_words(word) == normalise_words(singular) == [singular]


def test_places_are_regions():
    regions = set(region_groups())
    for place in Lexicon.load().places.values():
        assert set(place.regions_on("left")) | set(place.regions_on("right")) <= regions, place.name


def test_every_label_of_the_vocabulary_has_a_finding():
    categories = yaml.safe_load((_FILES / "attributes.yaml").read_text(encoding="utf-8"))["categories"]
    clinical = {"anatomicalfinding", "disease", "technicalassessment", "tubesandlines", "device", "other"}
    labels = {f"{category}|{label}" for category in clinical for label in categories[category]}
    assert labels == {kind.attribute for kind in Lexicon.load().findings.values()} - {None}


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("findings", lambda content: content["findings"]["edema"].update(at=["nowhere"]), "malformed"),
        ("findings", lambda content: content["qualities"]["elevated"]["of"].update(heart="nothing"), "malformed"),
        ("anatomy", lambda content: content.pop("places"), "malformed"),
    ],
)
def test_a_lexicon_that_refers_to_nothing(tmp_path, file, change, message):
    for source in (_FILES / "lexicon").glob("*.yaml"):
        content = yaml.load(source.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        if source.stem == file:
            change(content)
        (tmp_path / source.name).write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        Lexicon(tmp_path)


def test_a_missing_lexicon(tmp_path):
    with pytest.raises(UserError, match="Cannot read .*anatomy.yaml"):
        Lexicon(tmp_path)
