"""SGRRG, the paper's figure read top to bottom: images -> patches -> scene graph -> memory -> words.

Source: Wang, Zhu, Bhalerao, He, "SGRRG: Leveraging radiology scene graphs for improved and abnormality-aware radiology
report generation", CMIG 2025. Shapes as in `models/outputs.py`. The parts are built elsewhere and handed in.
"""

import torch
from torch import Tensor, nn

from models.attribute_predictor import AttributePredictor
from models.beam_search import beam_search, sample
from models.image_encoder import ImageEncoder
from models.layers.masking import masked_mean
from models.outputs import (
    BoxSource,
    Encoded,
    Generation,
    GraphAnnotation,
    GraphSource,
    ModelInputs,
    SceneGraph,
    SGRRGOutput,
)
from models.patch_encoder import PatchEncoder
from models.proxy_heads import ObservationHead
from models.region_localizer import RegionLocalizer
from models.region_pooler import RegionPooler
from models.region_selector import RegionSelector
from models.report_decoder import ReportDecoder
from models.scene_graph_encoder import SceneGraphEncoder


class GraphParts(nn.Module):
    """The parts that find, describe and encode regions; a model with `graph_in: none` has none of them.

    Thresholds are probabilities above which a region is selected, an attribute given, a region visible.
    """

    def __init__(
        self, selector: RegionSelector, pooler: RegionPooler, attribute_predictor: AttributePredictor,
        encoder: SceneGraphEncoder, localizer: RegionLocalizer | None, atlas: Tensor,
        region_threshold: float = 0.2, attribute_threshold: float = 0.5, visible_threshold: float = 0.5,
    ):
        """atlas [R, 4]: the boxes of `box_source: atlas`."""
        super().__init__()
        self.selector = selector
        self.pooler = pooler
        self.attribute_predictor = attribute_predictor
        self.encoder = encoder
        self.localizer = localizer
        self.region_threshold = region_threshold
        self.attribute_threshold = attribute_threshold
        self.visible_threshold = visible_threshold
        self.register_buffer("atlas", atlas.clone().float())


