"""The 29 regions and the 14 observations in `files/`."""

import pytest
import yaml

from data.errors import UserError
from data.ontology import FILES, Anatomy, five_observation_names, observation_names


def test_the_shipped_anatomy():
    anatomy = Anatomy.load()
    assert len(anatomy.names) == len(set(anatomy.names)) == 29
    assert anatomy.boxes.shape == (29, 4)
    assert all(anatomy.names[anatomy.index(name)] == name for name in anatomy.names)
    assert (anatomy.names[0], anatomy.names[13], anatomy.names[28]) == ("left lung", "aortic arch", "spine")
    for entry in anatomy.regions:
        if entry.mirror is not None:
            other = anatomy.regions[anatomy.index(entry.mirror)]
            assert other.mirror == entry.name and {entry.side, other.side} == {"left", "right"}
            # The patient's left is on the right of the image.
            assert (entry.box[0] > other.box[0]) == (entry.side == "left")


def test_an_unknown_region_is_named():
    with pytest.raises(UserError, match="Unknown region 'neck'; it is not one of the 29 known names"):
        Anatomy.load().index("neck")


def test_an_atlas_file_changes_boxes_only(tmp_path):
    content = {"regions": Anatomy.load().to_list()}
    content["regions"][3]["box"] = [0.1, 0.2, 0.3, 0.4]
    path = tmp_path / "atlas.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert Anatomy.load(path).regions[3].box == (0.1, 0.2, 0.3, 0.4)
    content["regions"].reverse()
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(UserError, match="another order"):
        Anatomy.load(path)


@pytest.mark.parametrize(
    "text", ["regions: [1, 2]", "[]", "regions: [{name: a, side: null, mirror: null, box: [1, 0, 0, 1]}]"]
)
def test_a_file_that_is_no_anatomy_is_named(tmp_path, text):
    path = tmp_path / "atlas.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"atlas\.yaml is not an anatomy"):
        Anatomy.load(path)


def test_a_missing_anatomy_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.yaml \(No such file"):
        Anatomy.load(tmp_path / "gone.yaml")


def test_observations_are_alphabetical_and_map_to_existing_attributes():
    assert len(observation_names()) == 14 and list(observation_names()) == sorted(observation_names())
    assert len(five_observation_names()) == 5 and set(five_observation_names()) < set(observation_names())
    mapping = yaml.safe_load((FILES / "observations.yaml").read_text(encoding="utf-8"))["from_attributes"]
    labels = yaml.safe_load((FILES / "attributes.yaml").read_text(encoding="utf-8"))["categories"]
    assert set(mapping) == set(observation_names()) - {"No Finding"}
    for attribute in (attribute for attributes in mapping.values() for attribute in attributes):
        category, label = attribute.split("|")
        assert label in labels[category]


def test_the_attribute_file_holds_the_whole_vocabulary():
    content = yaml.safe_load((FILES / "attributes.yaml").read_text(encoding="utf-8"))
    sizes = {category: len(set(labels)) for category, labels in content["categories"].items()}
    assert sizes == {"anatomicalfinding": 43, "disease": 10, "technicalassessment": 5, "tubesandlines": 12, "device": 5,
                     "nlp": 2, "texture": 5, "severity": 4, "temporal": 2, "laterality": 3, "other": 9}
    assert set(content["rules"]["default"]) == set(sizes) - {"severity", "temporal", "laterality", "other"}
