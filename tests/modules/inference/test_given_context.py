"""The previous image that a caller gives: read and doubted as the image itself."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from data.errors import UserError
from data.sources.phantom.dataset import PhantomSettings, prepare_phantom
from modules.inference.demo.studies import ShownContext, open_prior, open_upload, predict
from modules.inference.given_context import GivenContext
from modules.inference.predictor import Predictor
from modules.inference.studies import Study
from tests.support.context.tiny_context import add_context
from tests.support.images.dicom_files import dicom
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_run import save_tiny_run

NOT_FRONTAL = "the previous image: the image does not look like a frontal chest radiograph"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("context")
    root = add_context(write_tiny_dataset(folder / "tiny", image_size=32))
    save_tiny_run(folder / "run", root, "model.context=[prior]", lively=True)
    return Predictor(folder / "run", "cpu")


@pytest.fixture(scope="module")
def frontal(tmp_path_factory):
    """A simulated frontal X-ray, as an array."""
    root = tmp_path_factory.mktemp("phantom") / "data"
    prepare_phantom(root, PhantomSettings(studies=10, image_size=96, prevalence=0), workers=1)
    record = json.loads((root / "records.jsonl").read_text().splitlines()[0])
    return np.asarray(Image.open(root / record["images"][0]))


def reported(predictor, frontal, prior):
    (prediction,) = predictor.predict([Study("now", (frontal,), GivenContext(prior=prior))])
    return prediction


def test_a_previous_image_is_doubted_as_the_image_itself(predictor, frontal):
    assert reported(predictor, frontal, frontal).warnings == []
    assert reported(predictor, frontal, frontal[::-1].copy()).warnings == [NOT_FRONTAL]
    marked = dicom(frontal, ViewPosition="AP", BurnedInAnnotation="YES")
    assert reported(predictor, frontal, marked).warnings == ["the previous image: the file says: annotation burnt in"]


def test_a_previous_image_that_its_file_calls_lateral_is_refused(predictor, frontal, tmp_path):
    """Data sets have no lateral priors, and regions are compared in the frontal view."""
    path = tmp_path / "before.dcm"
    path.write_bytes(dicom(frontal, ViewPosition="LATERAL"))
    with pytest.raises(UserError, match="before.dcm is a LATERAL view: give the frontal image of the previous study"):
        reported(predictor, frontal, path)
    with pytest.raises(UserError, match="the previous image is a LATERAL view"):
        reported(predictor, frontal, path.read_bytes())


def test_a_previous_image_that_cannot_be_read_is_named(predictor, frontal, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.png"):
        reported(predictor, frontal, tmp_path / "nowhere.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"broken\.png"):
        reported(predictor, frontal, str(tmp_path / "broken.png"))


def test_on_the_page_the_doubts_come_and_go_with_the_previous_image(predictor, frontal):
    def encoded(pixels):
        return dicom(pixels, ViewPosition="PA")

    current = open_upload(predictor, encoded(frontal), "now.dcm")
    doubted = open_prior(predictor, current, ShownContext(), encoded(frontal[::-1].copy()), "before.dcm")
    assert doubted.unedited.warnings == [NOT_FRONTAL]
    assert predict(predictor, doubted.study, None, ShownContext(prior=True)).warnings == [NOT_FRONTAL]
    assert predict(predictor, doubted.study, None, ShownContext()).warnings == []
    other = open_prior(predictor, doubted, doubted.shown, encoded(frontal), "another.dcm")
    assert other.unedited.warnings == [] and torch.is_tensor(other.study.context.prior_image)
