"""The attribute predictor: region features -> attribute logits, with one linear head per region."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.rows import Rows


class AttributePredictor(nn.Module):
    """29 linear heads of different sizes, stored as one padded tensor so that a batch needs one product.

    attributes_per_region   number of attributes of each region; slots beyond it are padding and give 0. There is at
                            least one slot, as in the batches, even if no region has any attribute.
    names                   for each region, the name number of each attribute; the weights of an attribute are then
                            those of its slot plus those of its name, which regions share. None: those of its slot.
    """

    rows = {"weight": Rows.ATTRIBUTE_SLOTS, "bias": Rows.ATTRIBUTE_SLOTS, "name_weight": Rows.ATTRIBUTE_NAMES}

    def __init__(self, channels: int, attributes_per_region: list[int], names: list[list[int]] | None = None):
        super().__init__()
        regions, largest = len(attributes_per_region), max(1, *attributes_per_region)
        self.weight = nn.Parameter(torch.empty(regions, largest, channels))
        self.bias = nn.Parameter(torch.zeros(regions, largest))
        slots = torch.arange(largest).unsqueeze(0) < torch.tensor(attributes_per_region).unsqueeze(1)
        self.register_buffer("slots", slots, persistent=False)  # [R, A] bool: the region has this attribute
        self.name_weight = None
        if names is not None:
            name_of_slot = torch.zeros(regions, largest, dtype=torch.long)
            name_of_slot[slots] = torch.tensor([name for of_region in names for name in of_region], dtype=torch.long)
            self.register_buffer("name_of_slot", name_of_slot, persistent=False)
            self.name_weight = nn.Parameter(torch.empty(1 + int(name_of_slot.max()), channels))

    def forward(self, region_features: Tensor) -> Tensor:
        """region_features [B, R, C] -> logits [B, R, A], zeros in padding slots."""
        weight = self.weight
        if self.name_weight is not None:
            # Not `name_weight[...]`: on several threads, its backward adds in an order that varies.
            weight = weight + F.embedding(self.name_of_slot, self.name_weight)
        # With the weights as left factor, their gradient has their own layout and is not copied.
        logits = torch.matmul(weight, region_features.permute(1, 2, 0)).permute(2, 0, 1) + self.bias
        return logits.masked_fill(~self.slots, 0.0)
