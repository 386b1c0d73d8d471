"""The attribute predictor: region features -> attribute logits, with a linear head of its own for every region."""

import torch
from torch import Tensor, nn


class AttributePredictor(nn.Module):
    """29 linear heads of different sizes, held as one padded tensor so that a batch is one product.

    attributes_per_region: how many attributes each region has; slots past a region's own are padding and give 0. As in
    the batches there is at least one slot, even where no region has any attribute.
    """

    def __init__(self, channels: int, attributes_per_region: list[int]):
        super().__init__()
        regions, largest = len(attributes_per_region), max(1, *attributes_per_region)
        self.weight = nn.Parameter(torch.empty(regions, largest, channels))
        self.bias = nn.Parameter(torch.zeros(regions, largest))
        slots = torch.arange(largest).unsqueeze(0) < torch.tensor(attributes_per_region).unsqueeze(1)
        self.register_buffer("slots", slots, persistent=False)  # [R, A] bool: the region has this attribute

    def forward(self, region_features: Tensor) -> Tensor:
        """region_features [B, R, C] -> logits [B, R, A], zeros in padding slots."""
        logits = torch.einsum("brc,rac->bra", region_features, self.weight) + self.bias
        return logits.masked_fill(~self.slots, 0.0)
