"""A synthetic workload for our model and the published algorithm, with the same weights, and its operation counts.

Sizes are those of the release: width 512, three layers each, 29 regions with 849 attributes, patches of 1,024 channels.
There is no trunk: patch features are given.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.cost import RELEASE_ATTRIBUTES
from benchmarks.support.published import GRID, PublishedBatch, PublishedModel, to_published_batch
from data.batch import Batch, RegionAnnotation
from models.attribute_predictor import AttributePredictor
from models.family.cross_modal_memory import CrossModalMemory
from models.family.discriminative_map import DiscriminativeMap
from models.family.prototypes import Prototypes
from models.family.relational_memory import ConditionalNorm, RelationalMemory
from models.family.shared_memory import SharedMemory
from models.graph_attention import GraphAttention
from models.image_encoder import ImageEncoder
from models.layers.norms import OUR_STYLE, LayerStyle
from models.outputs import BoxSource, GraphAnnotation, GraphSource, ModelInputs
from models.patch_encoder import Patches
from models.proxy_heads import ObservationHead
from models.region_pooler import RegionPooler
from models.region_selector import RegionMemory, RegionSelector
from models.report_decoder import ReportDecoder
from models.scene_graph_encoder import SceneGraphEncoder
from models.sgrrg import SGRRG, GraphParts
from modules.release.published_weights import to_official
from modules.training.losses import ReportCriterion

LOSS_WEIGHTS = {"report": 1.0, "observations": 0.25, "regions": 0.25, "attributes": 0.1, "contrast": 0.1}
CONTRAST_MARGIN = 0.4
OBSERVATIONS = 14
TECHNIQUES = ("r2gen", "cmn", "camanet", "xpronet")
R2GEN_SLOTS = 3


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model and of a batch.

    regions_selected   sub-graphs per image
    max_attributes     each sub-graph has 1 to this number of attributes
    tokens, padded     ids of a report including BOS and EOS: average, and longest in the batch
    """

    channels: int = 1024
    width: int = 512
    heads: int = 8
    hidden: int = 512
    layers: int = 3
    words: int = 4000
    attributes_per_region: tuple[int, ...] = RELEASE_ATTRIBUTES
    memory_slots: int = 512
    memory_heads: int = 32
    memory_top: int = 32
    regions_selected: int = 10
    max_attributes: int = 6
    tokens: int = 60
    padded: int = 82
    batch: int = 16

    def with_batch(self, batch: int) -> "Sizes":
        """Return the same sizes with another batch size."""
        return replace(self, batch=batch)


TINY = Sizes(
    channels=32, width=16, heads=2, hidden=16, layers=1, words=50, attributes_per_region=(4, 3, 5, 2), memory_slots=8,
    memory_heads=2, memory_top=4, regions_selected=2, max_attributes=2, tokens=7, padded=9, batch=2,
)


class FixedPatches(nn.Module):
    """Replaces the trunk: returns the same patch features [B, N, C] for any images."""

    def __init__(self, patches: Tensor):
        super().__init__()
        self.register_buffer("patches", patches, persistent=False)

    def forward(self, images: Tensor, view_mask: Tensor, views: int | None = None) -> Patches:
        """Shapes as in `models.patch_encoder.PatchEncoder`."""
        mask = torch.ones(self.patches.shape[:2], dtype=torch.bool, device=self.patches.device)
        grid = self.patches.transpose(1, 2).unflatten(-1, (GRID, GRID))
        return Patches(self.patches, mask, grid)


@dataclass
class Workload:
    """Our model and a synthetic batch of the same `sizes`."""

    sizes: Sizes
    model: SGRRG
    batch: Batch
    criterion: ReportCriterion

    def inputs(self) -> ModelInputs:
        """Return the model's inputs, with the annotated graph and its boxes."""
        regions = self.batch.regions
        return ModelInputs(
            self.batch.images, self.batch.view_mask, self.batch.frontal, regions.boxes, regions.visible,
            GraphAnnotation(**vars(regions)), self.batch.observations > 0,
        )

    def loss(self) -> Tensor:
        """Return the total loss of the batch, with teacher forcing."""
        tokens = (self.batch.token_ids, self.batch.token_mask)
        output = self.model(self.inputs(), *tokens, GraphSource.ORACLE, BoxSource.FILE)
        return self.criterion(output, self.batch, self.criterion.counts(self.batch)).total

    def generate(self, beams: int, tokens: int) -> Tensor:
        """Generate reports [B, tokens] for the batch."""
        with torch.inference_mode():
            generation = self.model.generate(
                self.inputs(), GraphSource.ORACLE, BoxSource.FILE, beam_size=beams, max_tokens=tokens + 1
            )
        return generation.token_ids

    def published(self) -> tuple[PublishedModel, PublishedBatch]:
        """Return the published algorithm with the same weights, and the batch in its layout."""
        sizes = self.sizes
        model = PublishedModel(
            sizes.channels, sizes.width, sizes.heads, sizes.hidden, sizes.layers, sizes.layers, sizes.layers,
            sizes.words, self.model.decoder.embedding.positions.shape[0], OBSERVATIONS,
            list(sizes.attributes_per_region), sizes.memory_slots, sizes.memory_heads, sizes.memory_top,
        )
        model.load_state_dict(to_official(self.model.state_dict(), list(sizes.attributes_per_region)))
        patches = self.model.patch_encoder.patches
        return model, to_published_batch(self.batch, patches, list(sizes.attributes_per_region))


