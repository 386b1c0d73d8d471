"""The patch encoder: X-rays -> patches, by a trunk without its classifier (`models/trunks/`).

Shapes as in `models/outputs.py`; N = V * G * G.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from models.layers.packing import Packing


@dataclass
class Patches:
    """The patches of all views, and the grid of the first.

    tokens        [B, N, C], view by view and row by row
    mask          [B, N] bool
    frontal_grid  [B, C, G, G]
    """

    tokens: Tensor
    mask: Tensor
    frontal_grid: Tensor


class PatchEncoder(nn.Module):
    """Encodes every view with the same trunk and concatenates the patches of all views.

    trunk            [B, 3, H, H] -> [B, C, G, G]
    channels         C
    backbone         the trunk's name; "" if it has none
    unused_weights   entries of the trunk's file of weights that it has no use for
    """

    def __init__(self, trunk: nn.Module, channels: int, backbone: str = "", unused_weights: Sequence[str] = ()):
        super().__init__()
        self.trunk = trunk
        self.channels = channels
        self.backbone = backbone
        self.unused_weights = tuple(unused_weights)

    def forward(self, images: Tensor, view_mask: Tensor, views: int | None = None) -> Patches:
        """images [B, V, 3, H, H], view_mask [B, V] bool; views: how many it keeps, if known."""
        if view_mask.shape[1] == 1:
            grids = self.trunk(images[:, 0]).unsqueeze(1)  # [B, V, C, G, G]
        else:  # missing views must not enter BatchNorm's statistics
            packing = Packing.from_mask(view_mask, views)
            grids = packing.unpack(self.trunk(packing.pack(images)))
        tokens = grids.flatten(-2).transpose(-1, -2)  # [B, V, G * G, C]
        mask = view_mask.unsqueeze(-1).expand(-1, -1, tokens.shape[2])
        return Patches(tokens.flatten(1, 2), mask.flatten(1), grids[:, 0])
