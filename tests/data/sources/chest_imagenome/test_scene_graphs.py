"""Reading Chest ImaGenome scene graphs; all documents are made up."""

import copy
import json
import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import UserError
from data.ontology import Anatomy
from data.sources.chest_imagenome.scene_graphs import (
    SceneGraphs,
    original_size,
    parse_document,
    read_scene_graph,
    read_splits,
    split_tables,
)
from data.sources.distributions import search_sources
from tests.support.sources.mimic_fixture import FULL_SIZE, scene_object, write_files, write_table


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
     ((float("nan"), 0, 10, 10), None), ((50, 10, 50.0005, 90), None), ((199.9999, 10, 240, 90), None)],
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


def test_all_36_boxes_and_comparisons_with_earlier_films_give_the_29_regions():
    """The seven regions that reports never mention are left out, and changes that contradict each other."""
    names = Anatomy.load().names
    others = ("left cardiac silhouette", "right cardiac silhouette", "descending aorta", "left upper abdomen",
              "right upper abdomen", "left cardiophrenic angle", "right cardiophrenic angle")  # fmt: skip
    document = {
        "image_id": "x", "objects": [box(name, 10, 10, 90, 90) for name in (*names, *others)],
        "attributes": [entry("left lung", ["nlp|yes|abnormal"])],
        "relationships": [{"predicate": "['Improved', 'Worsened']", "bbox_name": "left lung",
                           "relationship_names": ["comparison|yes|improved", "comparison|yes|worsened"],
                           "attributes": ["anatomicalfinding|yes|pneumothorax"]}],
    }  # fmt: skip
    regions = read_scene_graph(document, (100, 100))["regions"]
    assert tuple(regions) == names and all(region["box"] for region in regions.values())
    assert regions["left lung"]["attributes"] == ["nlp|yes|abnormal"] and "change" not in regions["left lung"]


def relationship(region: str, *changes: str, earlier: str = "y") -> dict:
    names = [f"comparison|yes|{each}" for each in changes]
    objects = {"subject_id": f"x_{region}", "object_id": f"{earlier}_{region}"}
    return {"bbox_name": region, "relationship_names": names} | objects


def cued(region: str, *cues: list[str], about: bool = True) -> dict:
    return entry(region, *([["nlp|yes|abnormal"]] * len(cues)), about=about) | {
        "comparison_cues": [[f"comparison|yes|{each}" for each in names] for names in cues],
    }


@pytest.mark.parametrize(("cues", "relationships", "change", "image"), [
    ([["worsened"], []], [], "worsened", None),
    ([[]], [], None, None),
    ([["improved"]], [relationship("spine", "improved")], "improved", "y"),
    ([["improved"]], [relationship("spine", "worsened")], None, None),
    ([["improved", "worsened"]], [], None, None),
    ([[]], [relationship("spine", "no change"), relationship("spine", "no change", earlier="z")], "no change", None),
    ([[]], [relationship("carina", "worsened")], None, None),
    ([["resolved"]], [], "resolved", None),
    ([["confirmed"]], [], None, None),
])
def test_the_change_of_a_region(cues, relationships, change, image):
    document = {"image_id": "x", "objects": [], "attributes": [cued("spine", *cues)], "relationships": relationships}
    region = read_scene_graph(document, (10, 10))["regions"]["spine"]
    assert region.get("change") == change and region.get("compared_with") == image


def test_changes_of_other_regions_and_denied_ones_do_not_count():
    denied = entry("spine", ["nlp|yes|abnormal"]) | {"comparison_cues": [["comparison|no|improved"]]}
    regions = read(attributes=[denied, cued("carina", ["improved"], about=False)])
    assert "change" not in regions["spine"] and "carina" not in regions


def test_entries_of_the_same_region_are_merged():
    regions = read([], [entry("spine", ["nlp|yes|normal"]), entry("spine", ["anatomicalfinding|yes|scoliosis"])])
    assert regions["spine"]["attributes"] == ["nlp|yes|normal", "anatomicalfinding|yes|scoliosis"]


def test_lists_of_unequal_length_are_read_as_far_as_they_agree():
    longer = entry("spine", ["nlp|yes|normal"], ["nlp|yes|abnormal"])
    longer["phrase_IDs"] = longer["phrase_IDs"][:1]
    with pytest.warns(UserWarning, match="differ in number"):
        assert not read([], [longer])["spine"]["abnormal"]
    reasons = []
    read_scene_graph({"objects": [], "attributes": [longer]}, (9, 9), reasons.append)
    assert reasons == ["attributes and phrases of a region differ in number"]


