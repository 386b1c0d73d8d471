"""A scene graph of random vectors, in the form that the encoder returns."""

import torch
from torch import Tensor

from models.outputs import SceneGraph


def random_graph(selected: Tensor, width: int, largest: int = 3, seed: int = 0) -> SceneGraph:
    """Random sub-graphs of up to `largest` attributes for the regions of `selected` [B, R]; zeros elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*selected.shape, 1 + largest)
    node_mask = (torch.rand(shape, generator=generator) < 0.6) & selected.unsqueeze(-1)
    node_mask[..., 0] = selected
    return SceneGraph(
        selected=selected,
        boxes=torch.zeros(*selected.shape, 4),
        attributes=node_mask[..., 1:],
        embeddings=torch.randn(*selected.shape, width, generator=generator) * selected.unsqueeze(-1),
        nodes=torch.randn(*shape, width, generator=generator) * node_mask.unsqueeze(-1),
        node_mask=node_mask,
    )
