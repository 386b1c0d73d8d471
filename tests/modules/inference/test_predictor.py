"""Predictions for images outside of a data set, compared with those of main_test.py."""

import json

import numpy as np
import pytest
from PIL import Image

import main_test
from data.errors import UserError
from data.images.image_store import IMAGE_SIDE, encode_image
from data.images.radiograph import read_radiograph
from modules.inference.graph_edits import GraphEdits
from modules.inference.predictor import Predictor
from modules.inference.studies import Study
from tests.support.images.dicom_files import dicom
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_run import prefer_unknown_words, write_tiny_run


def records_of(root, split):
    records = [json.loads(line) for line in (root / "records.jsonl").read_text().splitlines()]
    return [record for record in records if record["split"] == split]


def main_test_entries(run_folder, root, out):
    """The predictions.jsonl of main_test.py for the test split of `root`, by the protocol without <unk>."""
    arguments = ["--checkpoint", str(run_folder), "--data", str(root), "--out", str(out), "--baselines", "none"]
    assert main_test.main([*arguments, "eval.protocol=full"]) == 0
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def without_java():
    """Without Java there is no METEOR, which takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        yield


def assert_same(prediction, entry):
    """Compare a prediction with an entry of predictions.jsonl; boxes to a tenth of a pixel."""
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


def test_no_report_has_an_unknown_word(tmp_path):
    run_folder, root = write_tiny_run(tmp_path)
    prefer_unknown_words(run_folder / "best")
    (record,) = records_of(root, "test")[:1]
    for beam_size in (1, 3):
        predictor = Predictor(run_folder, device="cpu", beam_size=beam_size)
        (prediction,) = predictor.predict([root / record["images"][0]])
        assert prediction.report and "<unk>" not in prediction.report
        assert not any("<unk>" in sentence.text for sentence in prediction.sentences)


def test_prepared_images_get_the_reports_of_main_test(run, predictor, images, tmp_path):
    entries = main_test_entries(*run, tmp_path)
    predictions = predictor.predict(images)
    assert len({prediction.report for prediction in predictions}) > 1 and all(entry["generated"] for entry in entries)
    for prediction, entry in zip(predictions, entries, strict=True):
        assert_same(prediction, entry)


def test_originals_get_the_reports_of_their_prepared_images(run, tmp_path):
    """Large images in several formats, compared with a data set of the images that data.prepare would store."""
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
    # The stored images have the same reports when they are predicted outside of the data set.
    assert [p.report for p in predictor.predict(stored)] == [p.report for p in predictions]


def prepared_bytes(path):
    """The image that data.prepare would store for a file."""
    return encode_image(read_radiograph(path, min_side=IMAGE_SIDE).pixels, IMAGE_SIDE)


def test_two_views_get_the_reports_of_main_test(tmp_path):
    run_folder, root = write_tiny_run(tmp_path, "data.views=2", lively=True, views=2)
    studies = [
        Study(record["id"], tuple(root / image for image in record["images"])) for record in records_of(root, "test")
    ]
    assert {len(study.images) for study in studies} == {1, 2}
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


def test_what_a_prediction_holds(predictor, images):
    prediction = predictor.predict(images[:1])[0]
    assert prediction.name == images[0].name and prediction.image_size == (32, 32)
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
        attributes = predictor.vocabularies.attributes.by_region[predictor.vocabularies.anatomy.index(region.name)]
        if region.box is None:
            assert not (region.selected or region.attributes or region.other_attributes)
        else:
            assert {*region.attributes, *region.other_attributes} == set(attributes)
        assert all(value > 0.5 for value in region.attributes.values())
        assert region.abnormal == any(
            attribute.startswith("anatomicalfinding|yes") or attribute == "nlp|yes|abnormal"
            for attribute in region.attributes
        )
    assert any(region.abnormal for region in prediction.regions)


def test_a_batch_gives_what_single_images_give(predictor, images):
    alone = [predictor.predict([image])[0].report for image in images]
    assert [prediction.report for prediction in predictor.predict(images)] == alone
    assert predictor.predict([]) == []


def test_unreadable_files_are_named(predictor, images, tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(UserError, match="text.png is not a PNG"):
        predictor.predict([images[0], tmp_path / "text.png"])
    with pytest.raises(UserError, match="missing.png"):
        predictor.predict([(images[0], tmp_path / "missing.png")])


@pytest.mark.parametrize(
    "settings", [{"batch_size": 0}, {"beam_size": 0}, {"beam_size": 10**12}, {"batch_size": 2**62}]
)
def test_numbers_out_of_bounds_are_refused(run, settings):
    with pytest.raises(UserError, match="must be at (least 1|most)"):
        Predictor(run[0], device="cpu", **settings)


def test_beam_size_is_the_checkpoints_unless_given(run, predictor, images):
    assert predictor.beam_size == 2 and predictor.batch_size == 2
    greedy = Predictor(run[0], device="cpu", beam_size=1, batch_size=3)
    assert [p.report for p in greedy.predict(images)] != [p.report for p in predictor.predict(images)]