class SGRRG(nn.Module):
    """The report generator.

    graph             None for `graph_in: none`
    observation_head  None without proxy task 1
    bos_id, eos_id, pad_id   of the tokenizer
    """

    def __init__(
        self, patch_encoder: PatchEncoder, image_encoder: ImageEncoder, decoder: ReportDecoder,
        graph: GraphParts | None, observation_head: ObservationHead | None, bos_id: int, eos_id: int, pad_id: int,
    ):
        super().__init__()
        self.patch_encoder = patch_encoder
        self.image_encoder = image_encoder
        self.decoder = decoder
        self.graph = graph
        self.observation_head = observation_head
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id

    def encode(
        self, inputs: ModelInputs, graph_source: GraphSource, box_source: BoxSource, mixing_probability: float = 0.0
    ) -> Encoded:
        """Everything before the first word.

        graph_source `oracle` and `mixed` need `inputs.annotation`; `mixed` takes the predicted graph for studies drawn
        with `mixing_probability` from torch's generator, and the annotated one for the rest.
        """
        patches = self.patch_encoder(inputs.images, inputs.view_mask)
        mean_patch = masked_mean(patches.tokens, patches.mask)
        observation_logits = None if self.observation_head is None else self.observation_head(mean_patch)
        encoded = Encoded(memory=patches.tokens, memory_mask=patches.mask, observation_logits=observation_logits)

        if self.graph is not None:
            encoded.region_logits = self.graph.selector(mean_patch)
            if self.graph.localizer is not None:
                encoded.boxes, encoded.visible_logits = self.graph.localizer(patches.frontal_grid)
            boxes, visible = self._boxes(encoded, inputs, box_source)
            if inputs.annotation is not None:
                borrowed = torch.where(visible.unsqueeze(-1), boxes, self.graph.atlas)
                encoded.annotated_graph = self._annotated_graph(encoded, inputs, patches.frontal_grid, borrowed)
            if graph_source == GraphSource.ORACLE:
                encoded.graph = encoded.annotated_graph
            elif graph_source == GraphSource.PREDICTED:
                encoded.graph = self._predicted_graph(encoded, inputs, patches.frontal_grid, boxes, visible)
            elif graph_source == GraphSource.MIXED:
                drawn = torch.rand(len(inputs.images), device=inputs.images.device) < mixing_probability
                visible = visible & drawn.unsqueeze(1)  # no work for predicted graphs that nobody will see
                predicted = self._predicted_graph(encoded, inputs, patches.frontal_grid, boxes, visible)
                encoded.graph = _choose_by_study(drawn, predicted, encoded.annotated_graph)

        encoded.memory = self.image_encoder(patches.tokens, patches.mask, encoded.graph)
        return encoded

    def forward(
        self, inputs: ModelInputs, token_ids: Tensor, token_mask: Tensor, graph_source: GraphSource,
        box_source: BoxSource, mixing_probability: float = 0.0, with_region_attention: bool = False,
    ) -> SGRRGOutput:
        """Teacher forcing: token_ids [B, T] -> logits [B, T - 1, W] of tokens 1 .. T - 1.

        token_mask [B, T] bool: True for real tokens, BOS and EOS among them. The logits of others mean nothing.
        """
        encoded = self.encode(inputs, graph_source, box_source, mixing_probability)
        arguments = (token_ids[:, :-1], token_mask[:, 1:], encoded.memory, encoded.memory_mask, encoded.graph)
        if with_region_attention and self._decoder_sees(encoded):
            return SGRRGOutput(encoded, *self.decoder.with_region_attention(*arguments))
        return SGRRGOutput(encoded, self.decoder(*arguments))

    def generate(
        self, inputs: ModelInputs, graph_source: GraphSource, box_source: BoxSource, beam_size: int = 3,
        max_tokens: int = 100, sampled: bool = False, temperature: float = 1.0,
        generator: torch.Generator | None = None, with_region_attention: bool = False,
    ) -> Generation:
        """Reports of at most `max_tokens` ids counting BOS, so at most max_tokens - 1 generated.

        beam_size 1 is greedy decoding; sampled draws each word at `temperature` with `generator` instead.
        with_region_attention costs one more pass, over what was written.
        """
        encoded = self.encode(inputs, graph_source, box_source)
        studies, longest = len(inputs.images), max_tokens - 1
        rows = 1 if sampled else beam_size
        state = self.decoder.start(encoded.memory, encoded.memory_mask, encoded.graph, rows, longest)
        special = {"bos_id": self.bos_id, "eos_id": self.eos_id, "pad_id": self.pad_id, "device": inputs.images.device}
        if sampled:
            written = sample(
                self.decoder.step, state, studies, longest, temperature=temperature, generator=generator, **special
            )
        else:
            written = beam_search(self.decoder.step, state, studies, beam_size, longest, **special)
        attention = None
        if with_region_attention and self._decoder_sees(encoded):
            attention = self._region_attention(written.token_ids, encoded)
        return Generation(written.token_ids, written.scores, written.token_log_probs, encoded, attention)

    def _region_attention(self, token_ids: Tensor, encoded: Encoded) -> Tensor:
        """`Generation.region_attention` of `token_ids` [B, T], which end at the first EOS."""
        ended = (token_ids == self.eos_id).cumsum(1)
        real = ended - (token_ids == self.eos_id).long() == 0  # EOS itself is written as well
        before = torch.cat([torch.full_like(token_ids[:, :1], self.bos_id), token_ids[:, :-1]], 1)
        _, attention = self.decoder.with_region_attention(
            before, real, encoded.memory, encoded.memory_mask, encoded.graph
        )
        return attention

    def _decoder_sees(self, encoded: Encoded) -> bool:
        """Whether the decoder attends to a graph of these studies."""
        return encoded.graph is not None and self.decoder.attends_to_graphs

    # The three places where a box, a region or an attribute is chosen.

    def _boxes(self, encoded: Encoded, inputs: ModelInputs, source: BoxSource) -> tuple[Tensor, Tensor]:
        """The boxes [B, R, 4] of `source`, clamped to the image and without gradient, and which are visible [B, R]."""
        if source == BoxSource.LOCALIZER:
            if encoded.boxes is None:
                raise ValueError("box_source localizer needs a model with model.localizer=true: choose atlas or file")
            visible = torch.sigmoid(encoded.visible_logits) > self.graph.visible_threshold
            return encoded.boxes.detach().clamp(0, 1), visible
        if source == BoxSource.ATLAS:
            boxes = self.graph.atlas.expand(len(inputs.images), -1, -1)
            return boxes, torch.ones_like(boxes[..., 0], dtype=torch.bool)
        return inputs.detector_boxes, inputs.detector_visible

    def _annotated_graph(self, encoded: Encoded, inputs: ModelInputs, grid: Tensor, boxes: Tensor) -> SceneGraph:
        """Teacher forcing: annotated regions, boxes, attributes. Studies without annotated boxes borrow `boxes`."""
        annotation = inputs.annotation
        selected = annotated_regions(annotation)
        boxes = torch.where(annotation.boxes_known[:, None, None], annotation.boxes, boxes)
        features = self.graph.pooler(grid, boxes, selected)
        encoded.attribute_logits = self.graph.attribute_predictor(features)
        encoded.attribute_regions = selected
        return self.graph.encoder(features, boxes, annotation.attributes, selected)

    def _predicted_graph(
        self, encoded: Encoded, inputs: ModelInputs, grid: Tensor, boxes: Tensor, visible: Tensor
    ) -> SceneGraph:
        """Regions and attributes by the model's own probabilities, then by `inputs.overrides`.

        Attribute logits for every visible region.
        """
        overrides = inputs.overrides
        chosen = torch.sigmoid(encoded.region_logits) > self.graph.region_threshold
        if overrides is not None:
            boxes = torch.where(overrides.boxes_given.unsqueeze(-1), overrides.boxes, boxes)
            visible = visible | overrides.boxes_given | overrides.regions_on
            chosen = (chosen | overrides.regions_on) & ~overrides.regions_off
        visible = visible & inputs.frontal.unsqueeze(1)
        selected = visible & chosen
        features = self.graph.pooler(grid, boxes, visible)
        logits = self.graph.attribute_predictor(features)
        if encoded.attribute_logits is None:  # the losses keep the annotated regions' logits
            encoded.attribute_logits, encoded.attribute_regions = logits, visible
        attributes = torch.sigmoid(logits) > self.graph.attribute_threshold
        if overrides is not None:
            attributes = (attributes | overrides.attributes_on) & ~overrides.attributes_off
        attributes = attributes & self.graph.attribute_predictor.slots
        return self.graph.encoder(features, boxes, attributes, selected)


