"""The network's input on the device: equal to the bit without augmentation, interpolated once with it."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from data.collate import collate
from data.dataset import StudyDataset
from data.images.network_input import IMAGENET_MEAN, IMAGENET_STD, normalise, normalise_views, to_network_input
from data.images.transforms import Augmentation
from tests.support.tiny_dataset import write_tiny_dataset

SIDE = 32
GEOMETRIC = Augmentation(rotate=10, translate=0.05, scale=0.1, intensity=0.2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("prepared") / "tiny", train=6, image_size=44, views=2)


@pytest.fixture
def batch_of(root, vocabularies):
    """A function that returns all training studies as a batch, with the given augmentation."""
    def make(augmentation=None, **settings):
        studies = StudyDataset(root, "train", vocabularies, "corrected", SIDE, 20, views=2, uncertain="positive",
                               augmentation=augmentation, **settings)
        return collate([studies[2, index] for index in range(len(studies))], pad_id=0), studies
    return make


def resized(root, record):
    """The images of a study, resized to the network's side: [V, H, H] in 0..1."""
    images = [np.array(Image.open(root / name).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
              for name in record["images"]]
    return torch.from_numpy(np.stack(images)).float().div_(255)


def reference_input(pixels):
    """Three normalised channels, [V, 3, H, H], of [V, H, H] in 0..1."""
    return (pixels.unsqueeze(1) - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)


@pytest.mark.parametrize("augmentation", [None, Augmentation(0, 0, 0, 0)], ids=["evaluation", "no change"])
def test_without_augmentation_images_are_equal_to_the_bit(batch_of, root, augmentation):
    batch, studies = batch_of(augmentation)
    assert batch.images.dtype == torch.uint8 and batch.images.shape == (6, 2, SIDE, SIDE)
    images = to_network_input(batch).images
    for study, record in enumerate(studies.records):
        views = len(record["images"])
        assert torch.equal(images[study, :views], reference_input(resized(root, record)))
        assert (images[study, views:] == 0).all()
    assert torch.equal(normalise_views(batch.images, batch.view_mask), images)


def test_an_augmented_image_is_close_to_that_resized_and_then_warped(batch_of, root):
    """It differs from the interpolation in two steps only in sharpness."""
    batch, studies = batch_of(GEOMETRIC)
    assert batch.images.shape == (6, 2, 44, 44)
    images = to_network_input(batch).images
    for study, record in enumerate(studies.records):
        generator = np.random.default_rng([2, studies.seed, 2, study])
        for view, pixels in enumerate(resized(root, record)):
            change = GEOMETRIC.draw(generator)
            pixels = ((pixels - pixels.mean()) * change.contrast + pixels.mean()) * change.brightness
            grid = F.affine_grid(torch.from_numpy(change.matrix())[None], [1, 1, SIDE, SIDE], align_corners=False)
            warped = F.grid_sample(pixels.clamp(0, 1)[None, None], grid, align_corners=False)[0]
            difference = (images[study, view] - reference_input(warped)[0]).mean(0)
            smoothed = F.avg_pool2d(difference[None], 8)  # the images are noise, which sharpness changes most
            assert smoothed.abs().max() < 0.2 and difference.std() < 0.5


def test_a_warp_keeps_what_resizing_first_would_blur(tmp_path, vocabularies):
    """Fine stripes at the stored size have more contrast after one interpolation than after two."""
    root = write_tiny_dataset(tmp_path / "tiny", train=1, image_size=48)
    stripes = np.tile(np.repeat([40, 220], 2), 12)[None].repeat(48, 0).astype(np.uint8)
    Image.fromarray(stripes).save(root / "images/train0_0.png")
    studies = StudyDataset(root, "train", vocabularies, "corrected", SIDE, 20, 1, "positive",
                           augmentation=Augmentation(10, 0, 0, 0))
    once = to_network_input(collate([studies[0]], 0)).images[0, 0, 0]
    small = torch.from_numpy(np.array(Image.fromarray(stripes).resize((SIDE, SIDE), Image.Resampling.BILINEAR)))
    grid = F.affine_grid(studies[0].warps, [1, 1, SIDE, SIDE], align_corners=False)
    twice = normalise(F.grid_sample(small[None, None] / 255, grid, align_corners=False)[0])[0, 0]
    assert once[8:-8, 8:-8].std() > 1.1 * twice[8:-8, 8:-8].std()


def test_intensities_alone_change_pixels_in_place(batch_of, root):
    augmentation = Augmentation(0, 0, 0, intensity=0.3)
    batch, studies = batch_of(augmentation)
    assert batch.warps is None and batch.images.shape[-1] == SIDE
    images = to_network_input(batch).images
    change = augmentation.draw(np.random.default_rng([2, studies.seed, 2, 0]))
    pixels = resized(root, studies.records[0])[0]
    expected = (((pixels - pixels.mean()) * change.contrast + pixels.mean()) * change.brightness).clamp(0, 1)
    torch.testing.assert_close(images[0, 0], reference_input(expected[None])[0], atol=1e-5, rtol=1e-5)


def test_outside_of_the_image_is_black(batch_of):
    batch, _ = batch_of(Augmentation(rotate=0, translate=0.5, scale=0, intensity=0))
    batch.warps[0, 0] = torch.tensor([[1.0, 0, 1.0], [0, 1, 0]])  # moved to the left by half its width
    grey = to_network_input(batch).images[0, 0] * torch.tensor(IMAGENET_STD)[:, None, None]
    black = grey + torch.tensor(IMAGENET_MEAN)[:, None, None]
    assert black[:, :, SIDE // 2 + 1 :].abs().max() < 1e-6 and black[:, :, : SIDE // 2].min() >= -1e-6


def test_images_take_the_memory_format(batch_of):
    batch, _ = batch_of(GEOMETRIC)
    images = to_network_input(batch, torch.channels_last).images
    assert images.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, to_network_input(batch).images)


class CountCopies(TorchDispatchMode):
    """Records the operations that wait for a GPU: copies between devices and numbers read from tensors."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket._qualified_op_name
        if name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::lift_fresh", "aten::_to_copy"):
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device(batch_of):
    batch, _ = batch_of(GEOMETRIC)
    with CountCopies() as copies:
        to_network_input(batch)
    assert copies.names == ["aten::_to_copy"]  # uint8 to float, on the device


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits(batch_of):
    batch, _ = batch_of()
    assert torch.equal(to_network_input(batch.to("cuda")).images.cpu(), to_network_input(batch).images)


def test_normalising_repeats_the_grey_channel():
    pixels = torch.rand(2, 5, 5)
    images = normalise(pixels)
    assert images.shape == (2, 3, 5, 5)
    for channel, (mean, deviation) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        torch.testing.assert_close(images[:, channel] * deviation + mean, pixels)


def test_rotation_angle_of_the_matrix():
    """The matrix maps new positions to sources: the inverse of the rotation of the image."""
    change = Augmentation(10, 0, 0, 0).draw(np.random.default_rng(1))
    cosine, sine = math.cos(change.angle), math.sin(change.angle)
    np.testing.assert_allclose(change.matrix(), [[cosine, sine, 0], [-sine, cosine, 0]], atol=1e-7)
