"""The authors' processed files, as a small made-up copy."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.errors import UserError
from data.ontology import Anatomy, observation_names
from data.prepare import main
from data.records import read_records
from data.sources.chest_imagenome.release import (
    ReleaseSource,
    has_release,
    read_attributes,
    read_coco_boxes,
    region_attributes,
)
from data.sources.distributions import search_sources
from data.sources.source import Dropped, Study
from data.vocabulary_builder import build_vocabularies
from tests.support.sources.mimic_fixture import random_pixels

NAMES = Anatomy.load().names
# Boxes refer to a size of 400 x 500; the stored images are 40 x 50.
BOXES = {
    "full": [(0, [100, 50, 200, 250]), (2, [40, 300, 80, 100]), (2, [100, 350, 80, 100]), (28, [-40, 0, 80, 500])],
    "bare": [],
    "spoilt": [(1, [500, 10, 60, 60]), (1, [10, 10, 0.5, 60])],
}


def coco() -> dict:
    """Return the boxes in COCO format; region ids start at 1000, and one annotation belongs to no region."""
    document = {"info": {"year": 2199}, "images": [], "annotations": [], "categories": []}
    for image, boxes in BOXES.items():
        positions = list(range(len(document["annotations"]), len(document["annotations"]) + len(boxes)))
        document["images"].append(
            {"id": image, "file_name": f"{image}.png", "height": 500, "width": 400, "ann_ids": positions}
        )
        for region, box in boxes:
            document["annotations"].append(
                {"image_id": image, "category_id": 1000 + region, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )
    document["images"][1]["ann_ids"] = [len(document["annotations"]), len(document["annotations"]) + 1]
    document["annotations"] += [
        {"image_id": "bare", "category_id": 7, "bbox": [1, 1, 99, 99], "area": 9},
        {"image_id": "bare", "category_id": 1000, "bbox": [1, 1, 99, 99], "area": 9, "ignore": True},
    ]
    document["categories"] = [{"id": 1000 + number, "name": name} for number, name in enumerate(NAMES)]
    return document


ATTRIBUTES = {
    "full": {
        "region_label": {"region_label": [0, 28], "region_abnormal_labels": [1, 0]},
        NAMES[0]: {"att_labels": [66, 3, 3], "att_abnormal_labels": [1, 0, 0]},
        NAMES[28]: {"att_labels": [], "att_abnormal_labels": []},
    },
    "bare": {"region_label": {"region_label": [0], "region_abnormal_labels": [0]}, NAMES[0]: {"att_labels": [3]}},
}


@pytest.fixture
def release(tmp_path) -> Path:
    """The authors' folder, with images."""
    folder = tmp_path / "datasets/cxr_gnome"
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    reports = {"train": [], "val": [], "test": []}
    for number, image in enumerate([*BOXES, "graphless", "lost"]):
        split = "val" if image == "graphless" else "train"
        reports[split].append({"id": image, "report": f"Report {number}.", "image_path": [f"{image}.png"]})
        if image != "lost":
            Image.fromarray(random_pixels((40, 50))).save(folder / f"images/{image}.png")
    save(folder, "report_ann.json", reports)
    save(folder, "box_train.json", coco())
    attributes = {"attribute_info": {"anything": [1]}, "annotations": {"train": ATTRIBUTES, "val": {}, "test": {}}}
    save(folder, "attribute_anns_id_mhead_ds.json", attributes)
    save(folder, "disease_labels.json", {"train": {image: [1] + [0] * 13 for image in BOXES}, "val": {}})
    return folder


def save(folder: Path, name: str, content: object) -> None:
    (folder / "annotations" / name).write_text(json.dumps(content), encoding="utf-8")


def build_all(folder: Path) -> dict[str, Study | Dropped]:
    source = ReleaseSource([folder], search_sources([folder.parent]), image_size=32)
    return {plan.id: source.build(plan) for plan in source.plans()}


def test_images_with_boxes_and_numbered_attributes(release):
    built = build_all(release)
    full = built["full"]
    assert (full.split, full.report, full.warnings) == ("train", "Report 0.", ())
    assert [(image.pixels.shape, image.view) for image in full.images] == [((50, 40), "FRONTAL")]
    assert full.graph == {
        "box_source": "annotated",
        "regions": {
            NAMES[0]: {"box": [0.25, 0.1, 0.75, 0.6], "mentioned": True, "abnormal": True,
                       "attributes": [f"{NAMES[0]}/66", f"{NAMES[0]}/3"]},
            NAMES[28]: {"box": [0.0, 0.0, 0.1, 1.0], "mentioned": True, "abnormal": False, "attributes": []},
            NAMES[2]: {"box": [0.1, 0.6, 0.45, 0.9], "mentioned": False, "abnormal": False, "attributes": []},
        },
    }  # fmt: skip
    assert full.observations == {name: int(name == observation_names()[0]) for name in observation_names()}


def test_images_without_boxes_or_attributes(release):
    built = build_all(release)
    assert built["bare"].graph["regions"] == {
        NAMES[0]: {"box": None, "mentioned": True, "abnormal": False, "attributes": [f"{NAMES[0]}/3"]}
    }
    assert built["spoilt"].graph["regions"] == {}
    graphless = built["graphless"]
    assert (graphless.split, graphless.graph, graphless.warnings) == ("val", None, ("no scene graph",))
    assert graphless.observations is None
    assert built["lost"] == Dropped("lost", "missing image")


def test_detected_boxes_are_said_to_come_from_a_file(release):
    (release / "annotations/box_train.json").rename(release / "annotations/box_train_dino_th05.json")
    assert build_all(release)["full"].graph["box_source"] == "file"


