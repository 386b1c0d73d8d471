"""Reading studies: the forms of an image, and the choice of the frontal view."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from data.errors import UserError
from data.sources.phantom.dataset import PhantomSettings, prepare_phantom
from modules.inference.graph_edits import GraphEdits
from modules.inference.predictor import Predictor
from tests.support.images.dicom_files import dicom

# Forms of an image


def test_every_form_of_an_image_reads_the_same(predictor, images):
    path = images[0]
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
    with pytest.raises(UserError, match="image 1 is an array of .* use"):
        predictor.predict([array])


def test_an_array_without_pixels(predictor):
    with pytest.raises(UserError, match="image 1 has 0 x 4 pixels"):
        predictor.predict([np.zeros((4, 0), dtype=np.uint8)])


# Views and warnings


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """A frontal and a lateral simulated X-ray of one patient, as arrays."""
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
    assert "LATERAL" in prediction.warnings[0] and "no graph to edit" in prediction.warnings[1]
    assert prediction.report


def test_frontal_view_is_found_in_a_study(predictor, phantom):
    frontal, lateral = phantom
    expected = predictor.read(dicom(frontal, ViewPosition="PA"))
    assert expected.warnings == ()
    pair = (dicom(lateral, ViewPosition="LL"), dicom(frontal, ViewPosition="PA"))
    swapped = predictor.read(pair)
    assert torch.equal(swapped.pixels, expected.pixels)
    assert [warning.split(":")[0] for warning in swapped.warnings] == [
        "the first image is not a frontal view", "this model uses 1 image per study",
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
