"""A plain implementation of the published algorithm: the baseline of our speed measurements.

It computes the same as `models/`, under the published weight names, so that `to_official` weights load into it and the
results can be compared. As in the release, keys and values are not cached between words, the decoder runs over the full
padded length at every step, beams are gathered with their whole history of log-probabilities, the region memory is
copied for every image, attribute heads run box by box, and sub-graphs are pooled and regrouped image by image.
Supported are `oa-c` encoding, max pooling and one graph per decoder. Dropout is 0 unless set by `set_dropout`.

Shapes as in `models/outputs.py`.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_pool

from data.batch import Batch

_PADDING = -10000  # of attribute ids and logits
GRID, PATCH_PIXELS = 7, 32


@dataclass
class PublishedBatch:
    """A batch in the layout of the published loader, with the selected boxes of all images in one list.

    patches [B, N, C]; text [B, T] long, 0 after the end; text_mask [B, T]; boxes [S, 5] image and xyxy in pixels;
    labels [S]; abnormal [S]; region_labels [B, R]; attribute_ids [S, E - 1] global, padded with -10000;
    attribute_labels: S multi-hot vectors, each with the attributes of its region; disease_labels [B, K]
    """

    patches: Tensor
    text: Tensor
    text_mask: Tensor
    boxes: Tensor
    labels: Tensor
    abnormal: Tensor
    region_labels: Tensor
    attribute_ids: Tensor
    attribute_labels: list[Tensor]
    disease_labels: Tensor


def to_published_batch(batch: Batch, patches: Tensor, attributes_per_region: list[int]) -> PublishedBatch:
    """Convert `batch`, with the patch features [B, N, C] of its images, to the published layout."""
    regions = batch.regions
    offsets = [sum(attributes_per_region[:region]) for region in range(len(attributes_per_region))]
    study, label = (regions.mentioned & regions.visible).nonzero(as_tuple=True)
    pixels = regions.boxes[study, label] * (GRID * PATCH_PIXELS)
    ids, targets = [], []
    for image, region in zip(study.tolist(), label.tolist(), strict=True):
        labels = regions.attributes[image, region, : attributes_per_region[region]]
        ids.append(labels.nonzero().flatten() + offsets[region])
        targets.append(labels.float())
    return PublishedBatch(
        patches=patches, text=batch.token_ids * batch.token_mask, text_mask=batch.token_mask.float(),
        boxes=torch.cat([study.unsqueeze(1).float(), pixels], 1), labels=label,
        abnormal=regions.abnormal[study, label].float(), region_labels=regions.mentioned.float(),
        attribute_ids=nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=_PADDING),
        attribute_labels=targets, disease_labels=batch.observations,
    )


class Attention(nn.Module):
    """Multi-head attention with an additive mask [B, 1 or Q, M]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.dropout = nn.Dropout(0.0)
        self.linears = nn.ModuleList(nn.Linear(width, width) for _ in range(4))

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        rows = query.shape[0]
        q, k, v = (
            linear(inputs).view(rows, -1, self.heads, inputs.shape[-1] // self.heads).transpose(1, 2)
            for linear, inputs in zip(self.linears, (query, memory, memory), strict=False)
        )
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores + mask.unsqueeze(1)
        answer = torch.matmul(self.dropout(F.softmax(scores, dim=-1)), v)
        return self.dropout(self.linears[3](answer.transpose(1, 2).contiguous().view(rows, -1, query.shape[-1])))


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.w_1 = nn.Linear(width, hidden)
        self.w_2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(0.0)

    def forward(self, rows: Tensor) -> Tensor:
        return self.dropout(self.w_2(self.dropout(F.gelu(self.w_1(rows)))))


class Norm(nn.Module):
    """The norm before a part of a layer, under its published name."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.feed_forward = FeedForward(width, hidden)
        self.sublayer = nn.ModuleList(Norm(width) for _ in range(2))

    def forward(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        normed = self.sublayer[0].norm(rows)
        rows = rows + self.self_attn(normed, normed, mask)
        return rows + self.feed_forward(self.sublayer[1].norm(rows))


class Encoder(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        for layer in self.layers:
            rows = layer(rows, mask)
        return self.norm(rows)


class DecoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.cross_attn_img = Attention(width, heads)
        self.cross_attn_sg = Attention(width, heads)
        self.feed_forward = FeedForward(width, hidden)
        self.sublayer = nn.ModuleList(Norm(width) for _ in range(4))

    def forward(self, words: Tensor, image: Tensor, causal: Tensor, graph: Tensor, graph_mask: Tensor) -> Tensor:
        normed = self.sublayer[0].norm(words)
        words = words + self.self_attn(normed, normed, causal)
        words = words + self.cross_attn_img(self.sublayer[1].norm(words), image, None)
        chosen = (graph_mask.squeeze(1) == 0).any(1)
        if chosen.any():
            described = words[chosen]
            described = described + self.cross_attn_sg(
                self.sublayer[2].norm(described), graph[chosen], graph_mask[chosen]
            )
            words = words.clone()
            words[chosen] = described
        return words + self.feed_forward(self.sublayer[3].norm(words))


class Decoder(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, words: Tensor, image: Tensor, causal: Tensor, graph: Tensor, graph_mask: Tensor) -> Tensor:
        for layer in self.layers:
            words = layer(words, image, causal, graph, graph_mask)
        return self.norm(words)


class RegionSelector(nn.Module):
    def __init__(self, channels: int, regions: int, slots: int, heads: int, top: int):
        super().__init__()
        self.heads, self.top = heads, top
        self.ff = nn.Linear(channels, channels)
        self.memory = nn.Parameter(torch.empty(slots, channels))
        self.mem_proj = nn.Linear(channels, channels)
        self.cmn = nn.Module()
        self.cmn.linears = nn.ModuleList(nn.Linear(channels, channels) for _ in range(4))
        self.fuse_proj = nn.Sequential(nn.Linear(2 * channels, channels), nn.GELU())
        self.region_head = nn.Linear(channels, regions)

    def forward(self, mean_patch: Tensor) -> Tensor:
        feature = self.ff(mean_patch)
        images, channels = feature.shape
        memory = self.mem_proj(self.memory).unsqueeze(0).expand(images, -1, -1)
        q, k, v = (
            linear(inputs).view(images, -1, self.heads, channels // self.heads).transpose(1, 2)
            for linear, inputs in zip(self.cmn.linears, (feature.unsqueeze(1), memory, memory), strict=False)
        )
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(q.shape[-1])  # [B, h, 1, slots]
        best, index = scores.topk(self.top, dim=-1)
        picked = v.gather(2, index.transpose(2, 3).expand(-1, -1, -1, v.shape[-1]))  # [B, h, top, c]
        answer = torch.matmul(F.softmax(best, dim=-1), picked).transpose(1, 2).reshape(images, channels)
        return self.region_head(self.fuse_proj(torch.cat([feature, self.cmn.linears[3](answer)], -1)))


class AttributePredictor(nn.Module):
    def __init__(self, channels: int, attributes_per_region: list[int]):
        super().__init__()
        self.ff = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels), nn.GELU())
        self.attribute_heads = nn.ModuleList(nn.Linear(channels, size) for size in attributes_per_region)

    def forward(self, grid: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return box features [S, C] and logits [S, A], -10000 beyond the attributes of a region."""
        pooled = roi_pool(grid, boxes, output_size=1, spatial_scale=1 / PATCH_PIXELS).flatten(1)
        features = self.ff(pooled)
        largest = max(head.out_features for head in self.attribute_heads)
        logits = []
        for row, region in zip(features, labels.tolist(), strict=True):
            own = self.attribute_heads[region](row)
            logits.append(F.pad(own, (0, largest - len(own)), value=_PADDING))
        return features, torch.stack(logits) if logits else features.new_zeros(0, largest)


class SceneGraphEncoder(nn.Module):
    def __init__(
        self, channels: int, width: int, heads: int, hidden: int, layers: int, attributes_per_region: list[int]
    ):
        super().__init__()
        regions, attributes = len(attributes_per_region), sum(attributes_per_region)
        self.proj = nn.Linear(channels, width)
        self.token_type_embeddings = nn.Embedding(regions + 1, width)
        self.att_embedding = nn.Embedding(attributes + 1, width, padding_idx=attributes)
        self.att_norm = nn.LayerNorm(width)
        self.sg_encoder = Encoder(width, heads, hidden, layers)

    def forward(
        self, features: Tensor, boxes: Tensor, labels: Tensor, attribute_ids: Tensor, images: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return sub-graph vectors [S, D], and the same regrouped by image with padding, with an additive mask.

        The regrouped vectors are [B, r, D] and their mask [B, 1, r], r being the most sub-graphs of an image.
        """
        padding, lowest = self.att_embedding.padding_idx, torch.finfo(features.dtype).min
        absent = attribute_ids == _PADDING
        objects = self.proj(features) + self.token_type_embeddings(labels)
        attributes = self.att_embedding(attribute_ids.masked_fill(absent, padding))
        attributes = self.att_norm(attributes + self.token_type_embeddings.weight[-1])
        nodes = torch.cat([objects.unsqueeze(1), attributes], 1)
        mask = F.pad(absent.to(nodes.dtype) * lowest, (1, 0)).unsqueeze(1)  # [S, 1, E]
        encoded = self.sg_encoder(nodes, mask)
        vectors = [rows[valid == 0].max(0).values for rows, valid in zip(encoded, mask.squeeze(1), strict=True)]
        vectors = torch.stack(vectors) if vectors else features.new_zeros(0, nodes.shape[-1])
        owners = boxes[:, 0]
        counts = [int((owners == image).sum()) for image in range(images)]
        graph = vectors.new_zeros(images, max([1, *counts]), vectors.shape[-1])
        graph_mask = vectors.new_full(graph.shape[:2], lowest)
        for image, count in enumerate(counts):
            graph[image, :count] = vectors[owners == image]
            graph_mask[image, :count] = 0
        return vectors, graph, graph_mask.unsqueeze(1)


class PublishedModel(nn.Module):
    """The published report generator without the trunk. Sizes as in `modules.config.ModelConfig`."""

    def __init__(
        self, channels: int, width: int, heads: int, hidden: int, image_layers: int, graph_layers: int,
        decoder_layers: int, words: int, longest: int, diseases: int, attributes_per_region: list[int],
        memory_slots: int, memory_heads: int, memory_top: int,
    ):
        super().__init__()
        self.att_embed = nn.Sequential(nn.Linear(channels, width), nn.LayerNorm(width), nn.GELU())
        self.vision_encoder = Encoder(width, heads, hidden, image_layers)
        self.word_embedding = nn.Module()
        self.word_embedding.word_embedding = nn.Module()
        self.word_embedding.word_embedding.lut = nn.Embedding(words, width)
        self.decoder = Decoder(width, heads, hidden, decoder_layers)
        self.rrg_head = nn.Linear(width, words)
        self.dis_head = nn.Module()
        self.dis_head.disease_head = nn.Linear(channels, diseases)
        regions = len(attributes_per_region)
        self.region_selector = RegionSelector(channels, regions, memory_slots, memory_heads, memory_top)
        self.attribute_predictor = AttributePredictor(channels, attributes_per_region)
        self.scene_graph_encoder = SceneGraphEncoder(
            channels, width, heads, hidden, graph_layers, attributes_per_region
        )
        angles = torch.arange(longest).unsqueeze(1) / 10000 ** (torch.arange(0, width, 2) / width)
        self.register_buffer(
            "positions", torch.stack([torch.sin(angles), torch.cos(angles)], -1).flatten(1), persistent=False
        )

    def set_dropout(self, probability: float) -> None:
        """Set dropout on attention weights, after each part of a layer and in the feed-forward, as in the release."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = probability

    def encode(self, batch: PublishedBatch) -> dict[str, Tensor]:
        """Compute everything before the first word, with the annotated graph."""
        mean_patch = batch.patches.mean(1)
        grid = batch.patches.transpose(1, 2).unflatten(-1, (GRID, GRID))
        features, attribute_logits = self.attribute_predictor(grid, batch.boxes, batch.labels)
        vectors, graph, graph_mask = self.scene_graph_encoder(
            features, batch.boxes, batch.labels, batch.attribute_ids, len(batch.patches)
        )
        return {
            "diseases": self.dis_head.disease_head(mean_patch), "regions": self.region_selector(mean_patch),
            "attributes": attribute_logits, "vectors": vectors, "graph": graph, "graph_mask": graph_mask,
            "image": self.vision_encoder(self.att_embed(batch.patches), None),
        }

    def word_logits(self, ids: Tensor, mask: Tensor, image: Tensor, graph: Tensor, graph_mask: Tensor) -> Tensor:
        """Return the logits [B, T, W] of the word after each of `ids` [B, T]."""
        embedded = self.word_embedding.word_embedding.lut(ids)
        embedded = embedded * math.sqrt(embedded.shape[-1]) + self.positions[: ids.shape[1]]
        return self.rrg_head(self.decoder(embedded, image, mask, graph, graph_mask))

    def loss(self, batch: PublishedBatch, weights: dict[str, float], contrast_margin: float) -> dict[str, Tensor]:
        """Return all loss terms, named as in our criterion, and their weighted sum as `total`."""
        encoded = self.encode(batch)
        ids = batch.text[:, :-1]
        is_padding = ids == 0
        is_padding[:, 0] = False
        mask = _causal_mask(ids.shape[1]) + is_padding.unsqueeze(1) * torch.finfo(torch.float32).min
        logits = self.word_logits(ids, mask, encoded["image"], encoded["graph"], encoded["graph_mask"])
        log_probs = F.log_softmax(logits, dim=-1).gather(2, batch.text[:, 1:].unsqueeze(2)).squeeze(2)
        target_mask = batch.text_mask[:, 1:]
        attribute_targets = torch.cat(batch.attribute_labels)
        attribute_logits = encoded["attributes"][encoded["attributes"] != _PADDING]
        terms = {
            "report": -(log_probs * target_mask).sum() / target_mask.sum(),
            "observations": F.binary_cross_entropy_with_logits(encoded["diseases"], batch.disease_labels),
            "regions": F.binary_cross_entropy_with_logits(encoded["regions"], batch.region_labels),
            "attributes": F.binary_cross_entropy_with_logits(attribute_logits, attribute_targets),
            "contrast": self._contrast(encoded["vectors"], batch, contrast_margin),
        }
        terms["total"] = sum(weights[name] * value for name, value in terms.items())
        return terms

    def _contrast(self, vectors: Tensor, batch: PublishedBatch, margin: float) -> Tensor:
        directions = F.normalize(vectors, dim=-1)
        cosines = directions @ directions.T
        pairs = batch.labels.unsqueeze(0) == batch.labels.unsqueeze(1)
        same = batch.abnormal.unsqueeze(0) == batch.abnormal.unsqueeze(1)
        losses = torch.where(same, F.relu(1 - cosines), F.relu(cosines - margin))
        return (losses * pairs).sum() / pairs.sum()

    @torch.inference_mode()
    def generate(self, batch: PublishedBatch, beams: int, longest: int) -> Tensor:
        """Return the best report of each image by mean log-probability: ids [B, longest], 0 after the end.

        The release's three defects (see docs/differences.md) are fixed, so that ids can be compared.
        """
        encoded = self.encode(batch)
        images = len(batch.patches)
        image, graph, graph_mask = (
            encoded[name].repeat_interleave(beams, dim=0) for name in ("image", "graph", "graph_mask")
        )
        causal = _causal_mask(longest).expand(images * beams, -1, -1)
        text = torch.zeros(images * beams, longest + 1, dtype=torch.long)
        history = torch.zeros(images, beams, 0, self.rrg_head.out_features)
        sums = torch.full((images, beams), -torch.inf)
        sums[:, 0] = 0
        lengths, done = torch.zeros(images, beams), torch.zeros(images, beams, dtype=torch.bool)
        for step in range(longest):
            logits = self.word_logits(text[:, :-1], causal, image, graph, graph_mask)
            log_probs = F.log_softmax(logits[:, step], dim=-1).view(images, beams, -1)
            words = log_probs.shape[-1]
            # A finished beam continues with 0 only, at no cost.
            extended = log_probs.masked_fill(done.unsqueeze(2), -torch.inf)
            extended[..., 0] = torch.where(done, 0.0, extended[..., 0])
            candidates = sums.unsqueeze(2) + extended
            new_lengths = lengths + (~done).float()
            order = (candidates / new_lengths.unsqueeze(2)).view(images, -1).topk(beams, dim=1).indices
            beam, word = order // words, order % words
            sums = candidates.view(images, -1).gather(1, order)
            lengths = new_lengths.gather(1, beam)
            done = done.gather(1, beam) | (word == 0)
            text = text.view(images, beams, -1).gather(1, beam.unsqueeze(2).expand(-1, -1, longest + 1))
            text = text.view(images * beams, -1)
            text[:, step + 1] = word.view(-1)
            history = torch.cat([history, log_probs.unsqueeze(2)], 2)
            history = history.gather(1, beam[:, :, None, None].expand(-1, -1, step + 1, words))
            if done.all():
                break
        best = (sums / lengths).argmax(1)
        return text.view(images, beams, -1)[torch.arange(images), best, 1:]


def _causal_mask(length: int) -> Tensor:
    """Return an additive causal mask [1, length, length]."""
    return torch.full((1, length, length), torch.finfo(torch.float32).min).triu(1)
