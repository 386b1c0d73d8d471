"""The scene-graph encoder: region features and attributes -> one vector a sub-graph.

A sub-graph is [object node; its attribute nodes]. Shapes: B batch, R regions, A attributes a region (padded),
S selected regions (packed), M attributes of the fullest sub-graph, C patch channels, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.masking import largest_count, packed_rows, unpack
from models.layers.transformer import FeedForwardBlock, SelfAttentionBlock
from models.outputs import SceneGraph


class SceneGraphEncoderLayer(nn.Module):
    """Self-attention among nodes, for `oa-d` attention among the objects of an image, feed-forward; all pre-norm."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float, objects_attend: bool):
        super().__init__()
        self.self_attention = SelfAttentionBlock(width, heads, dropout)
        self.object_attention = SelfAttentionBlock(width, heads, dropout) if objects_attend else None
        self.feed_forward = FeedForwardBlock(width, feedforward, dropout)

    def forward(self, nodes: Tensor, mask: Tensor, study: Tensor, region: Tensor, selected: Tensor) -> Tensor:
        """nodes [S, 1 + M, D] with mask [S, 1, 1 + M] (for `oa-pm` [B, L, D] with [B, L, L]) -> the same shape."""
        nodes = self.self_attention(nodes, mask)
        if self.object_attention is not None:
            objects = unpack(nodes[:, 0], study, region, selected)  # [B, R, D]
            objects = self.object_attention(objects, selected.unsqueeze(1))
            nodes = torch.cat([objects[study, region].unsqueeze(1), nodes[:, 1:]], 1)
        return self.feed_forward(nodes)


class SceneGraphEncoder(nn.Module):
    """Nodes, transformer layers, LayerNorm, pooling.

    An object node is Linear(C, D)(F) + type; an attribute node LayerNorm(embedding + type) with dropout.

    attributes_per_region   how many attributes each region has; global ids count them region by region
    encode                  oa-c   nodes of one sub-graph see each other
                            oa-d   the same, and in every layer the objects of one image then attend to each other
                            oa-pm  one sequence an image: an attribute sees its sub-graph, an object other objects too
    pooling                 max or mean over the valid nodes gives the sub-graph vector
    """

    def __init__(
        self, channels: int, width: int, heads: int, feedforward: int, layers: int, attributes_per_region: list[int],
        dropout: float = 0.0, encode: str = "oa-c", pooling: str = "max",
    ):
        super().__init__()
        regions = len(attributes_per_region)
        self.encode = encode
        self.pooling = pooling
        self.project = nn.Linear(channels, width)
        self.type_embedding = nn.Embedding(regions + 1, width)  # the last type is "attribute"
        self.attribute_embedding = nn.Embedding(sum(attributes_per_region), width)
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
        study, region = packed_rows(selected)
        nodes, node_mask = self._nodes(region_features[study, region], attributes[study, region], region)
        if self.encode == "oa-pm":
            encoded = self._encode_as_one_sequence(nodes, node_mask, study, region, selected)
        else:
            encoded = nodes
            for layer in self.layers:
                encoded = layer(encoded, node_mask.unsqueeze(1), study, region, selected)
        encoded = self.norm(encoded)
        vectors = self._pool(encoded, node_mask)
        return SceneGraph(
            selected=selected, boxes=boxes, attributes=attributes & selected.unsqueeze(-1),
            embeddings=unpack(vectors, study, region, selected),
            nodes=unpack(encoded * node_mask.unsqueeze(-1), study, region, selected),
            node_mask=unpack(node_mask, study, region, selected),
        )

    def _nodes(self, features: Tensor, attributes: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes [S, 1 + M, D] and their mask [S, 1 + M], attributes in ascending order of id."""
        objects = self.project(features) + self.type_embedding(region)
        count = largest_count(attributes)
        given_first = torch.argsort(attributes.to(torch.uint8), dim=-1, descending=True, stable=True)
        slots = given_first[:, :count]
        given = attributes.gather(-1, slots)
        ids = (slots + self.attribute_offsets[region].unsqueeze(-1)).masked_fill(~given, 0)
        attribute_type = self.type_embedding.weight[-1]
        embedded = self.dropout(self.attribute_norm(self.attribute_embedding(ids) + attribute_type))
        nodes = torch.cat([objects.unsqueeze(1).to(embedded.dtype), embedded], 1)
        return nodes, F.pad(given, (1, 0), value=True)

    def _encode_as_one_sequence(
        self, nodes: Tensor, node_mask: Tensor, study: Tensor, region: Tensor, selected: Tensor
    ) -> Tensor:
        """`oa-pm`: all nodes of an image in one sequence of R * (1 + M) slots under a structured mask."""
        slots = unpack(nodes, study, region, selected)  # [B, R, 1 + M, D]
        valid = unpack(node_mask, study, region, selected).flatten(1)  # [B, L]
        regions, per_region = slots.shape[1:3]
        positions = torch.arange(regions * per_region, device=nodes.device)
        owner, is_object = positions // per_region, positions % per_region == 0
        same_subgraph = owner.unsqueeze(1) == owner.unsqueeze(0)
        mask = (same_subgraph | (is_object.unsqueeze(1) & is_object.unsqueeze(0))) & valid.unsqueeze(1)  # [B, L, L]
        sequence = slots.flatten(1, 2)
        for layer in self.layers:
            sequence = layer(sequence, mask, study, region, selected)
        return sequence.view_as(slots)[study, region]

    def _pool(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """nodes [S, 1 + M, D], mask [S, 1 + M] -> [S, D]."""
        if self.pooling == "max":
            return nodes.masked_fill(~mask.unsqueeze(-1), torch.finfo(nodes.dtype).min).amax(1)
        weights = mask.unsqueeze(-1).to(nodes.dtype)
        return (nodes * weights).sum(1) / weights.sum(1)
