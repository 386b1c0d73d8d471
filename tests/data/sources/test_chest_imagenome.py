"""Reading Chest ImaGenome scene graphs; all documents are invented."""

import copy

import pytest

from data.errors import UserError
from data.sources.chest_imagenome import read_scene_graph


def box(region: str, *corners: float) -> dict:
    return {"bbox_name": region} | dict(zip([f"original_{c}" for c in ("x1", "y1", "x2", "y2")], corners, strict=True))


def entry(region: str, *phrases: list[str], about: bool = True) -> dict:
    return {"bbox_name": region, region: about, "attributes": list(phrases),
            "phrase_IDs": [f"77|{number}" for number in range(len(phrases))]}


def read(objects: list[dict] = (), attributes: list[dict] = (), size: tuple[int, int] = (200, 100)) -> dict:
    document = {"image_id": "x", "objects": list(objects), "attributes": list(attributes)}
    return read_scene_graph(document, size)["regions"]


def test_boxes_are_divided_by_width_and_height():
    regions = read([box("left lung", 100, 25, 150, 75)])
    assert regions == {"left lung": {"box": [0.5, 0.25, 0.75, 0.75], "mentioned": False, "abnormal": False,
                                     "attributes": []}}


@pytest.mark.parametrize(
    ("corners", "expected"),
    [((-20, -10, 100, 50), [0, 0, 0.5, 0.5]), ((100, 50, 260, 130), [0.5, 0.5, 1, 1]), ((50, 10, 50, 90), None),
     ((-50, 10, -1, 90), None), ((200, 0, 240, 50), None), ((80, 40, 20, 60), None),
     ((float("nan"), 0, 10, 10), None)],
)
def test_boxes_are_cut_at_the_border_and_dropped_when_empty(corners, expected):
    assert read([box("svc", *corners)]).get("svc", {"box": None})["box"] == expected


def test_boxes_of_the_same_region_are_joined():
    assert read([box("spine", 20, 10, 40, 50), box("spine", 30, 20, 60, 100)])["spine"]["box"] == [0.1, 0.1, 0.3, 1.0]


def test_a_mentioned_region_without_a_box_stays():
    regions = read([], [entry("carina", ["anatomicalfinding|no|mediastinal displacement", "nlp|yes|normal"])])
    assert regions["carina"] == {
        "box": None, "mentioned": True, "abnormal": False,
        "attributes": ["anatomicalfinding|no|mediastinal displacement", "nlp|yes|normal"]}


def test_one_abnormal_phrase_makes_the_region_abnormal():
    regions = read([], [entry("left lung", ["nlp|yes|abnormal"], ["nlp|yes|normal"])])
    assert regions["left lung"]["abnormal"]
    assert not read([], [entry("left lung", ["nlp|no|abnormal"])])["left lung"]["abnormal"]


def test_the_last_mention_wins():
    changing = [["anatomicalfinding|yes|pneumothorax"], ["anatomicalfinding|no|pneumothorax"]]
    assert read([], [entry("left lung", *changing)])["left lung"]["attributes"] == [changing[1][0]]
    shuffled = entry("left lung", *changing)
    shuffled["phrase_IDs"] = ["77|12", "77|3"]
    assert read([], [shuffled])["left lung"]["attributes"] == [changing[0][0]]


def test_attributes_are_unique():
    again = ["anatomicalfinding|yes|scoliosis"]
    assert read([], [entry("spine", again, again)])["spine"]["attributes"] == again


@pytest.mark.parametrize("region", ["neck", "unknown", "left breast", "left cardiac silhouette"])
def test_other_regions_are_left_out(region):
    assert read([box(region, 0, 0, 50, 50)], [entry(region, ["nlp|yes|abnormal"])]) == {}


def test_entries_that_are_not_about_their_region_are_left_out():
    assert read([], [entry("abdomen", ["nlp|yes|abnormal"], about=False)]) == {}


def test_entries_of_the_same_region_are_merged():
    regions = read([], [entry("spine", ["nlp|yes|normal"]), entry("spine", ["anatomicalfinding|yes|scoliosis"])])
    assert regions["spine"]["attributes"] == ["nlp|yes|normal", "anatomicalfinding|yes|scoliosis"]


def test_lists_of_unequal_length_are_read_as_far_as_they_agree():
    longer = entry("spine", ["nlp|yes|normal"], ["nlp|yes|abnormal"])
    longer["phrase_IDs"] = longer["phrase_IDs"][:1]
    with pytest.warns(UserWarning, match="differ in number"):
        assert not read([], [longer])["spine"]["abnormal"]


def test_malformed_documents_are_refused_by_name():
    sound = {"image_id": "image7", "objects": [box("spine", 0, 0, 9, 9)], "attributes": [entry("spine", ["a|yes|b"])]}
    for damage in (
        lambda d: d.pop("objects"), lambda d: d.pop("attributes"), lambda d: d["objects"][0].pop("original_x2"),
        lambda d: d["attributes"][0]["attributes"].__setitem__(0, ["no bars"]), lambda d: d.update(objects=3),
    ):
        document = copy.deepcopy(sound)
        damage(document)
        with pytest.raises(UserError, match="scene graph of image image7 is malformed"):
            read_scene_graph(document, (10, 10))
    with pytest.raises(UserError, match="malformed"):
        read_scene_graph([], (10, 10))
