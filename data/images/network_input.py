"""From the uint8 images of a batch to the network's input, on the device: three channels, normalised and warped.

Loader processes only decode: a batch travels as one byte per pixel, a twelfth of three fp32 channels, and the device
does the arithmetic for all images at once. Shapes use the letters of `data/batch.py`.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from data.batch import Batch

# The statistics for which torchvision's pretrained trunks expect normalised images.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_network_input(batch: Batch, memory_format: torch.memory_format = torch.contiguous_format) -> Batch:
    """Return `batch` with the images as the network sees them: [B, V, 3, H, H] float on the device of the batch.

    Intensities change first, then one bilinear interpolation warps each image from its stored size; what comes from
    outside the image is black before normalisation. Padded views are zeros. Nothing waits for the device.

    memory_format  of the [B V, 3, H, H] images
    """
    images, intensities, warps = (
        None if each is None else each.flatten(0, 1) for each in (batch.images, batch.intensities, batch.warps)
    )  # [B V, ...]
    images = _mask_views(_change_pixels(images, intensities, warps, batch.image_size), batch.view_mask)
    images = images.contiguous(memory_format=memory_format).unflatten(0, batch.view_mask.shape)
    context = batch.context
    if context is not None and context.prior_image is not None:
        prior = _change_pixels(context.prior_image, context.prior_intensities, context.prior_warp, batch.image_size)
        prior = prior.masked_fill(~context.has_prior[:, None, None, None], 0)
        context = replace(context, prior_image=prior, prior_intensities=None, prior_warp=None)
    return replace(batch, images=images, intensities=None, warps=None, image_size=None, context=context)


def _change_pixels(images: Tensor, intensities: Tensor | None, warps: Tensor | None, image_size: int | None) -> Tensor:
    """Return images [images, S, S] uint8 as the network sees them, [images, 3, H, H]."""
    pixels = to_unit_range(images)
    if intensities is not None:
        gain, offset = intensities[..., None, None].unbind(1)
        pixels = (pixels * gain + offset).clamp_(0, 1)
    if warps is not None:
        pixels = warp(pixels, warps, image_size)
    return normalise(pixels)


def normalise_views(pixels: Tensor, view_mask: Tensor) -> Tensor:
    """Return images that are not warped, [B, V, H, H] uint8, as the network sees them: [B, V, 3, H, H] float.

    view_mask  [B, V] bool; images where it is False become zeros
    """
    images = _mask_views(normalise(to_unit_range(pixels.flatten(0, 1))), view_mask)
    return images.unflatten(0, view_mask.shape)


def _mask_views(images: Tensor, view_mask: Tensor) -> Tensor:
    """Set padded views of `images` [B V, 3, H, H] to zero; a single view is never padded."""
    if view_mask.shape[1] == 1:
        return images
    return images.masked_fill(~view_mask.flatten()[:, None, None, None], 0)


def to_unit_range(pixels: Tensor) -> Tensor:
    """Convert uint8 pixels to floats in 0..1."""
    # CUDA multiplies by the reciprocal of a Python number, which differs from a division in the last bit.
    return pixels.float() / torch.full((), 255.0, device=pixels.device)


def normalise(pixels: Tensor) -> Tensor:
    """Repeat grey pixels, [V, H, H] in 0..1, to three channels, normalised with ImageNet's statistics: [V, 3, H, H]."""
    mean, deviation = (_per_channel(values, pixels.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels.unsqueeze(1) - mean) / deviation


def _per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    """Return `values` as [3, 1, 1] float; filled on the device, because copying them would wait for it."""
    return torch.stack([torch.full((1, 1), value, device=device) for value in values])


def warp(pixels: Tensor, matrices: Tensor, image_size: int) -> Tensor:
    """Return the images [images, side, side] in 0..1 warped to [images, H, H], with H = `image_size`, by one bilinear
    interpolation.

    matrices  [images, 2, 3] float: position in the new image -> source, both in -1..1
    """
    grid = F.affine_grid(matrices, [len(pixels), 1, image_size, image_size], align_corners=False)
    sampled = F.grid_sample(
        pixels.unsqueeze(1), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return sampled.squeeze(1)
