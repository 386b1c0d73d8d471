"""The scene-graph encoder: region features and attributes -> one vector per sub-graph.

A sub-graph is an object node followed by its attribute nodes. Shapes as in `models/outputs.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.masking import AttentionMask
from models.layers.norms import OUR_STYLE, LayerStyle
from models.layers.packing import Packing, largest_count
from models.layers.transformer import FeedForwardBlock, SelfAttentionBlock
from models.outputs import GraphSizes, SceneGraph
from models.rows import Rows


class SceneGraphEncoderLayer(nn.Module):
    """Self-attention among nodes, for `oa-d` attention among the objects of a study, feed-forward; all pre-norm."""

    def __init__(
        self, width: int, heads: int, feedforward: int, dropout: float, objects_attend: bool,
        style: LayerStyle = OUR_STYLE,
    ):
        super().__init__()
        self.self_attention = SelfAttentionBlock(width, heads, dropout, style)
        self.object_attention = SelfAttentionBlock(width, heads, dropout, style) if objects_attend else None
        self.feed_forward = FeedForwardBlock(width, feedforward, dropout, style)

    def forward(self, nodes: Tensor, mask: AttentionMask, packing: Packing, subgraphs: Packing) -> Tensor:
        """nodes [P, D] -> [P, D].

        mask       of the nodes that each node attends to: [S, 1, E]; for `oa-pm` [B, L, L]
        packing    of the nodes, from [S, E]; for `oa-pm` from [B, L]
        subgraphs  of the sub-graphs, from [B, R]
        """
        nodes = self.self_attention(nodes, mask, layout=packing)
        if self.object_attention is not None:
            objects = subgraphs.unpack(packing.unpack(nodes)[:, 0])  # [B, R, D]
            objects = self.object_attention(objects, subgraphs.mask.unsqueeze(1))
            is_object = (packing.slot == 0).unsqueeze(1)
            nodes = torch.where(is_object, subgraphs.pack(objects).index_select(0, packing.sequence), nodes)
        return self.feed_forward(nodes)


class SceneGraphEncoder(nn.Module):
    """Node embeddings, transformer layers, LayerNorm, pooling.

    An object node is Linear(region feature) + type embedding; an attribute node is LayerNorm(attribute embedding + type
    embedding) with dropout.

    attributes_per_region   number of attributes of each region; attribute ids count them region by region
    names                   for each region, the name number of each attribute; an embedding of the name, shared by all
                            regions, is added to the attribute's embedding. None: no name embedding.
    encode                  oa-c   the nodes of a sub-graph attend to each other
                            oa-d   the same, and in every layer the objects of a study then attend to each other
                            oa-pm  one sequence per study: an attribute attends to its sub-graph, an object also to
                                   the other objects
    pooling                 max or mean over the nodes of a sub-graph
    changes                 number of changes since a previous study; a region with a known change has one more
                            attribute node for it. 0: none has
    """

    rows = {
        "type_embedding.weight": Rows.NODE_TYPES, "attribute_embedding.weight": Rows.ATTRIBUTES,
        "name_embedding.weight": Rows.ATTRIBUTE_NAMES,
    }

    def __init__(
        self, channels: int, width: int, heads: int, feedforward: int, layers: int, attributes_per_region: list[int],
        dropout: float = 0.0, encode: str = "oa-c", pooling: str = "max", names: list[list[int]] | None = None,
        style: LayerStyle = OUR_STYLE, changes: int = 0,
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
        self.change_embedding = nn.Embedding(changes, width) if changes else None
        self.attribute_norm = style.norm(width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            SceneGraphEncoderLayer(width, heads, feedforward, dropout, encode == "oa-d", style) for _ in range(layers)
        )
        self.norm = style.norm(width)
        offsets = torch.tensor(attributes_per_region).cumsum(0) - torch.tensor(attributes_per_region)
        self.register_buffer("attribute_offsets", offsets, persistent=False)  # [R]

    def forward(
        self, region_features: Tensor, boxes: Tensor, attributes: Tensor, selected: Tensor,
        sizes: GraphSizes | None = None, changes: Tensor | None = None,
    ) -> SceneGraph:
        """The scene graphs of the `selected` [B, R] regions.

        region_features [B, R, C], boxes [B, R, 4] (stored in the result), attributes [B, R, A] bool; sizes: if known;
        changes [B, R] long, -1 for no change node; None if no region has one.
        """
        subgraphs = Packing.from_mask(selected, sizes and sizes.subgraphs)
        rows = subgraphs.aligned()
        objects = rows.without_padding(self.project(rows.pack(region_features)))
        attribute_mask = subgraphs.pack(attributes)
        largest = largest_count(attribute_mask) if sizes is None else sizes.attributes
        nodes, node_mask = self._embed_nodes(objects, attribute_mask, subgraphs.slot, largest)
        count = sizes and sizes.nodes
        if changes is not None:
            changes = changes.masked_fill(~selected, -1)
            nodes, node_mask = self._add_change_nodes(nodes, node_mask, subgraphs.pack(changes))
            count = sizes and sizes.nodes + sizes.changes
        # Most sub-graphs are far smaller than the largest.
        packing = Packing.from_mask(node_mask, count)
        if self.encode == "oa-pm":
            sequences, attended = _sequences_of_studies(subgraphs, node_mask, count)
            mask = AttentionMask.of(attended, nodes.dtype)
        else:
            sequences = packing = packing.aligned()
            mask = AttentionMask.of(node_mask.unsqueeze(1), nodes.dtype, may_be_empty=False)  # every one has an object
        rows = packing.pack(nodes)
        for layer in self.layers:
            rows = layer(rows, mask, sequences, subgraphs)
        encoded = packing.unpack(self.norm(rows))
        return SceneGraph(
            selected=selected, boxes=boxes, attributes=attributes & selected.unsqueeze(-1),
            embeddings=subgraphs.unpack(self._pool(encoded, node_mask)), nodes=subgraphs.unpack(encoded),
            node_mask=subgraphs.unpack(node_mask), changes=changes,
        )

    def _embed_nodes(
        self, objects: Tensor, attributes: Tensor, region: Tensor, largest: int
    ) -> tuple[Tensor, Tensor]:
        """Nodes [S, E, D] and their mask [S, E], attributes in ascending order of id; E = 1 + largest.

        objects [S, D]: projected region features; attributes [S, A] bool; region [S]: the number of each sub-graph
        """
        objects = objects + self.type_embedding(region)
        # The slots of a region's attributes come first, in their order; the rest of the row is masked.
        slots = torch.argsort(attributes.to(torch.uint8), dim=-1, descending=True, stable=True)
        slots = slots[:, :largest]
        attribute_mask = attributes.gather(-1, slots)
        ids = (slots + self.attribute_offsets[region].unsqueeze(-1)).masked_fill(~attribute_mask, 0)
        embedded = self.attribute_embedding(ids) + self.type_embedding.weight[-1]
        if self.name_embedding is not None:
            embedded = embedded + self.name_embedding(self.name_of_attribute[ids])
        embedded = self.dropout(self.attribute_norm(embedded))
        nodes = torch.cat([objects.unsqueeze(1).to(embedded.dtype), embedded], 1)
        return nodes, F.pad(attribute_mask, (1, 0), value=True)

    def _add_change_nodes(self, nodes: Tensor, mask: Tensor, changes: Tensor) -> tuple[Tensor, Tensor]:
        """Append a node for the change [S] of each sub-graph, masked where that is -1: [S, E + 1, D], [S, E + 1]."""
        embedded = self.change_embedding(changes.clamp(min=0)) + self.type_embedding.weight[-1]
        embedded = self.dropout(self.attribute_norm(embedded)).unsqueeze(1)
        return torch.cat([nodes, embedded.to(nodes.dtype)], 1), torch.cat([mask, (changes >= 0).unsqueeze(1)], 1)

    def _pool(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """nodes [S, E, D], mask [S, E] -> [S, D]."""
        if self.pooling == "max":
            return nodes.masked_fill(~mask.unsqueeze(-1), torch.finfo(nodes.dtype).min).amax(1)
        weights = mask.unsqueeze(-1).to(nodes.dtype)
        return (nodes * weights).sum(1) / weights.sum(1)


def _sequences_of_studies(
    subgraphs: Packing, node_mask: Tensor, count: int | None
) -> tuple[Packing, Tensor]:
    """`oa-pm`: the same packed nodes as B sequences of L = R * E slots, and what each attends to [B, L, L].

    count: how many nodes there are, if known.
    """
    valid = subgraphs.unpack(node_mask)  # [B, R, E]
    regions, nodes = valid.shape[1:]
    valid = valid.flatten(1)
    slots = torch.arange(regions * nodes, device=valid.device)
    owner, is_object = slots // nodes, slots % nodes == 0
    same_subgraph = owner.unsqueeze(1) == owner.unsqueeze(0)
    attended = (same_subgraph | (is_object.unsqueeze(1) & is_object.unsqueeze(0))) & valid.unsqueeze(1)
    return Packing.from_mask(valid, count), attended
