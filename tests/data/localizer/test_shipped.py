"""The shipped localizer: 29 boxes for any image, from a file of half precision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.images.atlas import atlas_boxes
from data.localizer.network import BoxNetwork
from data.localizer.shipped import LOCALIZER_FILE, describe_localizer, find_boxes, localize, save_network
from data.ontology import Anatomy
from tests.support.sources.phantoms import healthy


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("localizer") / "random.safetensors"
    save_network(BoxNetwork(29), path)
    return path


@settings(deadline=None, max_examples=8)
@given(height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 99))
def test_any_picture_gets_29_boxes_inside_it(weights, height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    boxes = localize(pixels, weights)
    assert list(boxes) == list(Anatomy.load().names)
    corners = np.array(list(boxes.values()))
    assert corners.min() >= 0 and corners.max() <= 1 and (corners[:, :2] < corners[:, 2:]).all()
    assert boxes == localize(pixels, weights)


def test_the_best_boxes_are_means_for_the_lungs_and_the_localizers_for_the_rest(weights, monkeypatch):
    view = healthy(2)
    localized, fitted, both = localize(view.image, weights), atlas_boxes(view.image), find_boxes(view.image, weights)
    for region in Anatomy.load().regions:
        one, other = localized[region.name], fitted[region.name]
        expected = one if region.side is None else (np.array(one) + other) / 2
        np.testing.assert_allclose(both[region.name], expected, atol=1e-5)
    monkeypatch.setattr("data.localizer.shipped.find_lungs", lambda pixels: None)
    assert find_boxes(view.image, weights) == localized


def test_half_precision_hardly_moves_boxes(tmp_path):
    torch.manual_seed(1)
    network = BoxNetwork(29).eval()
    save_network(network, tmp_path / "w.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)
    with torch.no_grad():
        exact = network(torch.from_numpy(pixels)[None] / 255)[0].clamp(0, 1)
    read = torch.tensor(list(localize(pixels, tmp_path / "w.safetensors").values()))
    torch.testing.assert_close(read, exact, atol=0.015, rtol=0)  # boxes have a least size of 0.01


@pytest.mark.parametrize("content", [None, b"", b"no weights", b"\x08\0\0\0\0\0\0\0{}      "])
def test_weights_that_are_missing_or_damaged_are_named(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.safetensors .*python -m data\.localizer"):
        localize(np.zeros((8, 8), dtype=np.uint8), path)


def test_the_shipped_weights_are_small_and_find_the_chest_of_a_phantom():
    assert LOCALIZER_FILE.stat().st_size <= 6 * 2**20
    assert describe_localizer().startswith("localizer.safetensors ")
    view = healthy(3)
    found = localize(view.image)
    for name in ("right lung", "left lung", "cardiac silhouette", "trachea", "abdomen"):
        np.testing.assert_allclose(found[name], view.boxes[name], atol=0.09)