def annotated_regions(annotation: GraphAnnotation) -> Tensor:
    """The regions [B, R] that have an annotated sub-graph: mentioned, and visible where boxes are annotated at all."""
    visible = annotation.visible | ~annotation.boxes_known[:, None]
    return annotation.mentioned & annotation.graph_known[:, None] & visible


def _choose_by_study(drawn: Tensor, first: SceneGraph, second: SceneGraph) -> SceneGraph:
    """`first` for the studies of `drawn` [B] bool, `second` for the others; nodes padded to the wider of the two."""
    width = max(first.nodes.shape[2], second.nodes.shape[2])

    def choose(left: Tensor, right: Tensor) -> Tensor:
        return torch.where(drawn.view(-1, *[1] * (left.dim() - 1)), left, right)

    def widen(nodes: Tensor) -> Tensor:
        missing = width - nodes.shape[2]
        filler = nodes.new_zeros(*nodes.shape[:2], missing, *nodes.shape[3:])
        return torch.cat([nodes, filler], 2)

    return SceneGraph(
        selected=choose(first.selected, second.selected),
        boxes=choose(first.boxes, second.boxes),
        attributes=choose(first.attributes, second.attributes),
        embeddings=choose(first.embeddings, second.embeddings),
        nodes=choose(widen(first.nodes), widen(second.nodes)),
        node_mask=choose(widen(first.node_mask), widen(second.node_mask)),
    )
