"""Reports for images outside of a data set: equal to main_test.py's, whatever form the image comes in, and editable."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import main_test
from data.errors import UserError
from data.images.image_store import IMAGE_SIDE, encode_image
from data.images.radiograph import read_radiograph
from data.sources.phantom.dataset import PhantomSettings, prepare_phantom
from data.text.report_graph import read_report
from modules.inference.predictor import GraphEdits, Predictor, Study
from tests.support.dicom_files import dicom
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_run import write_tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder whose model writes whole reports that differ from image to image, and its data set's root."""
    return write_tiny_run(tmp_path_factory.mktemp("predictor"), lively=True)


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor(run[0], device="cpu")


@pytest.fixture(scope="module")
def pictures(run):
    """The test images of the data set as paths."""
    return [run[1] / record["images"][0] for record in records_of(run[1], "test")]


def records_of(root, split):
    records = [json.loads(line) for line in (root / "records.jsonl").read_text().splitlines()]
    return [record for record in records if record["split"] == split]


def main_test_entries(run_folder, root, out):
    """What main_test.py predicts for the test split of `root`."""
    assert main_test.main(["--checkpoint", str(run_folder), "--data", str(root), "--out", str(out)]) == 0
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def without_java():
    """METEOR is of no interest here and takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        yield


# The same as main_test.py


def assert_same(prediction, entry):
    """A prediction and an entry of predictions.jsonl say the same; boxes to a tenth of a pixel."""
    assert prediction.report == entry["generated"]
    assert " ".join(sentence.text for sentence in prediction.sentences) == entry["generated"]
    assert [sentence.confidence for sentence in prediction.sentences] == pytest.approx(
        [sentence["confidence"] for sentence in entry["sentences"]], abs=1e-5
    )
    assert prediction.observations == entry["observations"]
    width, height = prediction.image_size
    for region in prediction.regions:
        expected = entry["regions"][region.name]
        assert region.probability == expected["probability"]
        assert region.visible_probability == expected["visible_probability"]
        assert region.selected == expected["selected"]
        if region.box is not None:
            assert region.box == pytest.approx(np.array(expected["box"]) * [width, height, width, height], abs=0.06)
        if region.selected:
            assert region.attributes == entry["attributes"].get(region.name, {})


def test_prepared_images_get_the_reports_of_main_test(run, predictor, pictures, tmp_path):
    entries = main_test_entries(*run, tmp_path)
    predictions = predictor.predict(pictures)
    assert len({prediction.report for prediction in predictions}) > 1 and all(entry["generated"] for entry in entries)
    for prediction, entry in zip(predictions, entries, strict=True):
        assert_same(prediction, entry)


def test_originals_get_the_reports_of_their_prepared_images(run, tmp_path):
    """Large pictures of many kinds, as data.prepare would reduce and store them."""
    root = write_tiny_dataset(tmp_path / "prepared", train=0, val=0, test=4, image_size=64)
    generator = np.random.default_rng(3)
    originals, stored = [], []
    for number, kind in enumerate(["png", "jpg", "tiff", "dcm"]):
        blurred = Image.fromarray(generator.integers(0, 255, (12, 10), dtype=np.uint8)).resize((700, 900))
        path = tmp_path / f"original{number}.{kind}"
        path.write_bytes(dicom(np.asarray(blurred))) if kind == "dcm" else blurred.save(path)
        originals.append(path)
    records = records_of(root, "test")
    for record, path in zip(records, originals, strict=True):
        stored.append(prepared_bytes(path))
        record["images"] = [f"images/{record['id']}.jpg"]
        (root / record["images"][0]).write_bytes(stored[-1])
    (root / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    predictor = Predictor(run[0], device="cpu")
    predictions = predictor.predict(originals)
    for prediction, entry in zip(predictions, main_test_entries(run[0], root, tmp_path / "out"), strict=True):
        assert_same(prediction, entry)
        assert prediction.image_size == (700, 900)
    # Taken out of the data set, the stored images get them too.
    assert [p.report for p in predictor.predict(stored)] == [p.report for p in predictions]


def prepared_bytes(path):
    """The image that data.prepare stores of a file."""
    return encode_image(read_radiograph(path, at_least=IMAGE_SIDE).pixels, IMAGE_SIDE)


def test_two_views_get_the_reports_of_main_test(tmp_path):
    run_folder, root = write_tiny_run(tmp_path, "data.views=2", lively=True, views=2)
    studies = [
        Study(record["id"], tuple(root / image for image in record["images"])) for record in records_of(root, "test")
    ]
    assert {len(study.pictures) for study in studies} == {1, 2}
    predictions = Predictor(run_folder, device="cpu").predict(studies)
    for prediction, entry in zip(predictions, main_test_entries(run_folder, root, tmp_path / "out"), strict=True):
        assert_same(prediction, entry)
        assert prediction.name == entry["id"]


@pytest.mark.parametrize("overrides", [
    ["eval.box_source=atlas"], ["model.localizer=false", "eval.box_source=atlas"], ["model.graph_in=none"],
    ["model.observation_head=false", "train.precision=bf16"],
])
def test_models_of_other_kinds(tmp_path, overrides):
    run_folder, root = write_tiny_run(tmp_path, *overrides, lively=True)
    images = [root / record["images"][0] for record in records_of(root, "test")]
    predictions = Predictor(run_folder, device="cpu").predict(images)
    for prediction, entry in zip(predictions, main_test_entries(run_folder, root, tmp_path / "out"), strict=True):
        assert_same(prediction, entry)
    assert len(predictions[0].regions) == (0 if "model.graph_in=none" in overrides else 29)
    assert bool(predictions[0].observations) == ("model.observation_head=false" not in overrides)
    if "model.graph_in=none" in overrides:
        with pytest.raises(UserError, match="no scene graph to edit"):
            Predictor(run_folder, device="cpu").predict(images[:1], [GraphEdits()])


def test_what_a_prediction_holds(predictor, pictures):
    prediction = predictor.predict(pictures[:1])[0]
    assert prediction.name == pictures[0].name and prediction.image_size == (32, 32)
    assert [region.name for region in prediction.regions] == list(predictor.vocabularies.anatomy.names)
    assert list(prediction.observations) == list(predictor.vocabularies.observations)
    selected = {region.name for region in prediction.regions if region.selected}
    assert 0 < len(selected) < 29
    for sentence in prediction.sentences:
        shares = list(sentence.regions.values())
        assert set(sentence.regions) <= selected and shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-4)
        assert 0 <= sentence.confidence <= 1
    for region in prediction.regions:
        known = predictor.vocabularies.attributes.by_region[predictor.vocabularies.anatomy.index(region.name)]
        if region.box is None:
            assert not (region.selected or region.attributes or region.other_attributes)
        else:
            assert {*region.attributes, *region.other_attributes} == set(known)
        assert all(value > 0.5 for value in region.attributes.values())
        assert region.abnormal == any(
            attribute.startswith("anatomicalfinding|yes") or attribute == "nlp|yes|abnormal"
            for attribute in region.attributes
        )
    assert any(region.abnormal for region in prediction.regions)


# Forms of an image


def test_every_form_of_an_image_reads_the_same(predictor, pictures):
    path = pictures[0]
    with Image.open(path) as image:
        forms = [path, str(path), path.read_bytes(), image, np.asarray(image), np.asarray(image.convert("RGB"))]
        read = [predictor.read(form) for form in forms]
    for study in read[1:]:
        assert torch.equal(study.pixels, read[0].pixels) and study.image_size == read[0].image_size
    assert [study.name for study in read] == [path.name] * 2 + ["the image"] * 4


def test_large_images_in_memory_read_as_their_files(predictor, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4000, (300, 500)).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    from_file = predictor.read(tmp_path / "large.png")
    assert from_file.image_size == (500, 300)
    for form in (pixels, pixels.astype(np.float64), Image.fromarray(pixels)):
        assert torch.equal(predictor.read(form).pixels, from_file.pixels)


@pytest.mark.parametrize("array", [np.zeros(5), np.zeros((3, 3, 3)), np.zeros((2, 2), dtype=complex)])
def test_arrays_that_are_no_image(predictor, array):
    with pytest.raises(UserError, match="image 1 is an array of .* give"):
        predictor.predict([array])


def test_an_array_without_pixels(predictor):
    with pytest.raises(UserError, match="image 1 has 0 x 4 pixels"):
        predictor.predict([np.zeros((4, 0), dtype=np.uint8)])


def test_a_batch_gives_what_single_images_give(predictor, pictures):
    alone = [predictor.predict([picture])[0].report for picture in pictures]
    assert [prediction.report for prediction in predictor.predict(pictures)] == alone
    assert predictor.predict([]) == []


def test_unreadable_files_are_named(predictor, pictures, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(UserError, match="text.png is no PNG"):
        predictor.predict([pictures[0], tmp_path / "text.png"])
    with pytest.raises(UserError, match="missing.png"):
        predictor.predict([(pictures[0], tmp_path / "missing.png")])


# Views and doubts


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """A frontal and a lateral phantom of one patient as arrays."""
    root = tmp_path_factory.mktemp("phantom") / "data"
    prepare_phantom(root, PhantomSettings(studies=10, image_size=96, two_views=True, prevalence=0), workers=1)
    record = json.loads((root / "records.jsonl").read_text().splitlines()[0])
    return [np.asarray(Image.open(root / image)) for image in record["images"]]


def test_frontal_phantom_is_not_doubted_and_others_are(predictor, phantom):
    frontal, _ = phantom
    assert predictor.read(frontal).warnings == ()
    for other in (frontal[::-1], 255 - frontal, frontal.T, np.full((90, 80), 7, dtype=np.uint8)):
        assert predictor.read(np.ascontiguousarray(other)).warnings == (
            "the image does not look like a frontal chest radiograph",
        )


def test_lateral_by_its_file_has_no_regions(predictor, phantom):
    content = dicom(phantom[0], ViewPosition="LATERAL")
    prediction = predictor.predict([content], [GraphEdits(regions={"spine": True})])[0]
    assert not any(region.selected or region.box for region in prediction.regions)
    assert "LATERAL" in prediction.warnings[0] and "no graph to change" in prediction.warnings[1]
    assert prediction.report


def test_frontal_view_is_found_in_a_study(predictor, phantom):
    frontal, lateral = phantom
    expected = predictor.read(dicom(frontal, ViewPosition="PA"))
    assert expected.warnings == ()
    pair = (dicom(lateral, ViewPosition="LL"), dicom(frontal, ViewPosition="PA"))
    swapped = predictor.read(pair)
    assert torch.equal(swapped.pixels, expected.pixels)
    assert [warning.split(":")[0] for warning in swapped.warnings] == [
        "the first image is no frontal view", "this model looks at 1 image a study",
    ]
    unknown = predictor.read((255 - frontal, frontal))
    assert torch.equal(unknown.pixels, predictor.read(frontal).pixels)


def test_doubts_of_dicom_files_are_passed_on(predictor, phantom):
    study = predictor.read(dicom(phantom[0], ViewPosition="AP", BurnedInAnnotation="YES"))
    assert study.warnings == ("the file says: annotation burnt in",)


def test_window_of_a_dicom_file(run, predictor, phantom):
    content = dicom(phantom[0].astype(np.uint16) * 16, WindowCenter="1000", WindowWidth="300", ViewPosition="PA")
    windowed = Predictor(run[0], device="cpu", window=True).read(content)
    assert not torch.equal(windowed.pixels, predictor.read(content).pixels)


# Edits


def region(prediction, name):
    return next(region for region in prediction.regions if region.name == name)


def test_no_edits_change_nothing(predictor, pictures):
    assert predictor.predict(pictures, [GraphEdits()] * len(pictures)) == predictor.predict(pictures)


def test_regions_are_switched_on_and_off(predictor, pictures):
    plain = predictor.predict(pictures[:1])[0]
    switched = {region.name: not region.selected for region in plain.regions[:12]}
    edited = predictor.predict(pictures[:1], [GraphEdits(regions=switched)])[0]
    for before, after in zip(plain.regions, edited.regions, strict=True):
        assert after.selected == switched.get(before.name, before.selected)
        assert after.probability == before.probability
    assert all(share for sentence in edited.sentences for share in sentence.regions.values())
    assert not {name for sentence in edited.sentences for name in sentence.regions} & {
        name for name, wanted in switched.items() if not wanted
    }


def test_edits_touch_their_own_study_alone(predictor, pictures):
    plain = predictor.predict(pictures)
    everything = {name: True for name in predictor.vocabularies.anatomy.names}
    edited = predictor.predict(pictures, [None, GraphEdits(regions=everything), None])
    assert edited[0] == plain[0] and edited[2] == plain[2]
    assert all(region.selected for region in edited[1].regions) and edited[1].report != plain[1].report


def test_attributes_are_switched_on_and_off(predictor, pictures):
    plain = predictor.predict(pictures[:1])[0]
    chosen = next(region for region in plain.regions if region.attributes and region.other_attributes)
    given, absent = next(iter(chosen.attributes)), next(iter(chosen.other_attributes))
    changes = {chosen.name: {given: False, absent: True}}
    edited = region(predictor.predict(pictures[:1], [GraphEdits(attributes=changes)])[0], chosen.name)
    assert absent in edited.attributes and given in edited.other_attributes
    assert edited.attributes[absent] == chosen.other_attributes[absent]


def test_a_drawn_box_replaces_the_models(predictor, pictures):
    hidden = next(region for region in predictor.predict(pictures[:1])[0].regions if region.box is None)
    drawn = (4, 6.5, 20, 30)
    edits = GraphEdits(boxes={hidden.name: drawn}, regions={hidden.name: True})
    edited = region(predictor.predict(pictures[:1], [edits])[0], hidden.name)
    assert edited.box == drawn and edited.selected


def test_a_report_on_chosen_regions_alone(predictor, pictures):
    for prediction in predictor.predict(pictures, [GraphEdits(only=frozenset({"left lung"}))] * len(pictures)):
        assert [region.name for region in prediction.regions if region.selected] == ["left lung"]
        assert prediction.report == " ".join(sentence.text for sentence in prediction.sentences)
        for sentence in prediction.sentences:
            assert "left lung" in {name for said in read_report(sentence.text) for name in said.regions}
        if not prediction.sentences:
            assert prediction.warnings[-1] == "the model writes nothing about left lung"


@pytest.mark.parametrize(("edits", "said"), [
    (GraphEdits(regions={"heart": True}), "'heart' is none of the 29 regions"),
    (GraphEdits(only=frozenset({"heart"})), "'heart' is none of the 29 regions"),
    (GraphEdits(attributes={"spine": {"nlp|yes|odd": True}}), "'nlp|yes|odd' is no attribute"),
    (GraphEdits(boxes={"spine": (5, 5, 5, 9)}), "has no area in the image of 32 x 32"),
    (GraphEdits(boxes={"spine": (50, 5, 60, 9)}), "has no area"),
    (GraphEdits(boxes={"spine": (float("nan"), 5, 60, 9)}), "has no area"),
])
def test_impossible_edits_are_refused(predictor, pictures, edits, said):
    with pytest.raises(UserError, match=re.escape(said)):
        predictor.predict(pictures[:1], [edits])


# Settings


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"beam_size": 0}])
def test_numbers_below_one_are_refused(run, settings):
    with pytest.raises(UserError, match="must be at least 1"):
        Predictor(run[0], device="cpu", **settings)


def test_beam_size_is_the_checkpoints_unless_given(run, predictor, pictures):
    assert predictor.beam_size == 2 and predictor.batch_size == 2
    greedy = Predictor(run[0], device="cpu", beam_size=1, batch_size=3)
    assert [p.report for p in greedy.predict(pictures)] != [p.report for p in predictor.predict(pictures)]