def change(document: dict, path: list, value: object) -> dict:
    """Return a copy of the document with another value at the end of the path, or without it if `value` is "del"."""
    document = copy.deepcopy(document)
    place = document
    for key in path[:-1]:
        place = place[key]
    if value == "del":
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [(["objects"], "del", r"objects \(KeyError"), (["attributes"], "del", r"attributes \(KeyError"),
     (["objects"], 3, "objects"), (["objects", 0, "original_x2"], "del", r"objects\[0\] \(KeyError: 'original_x2'"),
     (["objects", 0, "original_x2"], "wide", r"objects\[0\] \(ValueError"),
     (["objects", 0, "original_x2"], 10**400, r"objects\[0\] \(OverflowError"),
     (["objects", 0], None, r"objects\[0\]"), (["objects", 0, "bbox_name"], [], r"objects\[0\] \(TypeError"),
     (["attributes", 0, "bbox_name"], "del", r"attributes\[0\] \(KeyError: 'bbox_name'"),
     (["attributes", 0, "phrase_IDs"], [7], r"attributes\[0\] \(AttributeError"),
     (["attributes", 0, "attributes", 0], ["no bars"], "attributes of spine"),
     (["attributes", 0, "attributes", 0], None, "attributes of spine")],
)  # fmt: skip
def test_malformed_documents_are_refused_by_name_and_place(path, value, place):
    sound = {"image_id": "image7", "objects": [box("spine", 0, 0, 9, 9)], "attributes": [entry("spine", ["a|yes|b"])]}
    with pytest.raises(UserError, match=f"scene graph of image image7 is malformed: {place}"):
        read_scene_graph(change(sound, path, value), (10, 10))


def test_what_is_no_object_is_refused():
    with pytest.raises(UserError, match="malformed"):
        read_scene_graph([], (10, 10))


# Made-up valid documents, with any part replaced by anything.

_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_regions = st.sampled_from([*Anatomy.load().names, "neck", "unknown", "left cardiac silhouette"])
_corner = st.integers(-300, 600) | st.floats(-1e9, 1e9)
_attributes = st.lists(
    st.builds("|".join, st.tuples(st.sampled_from(["nlp", "disease"]), st.sampled_from(["yes", "no"]),
                                  st.sampled_from(["abnormal", "normal", "goiter"]))), max_size=3,
)  # fmt: skip


@st.composite
def documents(draw) -> dict:
    """Draw a valid document."""
    objects = draw(st.lists(st.builds(box, _regions, _corner, _corner, _corner, _corner), max_size=6))
    phrases = st.lists(_attributes, max_size=3)
    entries = [entry(region, *draw(phrases), about=draw(st.booleans()))
               for region in draw(st.lists(_regions, max_size=4))]  # fmt: skip
    changes = st.sampled_from(["improved", "worsened", "no change", "odd"])
    related = st.lists(st.builds(relationship, _regions, changes, changes), max_size=2)
    return {"image_id": "x", "objects": objects, "attributes": entries, "relationships": draw(related)}


@given(documents(), st.integers(1, 4000), st.integers(1, 4000))
def test_any_sound_document_gives_a_sound_graph(document, width, height):
    regions = read_scene_graph(document, (width, height))["regions"]
    assert set(regions) <= set(Anatomy.load().names)
    for region in regions.values():
        assert region["mentioned"] or not (region["abnormal"] or region["attributes"])
        assert region["abnormal"] or "nlp|yes|abnormal" not in region["attributes"]
        labels = [tuple(attribute.split("|")[::2]) for attribute in region["attributes"]]
        assert len(set(labels)) == len(labels)
        if region["box"] is not None:
            x1, y1, x2, y2 = region["box"]
            assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
    json.dumps(regions, allow_nan=False)


@given(documents(), _anything, st.data())
def test_any_document_gives_a_graph_or_one_line(document, replacement, data):
    paths = [["objects"], ["attributes"], ["relationships"], ["image_id"]]
    for key in ("objects", "attributes", "relationships"):
        for number, part in enumerate(document[key]):
            paths += [[key, number], *([key, number, name] for name in part)]
    document = change(document, data.draw(st.sampled_from(paths)), replacement)
    for read_part in (partial(read_scene_graph, warn=len), original_size):
        try:
            read_part(document, (100, 100))
        except UserError as error:
            assert "is malformed: " in str(error) and "\n" not in str(error)


