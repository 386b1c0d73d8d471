"""The normalisation of a pretrained trunk, from that of the model's input images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# The statistics that `ModelInputs.images` are normalised with: what torchvision's trunks expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class InputNormalisation(nn.Module):
    """Changes the normalisation of images from ImageNet's statistics to those that a trunk was pretrained with.

    Its numbers are in the state dict: a checkpoint keeps the normalisation that it was trained with.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: int = 3):
        """mean, std of pixels in 0..1, one for each channel or one for all; channels: of the trunk's input, 1 or 3."""
        super().__init__()
        mean, std = ((list(values) * 3)[:3] for values in (mean, std))
        self.single_channel = channels == 1
        input_mean, input_std = torch.tensor(IMAGENET_MEAN).double(), torch.tensor(IMAGENET_STD).double()
        mean, std = torch.tensor(mean).double(), torch.tensor(std).double()
        self.register_buffer("scale", (input_std / std).float().view(3, 1, 1))
        self.register_buffer("offset", ((input_mean - mean) / std).float().view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """images [B, 3, H, H] as in `ModelInputs` -> [B, 3, H, H], or [B, 1, H, H] for a single channel."""
        images = images * self.scale + self.offset
        return images.mean(1, keepdim=True) if self.single_channel else images
