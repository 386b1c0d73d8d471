"""A small ResNet for CPUs."""

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut (He et al., "Deep residual learning", 2016)."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity()
        if channels_in != channels or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(maps)))))
        return F.relu(inner + self.shortcut(maps))


def small_resnet(width: int = 32, stride: int = 32) -> nn.Sequential:
    """ResNet-18 of half the usual width: [B, 3, H, H] -> [B, 8 * width, H / stride, H / stride].

    stride  32, or 16: then the last stage does not downsample
    """
    stages: list[nn.Module] = [
        nn.Conv2d(3, width, 7, 2, padding=3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    ]
    channels_in = width
    for stage in range(4):
        channels = width * 2**stage
        downsamples = stage > 0 and not (stage == 3 and stride == 16)
        stages += [
            ResidualBlock(channels_in, channels, stride=2 if downsamples else 1),
            ResidualBlock(channels, channels, stride=1),
        ]
        channels_in = channels
    return nn.Sequential(*stages)