# The image size that boxes refer to


def graph_with_boxes() -> dict:
    boxes = {"left lung": (1300, 300, 2400, 2500), "right lung": (100, 310, 1200, 2450), "spine": (1100, 0, 1400, 3056)}
    return {"image_id": "x", "objects": [scene_object("x", region, corners) for region, corners in boxes.items()]}


@pytest.mark.parametrize("stored", [FULL_SIZE, (2500, 3003)])
def test_stored_image_of_about_the_original_size_is_the_original(stored):
    assert original_size(graph_with_boxes(), stored) == stored


@pytest.mark.parametrize("stored", [(426, 512), (213, 256), (224, 224), (256, 256)])
def test_original_size_of_a_smaller_copy_is_inferred(stored):
    width, height = original_size(graph_with_boxes(), stored)
    assert math.isclose(width, FULL_SIZE[0], rel_tol=0.02) and math.isclose(height, FULL_SIZE[1], rel_tol=0.02)


@pytest.mark.parametrize("objects", [[], [scene_object("x", "spine", (5, 5, 5, 5))], [box("spine", 1, 2, 3, 4)]])
def test_without_boxes_in_both_frames_the_stored_size_counts(objects):
    assert original_size({"objects": objects}, (64, 48)) == (64, 48)


# Files


@pytest.mark.parametrize("layout", ["zip", "scene_graph", "scene_graph/scene_graph"])
def test_graphs_are_found_zipped_and_at_either_depth(tmp_path, layout):
    content = b"\xef\xbb\xbf" + json.dumps({"image_id": "a"}).encode()
    silver = tmp_path / "chest-imagenome-dataset-1.0.0/silver_dataset"
    inner = "scene_graph" if layout == "zip" else layout
    files = {f"{inner}/a_SceneGraph.json": content, f"{inner}/broken_SceneGraph.json": b"{"}
    write_files(silver, files, silver / "scene_graph.zip" if layout == "zip" else None)
    graphs = SceneGraphs.find(search_sources([tmp_path]))
    members = graphs.members()
    assert graphs.read("a", members.get("a")) == {"image_id": "a"}
    assert graphs.read("absent", members.get("absent")) is None
    with pytest.raises(UserError, match="broken_SceneGraph.json is not JSON"):
        graphs.read("broken", members.get("broken"))


def test_sources_without_graphs(tmp_path):
    assert SceneGraphs.find(search_sources([tmp_path])) is None


@given(st.binary(max_size=60) | _anything.map(lambda content: json.dumps(content).encode()))
def test_any_bytes_are_an_object_or_refused_by_name(content):
    try:
        assert isinstance(parse_document(content, "a/x.json"), dict)
    except UserError as error:
        assert str(error).startswith("a/x.json is not ")


def test_deeply_nested_bytes_are_refused():
    with pytest.raises(UserError, match="a/x.json is not JSON"):
        parse_document(b"[" * 100_000, "a/x.json")


def test_split_tables_are_read_by_column_name(tmp_path):
    columns = ("subject_id", "study_id", "dicom_id", "path", "ViewPosition")
    rows = [(99000001, 99500001 + number, f"{letter}-1", "", "PA") for number, letter in enumerate("abc")]
    for name, row in zip(("train", "valid", "test"), rows, strict=True):
        write_table(tmp_path / f"splits/{name}.csv", ("", *columns), [(0, *row)])
    write_table(tmp_path / "splits/images_to_avoid.csv", columns, rows[:1])
    contents = search_sources([tmp_path])
    tables = split_tables(contents)
    images = list(read_splits(tables, contents.table("images_to_avoid")))
    assert [(image.id, image.study, image.split, image.view) for image in images] == [
        ("a-1", "99500001", "train", "PA"), ("b-1", "99500002", "val", "PA"), ("c-1", "99500003", "test", "PA"),
    ]  # fmt: skip
    assert [image.unwanted for image in images] == ["in images_to_avoid.csv", "", ""]
    assert not any(image.unwanted for image in read_splits(tables, None))
