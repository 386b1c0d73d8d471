"""The scene-graph encoder: region features and attributes -> one vector a sub-graph.

A sub-graph is [object node; its attribute nodes]. Shapes: B batch, R regions, A attributes a region (padded),
S selected regions (packed), M attributes of the fullest sub-graph, P valid nodes of all sub-graphs (packed), C patch
channels, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.masking import Packing, largest_count
from models.layers.transformer import FeedForwardBlock, SelfAttentionBlock
from models.outputs import SceneGraph


class SceneGraphEncoderLayer(nn.Module):
    """Self-attention among nodes, for `oa-d` attention among the objects of an image, feed-forward; all pre-norm."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float, objects_attend: bool):
        super().__init__()
        self.self_attention = SelfAttentionBlock(width, heads, dropout)
        self.object_attention = SelfAttentionBlock(width, heads, dropout) if objects_attend else None
        self.feed_forward = FeedForwardBlock(width, feedforward, dropout)

    def forward(self, nodes: Tensor, mask: Tensor, packing: Packing, subgraphs: Packing) -> Tensor:
        """nodes [P, D] -> [P, D].

        mask       which nodes of its sequence a node sees: [S, 1, 1 + M]; for `oa-pm` [B, L, L]
        packing    the nodes in their sequences: [S, 1 + M]; for `oa-pm` [B, L]
        subgraphs  the sub-graphs in their images: [B, R]
        """
        nodes = self.self_attention(nodes, mask, packing=packing)
        if self.object_attention is not None:
            objects = subgraphs.unpack(packing.unpack(nodes)[:, 0])  # [B, R, D]
            objects = self.object_attention(objects, subgraphs.mask.unsqueeze(1))
            is_object = (packing.slot == 0).unsqueeze(1)
            nodes = torch.where(is_object, subgraphs.pack(objects)[packing.sequence], nodes)
        return self.feed_forward(nodes)


class SceneGraphEncoder(nn.Module):
    """Nodes, transformer layers, LayerNorm, pooling.

    An object node is Linear(C, D)(F) + type; an attribute node LayerNorm(embedding + type) with dropout.

    attributes_per_region   how many attributes each region has; global ids count them region by region
    names                   the number of each attribute's name, region by region: an embedding of the name, which
                            regions share, is then added to the attribute's own. None: its own alone.
    encode                  oa-c   nodes of one sub-graph see each other
                            oa-d   the same, and in every layer the objects of one image then attend to each other
                            oa-pm  one sequence an image: an attribute sees its sub-graph, an object other objects too
    pooling                 max or mean over the valid nodes gives the sub-graph vector
    """

    def __init__(
        self, channels: int, width: int, heads: int, feedforward: int, layers: int, attributes_per_region: list[int],
        dropout: float = 0.0, encode: str = "oa-c", pooling: str = "max", names: list[list[int]] | None = None,
    ):
        super().__init__()
        regions = len(attributes_per_region)
        self.encode = encode
        self.pooling = pooling
        self.project = nn.Linear(channels, width)
        self.type_embedding = nn.Embedding(regions + 1, width)  # the last type is "attribute"
        self.attribute_embedding = nn.Embedding(sum(attributes_per_region), width)
        self.name_embedding = None
        if names is not None:
            name_of_attribute = torch.tensor([name for of_region in names for name in of_region] or [0])
            self.register_buffer("name_of_attribute", name_of_attribute, persistent=False)
            self.name_embedding = nn.Embedding(1 + int(name_of_attribute.max()), width)
        self.attribute_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            SceneGraphEncoderLayer(width, heads, feedforward, dropout, encode == "oa-d") for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        offsets = torch.tensor(attributes_per_region).cumsum(0) - torch.tensor(attributes_per_region)
        self.register_buffer("attribute_offsets", offsets, persistent=False)  # [R]

    def forward(self, region_features: Tensor, boxes: Tensor, attributes: Tensor, selected: Tensor) -> SceneGraph:
        """The scene graph of `selected` [B, R] regions.

        region_features [B, R, C], boxes [B, R, 4] (kept in the graph), attributes [B, R, A] bool.
        """
        subgraphs = Packing.from_mask(selected)
        features, given = subgraphs.pack(region_features), subgraphs.pack(attributes)
        nodes, node_mask = self._nodes(features, given, subgraphs.slot)
        packing = Packing.from_mask(node_mask)
        rows = packing.pack(nodes)  # most sub-graphs are far from the fullest: layers skip the padding
        if self.encode == "oa-pm":
            layout, mask = _one_sequence_an_image(subgraphs, node_mask)
        else:
            layout, mask = packing, node_mask.unsqueeze(1)
        for layer in self.layers:
            rows = layer(rows, mask, layout, subgraphs)
        encoded = packing.unpack(self.norm(rows))
        return SceneGraph(
            selected=selected, boxes=boxes, attributes=attributes & selected.unsqueeze(-1),
            embeddings=subgraphs.unpack(self._pool(encoded, node_mask)), nodes=subgraphs.unpack(encoded),
            node_mask=subgraphs.unpack(node_mask),
        )

    def _nodes(self, features: Tensor, attributes: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes [S, 1 + M, D] and their mask [S, 1 + M], attributes in ascending order of id."""
        objects = self.project(features) + self.type_embedding(region)
        count = largest_count(attributes)
        given_first = torch.argsort(attributes.to(torch.uint8), dim=-1, descending=True, stable=True)
        slots = given_first[:, :count]
        given = attributes.gather(-1, slots)
        ids = (slots + self.attribute_offsets[region].unsqueeze(-1)).masked_fill(~given, 0)
        attributes = self.attribute_embedding(ids) + self.type_embedding.weight[-1]
        if self.name_embedding is not None:
            attributes = attributes + self.name_embedding(self.name_of_attribute[ids])
        embedded = self.dropout(self.attribute_norm(attributes))
        nodes = torch.cat([objects.unsqueeze(1).to(embedded.dtype), embedded], 1)
        return nodes, F.pad(given, (1, 0), value=True)

    def _pool(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """nodes [S, 1 + M, D], mask [S, 1 + M] -> [S, D]."""
        if self.pooling == "max":
            return nodes.masked_fill(~mask.unsqueeze(-1), torch.finfo(nodes.dtype).min).amax(1)
        weights = mask.unsqueeze(-1).to(nodes.dtype)
        return (nodes * weights).sum(1) / weights.sum(1)


def _one_sequence_an_image(subgraphs: Packing, node_mask: Tensor) -> tuple[Packing, Tensor]:
    """`oa-pm`: the same packed nodes as sequences of L = R * (1 + M) slots, and which of them each sees [B, L, L]."""
    valid = subgraphs.unpack(node_mask)  # [B, R, 1 + M]
    regions, per_region = valid.shape[1:]
    valid = valid.flatten(1)
    positions = torch.arange(regions * per_region, device=valid.device)
    owner, is_object = positions // per_region, positions % per_region == 0
    same_subgraph = owner.unsqueeze(1) == owner.unsqueeze(0)
    seen = (same_subgraph | (is_object.unsqueeze(1) & is_object.unsqueeze(0))) & valid.unsqueeze(1)
    return Packing.from_mask(valid), seen