def build(
    sizes: Sizes, seed: int = 0, longest: int = 201, endless: bool = False, technique: str | None = None
) -> Workload:
    """Build a workload of `sizes` with random weights. BOS, EOS and padding share id 0, as in the release.

    longest    maximum length of a report
    endless    make EOS so improbable that every report has maximum length
    technique  one of `TECHNIQUES`, added to the model with its published sizes; None: none
    """
    torch.manual_seed(seed)
    patches = torch.randn(sizes.batch, GRID * GRID, sizes.channels)
    attributes = list(sizes.attributes_per_region)
    layer = (sizes.width, sizes.heads, sizes.hidden, sizes.layers)
    decoder_style, relational_memory = OUR_STYLE, None
    if technique == "r2gen":
        relational_memory = RelationalMemory(sizes.width, R2GEN_SLOTS, sizes.heads)
        norm = partial(ConditionalNorm, condition_width=R2GEN_SLOTS * sizes.width)
        decoder_style = LayerStyle(norm)
    attentions = [GraphAttention(sizes.width, sizes.heads, style=decoder_style) for _ in range(sizes.layers)]
    memory = RegionMemory(sizes.channels, sizes.memory_slots, sizes.memory_heads, sizes.memory_top)
    graph = GraphParts(
        RegionSelector(sizes.channels, len(attributes), memory=memory), RegionPooler(sizes.channels),
        AttributePredictor(sizes.channels, attributes), SceneGraphEncoder(sizes.channels, *layer, attributes),
        localizer=None, atlas=torch.zeros(len(attributes), 4),
    )
    model = SGRRG(
        FixedPatches(patches), ImageEncoder(sizes.channels, *layer),
        ReportDecoder(
            sizes.words, *layer, longest, graph_attentions=attentions, relational_memory=relational_memory,
            layer_style=decoder_style,
        ),
        graph, ObservationHead(sizes.channels, OBSERVATIONS), bos_id=0, eos_id=0, pad_id=0,
        shared_memory=_build_shared_memory(sizes, technique),
        discriminative_map=DiscriminativeMap(sizes.channels) if technique == "camanet" else None,
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:  # large enough for clear differences between words, as after training
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    if endless:
        nn.init.constant_(model.decoder.word_head.bias[:1], -60.0)
    criterion = ReportCriterion(LOSS_WEIGHTS, graph.attribute_predictor.slots, CONTRAST_MARGIN)
    return Workload(sizes, model, _build_batch(sizes, seed), criterion)


def _build_shared_memory(sizes: Sizes, technique: str | None) -> SharedMemory | None:
    """The memory of R2GenCMN or XProNet with its published number of rows."""
    if technique == "cmn":
        return CrossModalMemory(sizes.width, rows=2048, heads=sizes.heads, responding=32)
    if technique == "xpronet":
        return Prototypes(sizes.width, OBSERVATIONS, 20, channels=2816, heads=sizes.heads, responding=15)
    return None


def _build_batch(sizes: Sizes, seed: int) -> Batch:
    """Build a random batch with the numbers of regions, attributes and words in `sizes`."""
    generator = torch.Generator().manual_seed(seed)
    studies, regions = sizes.batch, len(sizes.attributes_per_region)
    mentioned = torch.zeros(studies, regions, dtype=torch.bool)
    attributes = torch.zeros(studies, regions, max(sizes.attributes_per_region), dtype=torch.bool)
    for study in range(studies):
        for region in torch.randperm(regions, generator=generator)[: sizes.regions_selected].tolist():
            mentioned[study, region] = True
            own = sizes.attributes_per_region[region]
            count = min(own, int(torch.randint(1, sizes.max_attributes + 1, (1,), generator=generator)))
            attributes[study, region, torch.randperm(own, generator=generator)[:count]] = True
    corner = torch.rand(studies, regions, 2, generator=generator) * 0.5
    boxes = torch.cat([corner, corner + 0.1 + 0.25 * torch.rand(studies, regions, 2, generator=generator)], -1)
    known = torch.ones(studies, dtype=torch.bool)
    abnormal = mentioned & (torch.rand(studies, regions, generator=generator) < 0.3)
    # One report has the padded length; the others are shorter, so that the average is `tokens`.
    lengths = torch.full((studies,), sizes.tokens)
    if studies > 1:
        rest = (sizes.tokens * studies - sizes.padded) / (studies - 1)
        lengths = torch.full((studies,), round(rest))
    lengths[0] = sizes.padded
    token_ids = torch.randint(1, sizes.words, (studies, sizes.padded), generator=generator)
    token_mask = torch.arange(sizes.padded) < lengths.unsqueeze(1)
    token_ids = token_ids * token_mask
    token_ids[:, 0] = 0
    token_ids[torch.arange(studies), lengths - 1] = 0
    visible = torch.ones(studies, regions, dtype=torch.bool)
    annotation = RegionAnnotation(boxes, visible, mentioned, abnormal, attributes, known, known)
    return Batch(
        study_ids=[str(study) for study in range(studies)], images=torch.zeros(studies, 1, 3, 1, 1),
        view_mask=torch.ones(studies, 1, dtype=torch.bool), frontal=known, regions=annotation,
        observations=torch.randint(0, 2, (studies, OBSERVATIONS), generator=generator).float(),
        observations_known=torch.ones(studies, OBSERVATIONS, dtype=torch.bool), token_ids=token_ids,
        token_mask=token_mask, references=[""] * studies, detector_boxes=boxes, detector_visible=visible,
    )


# Operations that any implementation needs: matrix products only, two operations per multiplication.


def _linear(rows: float, inputs: int, outputs: int) -> float:
    return 2.0 * rows * inputs * outputs


def _encode_flops(workload: Workload) -> float:
    """Operations before the first word, on real nodes of selected regions only."""
    sizes, regions = workload.sizes, workload.batch.regions
    images, patches = sizes.batch, sizes.batch * GRID * GRID
    width, channels = sizes.width, sizes.channels
    nodes = 1 + regions.attributes.sum(-1)[regions.mentioned].double()  # per sub-graph
    subgraphs = len(nodes)
    row = _linear(1, width, 4 * width) + _linear(1, width, 2 * sizes.hidden)  # of one row in one layer
    image = _linear(patches, channels, width) + sizes.layers * patches * (row + 4 * GRID * GRID * width)
    selector = _linear(3 * sizes.memory_slots, channels, channels) + _linear(5 * images, channels, channels)
    heads = sum(
        _linear(int(regions.mentioned[:, region].sum()), channels, size)
        for region, size in enumerate(sizes.attributes_per_region)
    )
    graph = _linear(subgraphs, channels, channels + width) + heads
    graph += sizes.layers * (float(nodes.sum()) * row + 4 * width * float((nodes**2).sum()))
    return image + selector + graph


def _memory_flops(workload: Workload) -> float:
    """Operations for keys and values of patches and sub-graphs, for all layers of the decoder."""
    sizes = workload.sizes
    rows = sizes.batch * GRID * GRID + int(workload.batch.regions.mentioned.sum())
    return sizes.layers * _linear(rows, sizes.width, 2 * sizes.width)


def _word_flops(sizes: Sizes, keys: float) -> float:
    """Operations for one word in the decoder, attending to `keys` words, patches and sub-graphs, and its logits."""
    layer = _linear(1, sizes.width, 8 * sizes.width) + _linear(1, sizes.width, 2 * sizes.hidden)
    return sizes.layers * (layer + 4 * keys * sizes.width) + _linear(1, sizes.width, sizes.words)


def train_step_flops(workload: Workload) -> float:
    """Operations of a training step on real words and selected nodes only; backward counts twice as much as forward."""
    sizes = workload.sizes
    lengths = workload.batch.token_mask.sum(1) - 1
    decoder = sum(
        length * _word_flops(sizes, (length + 1) / 2 + GRID * GRID + sizes.regions_selected)
        for length in lengths.tolist()
    )
    return 3 * (_encode_flops(workload) + _memory_flops(workload) + decoder)


def decode_flops(workload: Workload, beams: int, tokens: int) -> float:
    """Operations to generate reports of `tokens` words with a cache."""
    sizes = workload.sizes
    keys = (tokens + 1) / 2 + GRID * GRID + sizes.regions_selected
    decoder = sizes.batch * beams * tokens * _word_flops(sizes, keys)
    return _encode_flops(workload) + _memory_flops(workload) + decoder


def decode_bytes(workload: Workload, beams: int, tokens: int) -> float:
    """Bytes to read for it: in every step the decoder's weights and all cached keys and values, once."""
    sizes = workload.sizes
    weights = sum(parameter.numel() for parameter in workload.model.decoder.parameters())
    weights -= workload.model.decoder.embedding.tokens.weight.numel()
    cached_words = sizes.batch * beams * (tokens + 1) / 2
    memories = sizes.batch * (GRID * GRID + sizes.regions_selected)
    cached = sizes.layers * 2 * sizes.width * (cached_words + memories)
    return 4.0 * tokens * (weights + cached)
