"""The localizer's network: edges are mean positions of maps, whatever the brightness of the image."""

import pytest
import torch

from data.localizer.network import SIDE, BoxNetwork


@pytest.fixture(scope="module")
def network() -> BoxNetwork:
    torch.manual_seed(0)
    return BoxNetwork(3).eval()


@torch.no_grad()
def test_shapes_and_range(network):
    boxes = network(torch.rand(2, SIDE, SIDE))
    assert boxes.shape == (2, 3, 4) and boxes.min() > -0.1 and boxes.max() < 1.1


@torch.no_grad()
def test_exposure_and_contrast_of_the_whole_image_hardly_matter(network):
    image = torch.rand(1, SIDE, SIDE)
    torch.testing.assert_close(network(image), network(0.5 * image + 0.3), atol=0.02, rtol=0)


@torch.no_grad()
def test_a_uniform_image_has_boxes(network):
    assert network(torch.full((1, SIDE, SIDE), 0.5)).isfinite().all()


@torch.no_grad()
def test_an_edge_follows_the_peak_of_its_map(network):
    """A map with a single peak: the edge is there, up to the border of the image."""
    cells = SIDE // 4
    for column, row in ((0, 0), (5, 17), (cells - 1, cells - 1)):
        maps = torch.zeros(1, 12, cells, cells)
        maps[:, :, row, column] = 100.0
        hook = network.maps.register_forward_hook(lambda module, inputs, output, maps=maps: maps)
        boxes = network(torch.rand(1, SIDE, SIDE))
        hook.remove()
        place = [-0.06 + 1.12 * cell / (cells - 1) for cell in (column, row)]
        torch.testing.assert_close(boxes, torch.tensor(place * 2).expand(1, 3, 4), atol=1e-4, rtol=0)
