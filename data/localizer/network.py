"""The network of the shipped localizer: a frontal X-ray -> the boxes of the 29 regions.

A small U-shaped network looks at the image at 1/2 to 1/16 of its size. Every edge of every box has its own map at 1/4
of the size: a softmax turns it into probabilities, and their mean position is the edge (Sun et al. 2018, Integral human
pose regression, https://arxiv.org/abs/1711.08229). So an edge is read where it is visible, with the whole chest as
context.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 96  # pixels per side of the square image that the network sees
_WIDTHS = (24, 48, 96, 128)  # channels at 1/2, 1/4, 1/8 and 1/16 of the size
_DECODED = 48
_REACH = 0.06  # how far maps extend beyond the image, so that an edge can be on its border
_CONTRAST_FLOOR = 0.02  # added to the standard deviation of grey levels, in 0..1


class BoxNetwork(nn.Module):
    """Boxes of `regions` regions, from grey images of `SIDE` pixels per side."""

    def __init__(self, regions: int):
        super().__init__()
        sizes = (2, *_WIDTHS)
        self.stages = nn.ModuleList(_Stage(*pair) for pair in zip(sizes[:-1], sizes[1:], strict=True))
        self.context = nn.Linear(_WIDTHS[-1], _WIDTHS[-1])
        self.lateral = nn.ModuleList(nn.Conv2d(width, _DECODED, 1) for width in _WIDTHS[1:])
        self.smooth = nn.ModuleList(_convolution(_DECODED, _DECODED) for _ in _WIDTHS[1:-1])
        self.maps = nn.Conv2d(_DECODED, 4 * regions, 1)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, SIDE, SIDE] in 0..1 -> boxes [B, R, 4] xyxy; edges may be slightly outside 0..1."""
        x, features = _two_contrasts(images), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        x = x + self.context(x.mean((2, 3)))[..., None, None]
        x = self.lateral[-1](x)
        for position in (1, 0):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = self.smooth[position](x + self.lateral[position](features[position + 1]))
        return _edges(self.maps(x).float())


class _Stage(nn.Module):
    """Halves the size; then, unless it is the first, a residual block."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.reduce = _convolution(inputs, outputs, stride=2)
        self.refine = _convolution(outputs, outputs) if inputs > 2 else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        return x if self.refine is None else x + self.refine(x)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _two_contrasts(images: Tensor) -> Tensor:
    """Return images [B, H, W] as [B, 2, H, W]: with the contrast of the whole image normalised, and the local one."""
    images = images.unsqueeze(1)
    mean, deviation = images.mean((2, 3), keepdim=True), images.std((2, 3), keepdim=True)
    local_mean = _local_mean(images)
    local_deviation = _local_mean((images - local_mean).square()).clamp(min=0).sqrt()
    whole = (images - mean) / (deviation + _CONTRAST_FLOOR)
    return torch.cat([whole, (images - local_mean) / (local_deviation + _CONTRAST_FLOOR)], 1)


def _local_mean(images: Tensor) -> Tensor:
    """Return the mean around every pixel, over about a quarter of the side."""
    side = images.shape[-1]
    small = F.avg_pool2d(images, 4)
    window = side // 16 * 2 + 1
    small = F.avg_pool2d(small, window // 2 * 2 + 1, 1, window // 2, count_include_pad=False)
    return F.interpolate(small, size=side, mode="bilinear", align_corners=False)


def _edges(maps: Tensor) -> Tensor:
    """Return the mean positions of the edges, [B, R, 4], from their maps [B, 4 R, H, W]."""
    places = maps.flatten(2).softmax(-1).view_as(maps).unflatten(1, (-1, 4))  # [B, R, 4, H, W]
    line = torch.linspace(-_REACH, 1 + _REACH, maps.shape[-1], device=maps.device)
    x = (places[:, :, 0::2].sum(-2) * line).sum(-1)
    y = (places[:, :, 1::2].sum(-1) * line).sum(-1)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)