def test_damaged_image_and_empty_report_are_dropped(release):
    (release / "images/full.png").write_bytes(b"no image")
    reports = json.loads((release / "annotations/report_ann.json").read_text(encoding="utf-8"))
    reports["train"][1]["report"] = " "
    save(release, "report_ann.json", reports)
    built = build_all(release)
    assert built["full"].reason == "damaged image" and built["bare"].reason == "no report"


def test_command_and_vocabulary(release, tmp_path, capsys):
    out = tmp_path / "prepared"
    assert main(["chest_imagenome", "--source", str(release), "--out", str(out), "--workers", "1"]) == 0
    printed = capsys.readouterr()
    assert "the authors' processed files" in printed.out
    assert not re.search(r"Report \d", printed.out + printed.err)
    assert len(read_records(out, "train")) == 3
    attributes = build_vocabularies(out, "mimic_cxr", 1, 1, True).attributes
    assert attributes.by_region[0] == (f"{NAMES[0]}/3", f"{NAMES[0]}/66")


def test_what_is_missing_is_named(release, tmp_path):
    assert has_release(search_sources([release])) and not has_release(search_sources([release / "images"]))
    (release / "annotations/attribute_anns_id_mhead_ds.json").unlink()
    with pytest.raises(UserError, match="No attribute_anns_id_mhead_ds.json at"):
        build_all(release)


def test_without_images_or_arrow_files(release):
    (release / "images").rename(release / "elsewhere")
    with pytest.raises(UserError, match="neither a folder images/ nor an Arrow file"):
        build_all(release)


def test_arrow_files_need_pyarrow(release, monkeypatch):
    (release / "images").rename(release / "elsewhere")
    (release / "cxr_gnome_train_ft_atsg.arrow").touch()
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"cxr_gnome_train_ft_atsg.arrow needs pyarrow: pip install pyarrow, or give"):
        build_all(release)


def test_images_of_arrow_files(release):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    with_files = build_all(release)
    images = sorted((release / "images").iterdir())
    columns = {"image": [path.read_bytes() for path in images], "image_id": [path.stem for path in images]}
    table = pyarrow.table(columns)
    with pyarrow.ipc.new_file(str(release / "cxr_gnome_train_ft_atsg.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    (release / "images").rename(release / "elsewhere")
    built = build_all(release)
    assert built["lost"] == Dropped("lost", "missing image")
    for image in BOXES:
        assert (built[image].images[0].pixels == with_files[image].images[0].pixels).all()


def test_file_that_is_no_arrow_file_is_named(release):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (release / "images").rename(release / "elsewhere")
    (release / "x.arrow").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="x.arrow is not an Arrow file"):
        build_all(release)


# Malformed files


@pytest.mark.parametrize(
    ("part", "position", "key", "value", "place"),
    [
        ("images", 1, "width", 0, "images"),
        ("images", 1, "height", "tall", r"images\[1\]"),
        ("images", 0, "ann_ids", [99], "images"),
        ("images", 0, "ann_ids", [-1], "images"),
        ("images", 0, "ann_ids", 3, r"images\[0\]"),
        ("images", 0, "id", None, None),
        ("annotations", 2, "bbox", [1, 2, 3], r"annotations\[2\]"),
        ("annotations", 2, "bbox", [1, 2, 3, "x"], r"annotations\[2\]"),
        ("annotations", 2, "area", None, r"annotations\[2\]"),
        ("categories", 0, "id", "del", r"categories\[0\]"),
    ],
)
def test_malformed_boxes_are_refused_by_file_and_place(tmp_path, part, position, key, value, place):
    document = coco()
    if value == "del":
        del document[part][position][key]
    else:
        document[part][position][key] = value
    path = tmp_path / "box_train.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    if place is None:
        assert set(read_coco_boxes(path)) == {"None", *BOXES} - {"full"}
        return
    with pytest.raises(UserError, match=f"box_train.json: {place} is malformed"):
        read_coco_boxes(path)


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.data(), _anything)
def test_any_boxes_are_read_or_refused_by_file(tmp_path_factory, data, value):
    document = coco()
    part = data.draw(st.sampled_from(["images", "annotations", "categories"]))
    entry = data.draw(st.sampled_from(document[part]))
    entry[data.draw(st.sampled_from(list(entry)))] = value
    path = tmp_path_factory.mktemp("boxes") / "box_train.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    try:
        for boxes in read_coco_boxes(path).values():
            assert ((boxes[:, 1:] >= 0) & (boxes[:, 1:] <= 1)).all()
            assert np.isin(boxes[:, 0], range(29)).all()
    except UserError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)


@given(st.data(), _anything)
def test_any_attributes_are_read_or_refused(data, value):
    entry = json.loads(json.dumps(ATTRIBUTES["full"]))
    place = data.draw(st.sampled_from([entry, *entry.values()]))
    place[data.draw(st.sampled_from(list(place)))] = value
    try:
        regions = region_attributes(entry, "image full")
        assert set(regions) <= set(NAMES)
        assert all(text.startswith(name + "/") for name in regions for text in regions[name]["attributes"])
    except UserError as error:
        assert str(error).startswith("The attributes of image full are malformed (")


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"annotations": {"holdout": {}}}', "unknown split 'holdout'"),
     ('{"annotations": []}', "not JSON of the expected"),
     ('{"annotations": {"train": {"a": }}}', "not JSON of the expected"), ("", "not JSON of the expected")],
)  # fmt: skip
def test_malformed_attribute_file_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "attribute_anns.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"attribute_anns.json.*{message}"):
        read_attributes(path)
