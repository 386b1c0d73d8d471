"""SGRRG, the paper's figure read top to bottom: images -> patches -> scene graph -> memory -> tokens.

Source: Wang, Zhu, Bhalerao, He, "SGRRG: Leveraging radiology scene graphs for improved and abnormality-aware radiology
report generation", CMIG 2025. Shapes as in `models/outputs.py`. `modules/builders.py` builds the parts.
"""

import torch
from torch import Tensor, nn

from models.attribute_predictor import AttributePredictor
from models.beam_search import Decoding, beam_search, greedy_search, sample
from models.context.context_parts import ContextParts, PriorStudy
from models.family.discriminative_map import DiscriminativeMap
from models.family.shared_memory import SharedMemory
from models.image_encoder import ImageEncoder
from models.layers.masking import masked_mean
from models.layers.packing import Packing
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
from models.patch_encoder import PatchEncoder, Patches
from models.proxy_heads import ObservationHead
from models.region_localizer import RegionLocalizer
from models.region_pooler import RegionPooler
from models.region_selector import RegionSelector
from models.report_decoder import ReportDecoder
from models.scene_graph_encoder import SceneGraphEncoder


class GraphParts(nn.Module):
    """The parts that find, describe and encode regions; a model with `graph_in: none` has none of them.

    A model that writes no reports has the localizer alone.

    A region is selected, an attribute assigned and a region visible if its probability is above the threshold.

    region_thresholds [R], attribute_thresholds [R, A]   not in the state dict; `modules/weights.py` sets tuned ones
    tuned_thresholds   whether any of them is tuned
    """

    def __init__(
        self, selector: RegionSelector | None, pooler: RegionPooler | None,
        attribute_predictor: AttributePredictor | None, encoder: SceneGraphEncoder | None,
        localizer: RegionLocalizer | None, atlas: Tensor,
        region_threshold: float = 0.2, attribute_threshold: float = 0.5, visible_threshold: float = 0.5,
    ):
        """atlas [R, 4]: the boxes of `box_source: atlas`."""
        super().__init__()
        self.selector = selector
        self.pooler = pooler
        self.attribute_predictor = attribute_predictor
        self.encoder = encoder
        self.localizer = localizer
        slots = torch.zeros(len(atlas), 0) if attribute_predictor is None else attribute_predictor.slots
        self.register_buffer("region_thresholds", torch.full((len(slots),), region_threshold), persistent=False)
        self.register_buffer("attribute_thresholds", torch.full(slots.shape, attribute_threshold), persistent=False)
        self.tuned_thresholds = False
        self.visible_threshold = visible_threshold
        self.register_buffer("atlas", atlas.clone().float())


class SGRRG(nn.Module):
    """Generates reports from chest X-rays.

    image_encoder, decoder   None for a model that writes no reports, the image side alone
    graph                    None for `graph_in: none`
    observation_head         None without proxy task 1
    shared_memory            what patches and words read before the first layers; None for most models
    discriminative_map       adds a foreground row to the patches; needs the observation head. None for most models
    context                  reads indication and previous study; None for `context: []`
    bos_id, eos_id, pad_id   special tokens of the tokenizer
    """

    def __init__(
        self, patch_encoder: PatchEncoder, image_encoder: ImageEncoder | None, decoder: ReportDecoder | None,
        graph: GraphParts | None, observation_head: ObservationHead | None, bos_id: int, eos_id: int, pad_id: int,
        shared_memory: SharedMemory | None = None, discriminative_map: DiscriminativeMap | None = None,
        context: ContextParts | None = None,
    ):
        super().__init__()
        self.patch_encoder = patch_encoder
        self.image_encoder = image_encoder
        self.decoder = decoder
        self.graph = graph
        self.observation_head = observation_head
        self.shared_memory = shared_memory
        self.discriminative_map = discriminative_map
        self.context = context
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id

    def encode(
        self, inputs: ModelInputs, graph_source: GraphSource, box_source: BoxSource, mixing_probability: float = 0.0
    ) -> Encoded:
        """Compute everything before the first token.

        graph_source `oracle` and `mixed` need `inputs.annotation`. `mixed` draws studies with `mixing_probability` from
        torch's global generator: those get the predicted graph, the others the annotated one. The observations that
        choose the rows of a shared memory come from the same source, `inputs.observations` in place of the annotation.
        """
        texts, evidence = [], None
        if self.context is None:
            prior, patches = None, self.patch_encoder(
                inputs.images, inputs.view_mask, inputs.sizes and inputs.sizes.views
            )
        else:
            patches, prior = self.context.encode_patches(self.patch_encoder, inputs)
            texts = self.context.read_texts(inputs, self.decoder.embedding)
            evidence = self.context.find_evidence(texts)
        mean_patch = masked_mean(patches.tokens, patches.mask)
        if evidence is not None:
            mean_patch = mean_patch + evidence
        observation_logits = None if self.observation_head is None else self.observation_head(mean_patch)
        encoded = Encoded(
            memory=patches.tokens, memory_mask=patches.mask, observation_logits=observation_logits, evidence=evidence
        )

        drawn = None  # `mixed`: the studies [B] bool with predictions in place of annotations
        if self.graph is not None and self.graph.localizer is not None:
            encoded.boxes, encoded.visible_logits = self.graph.localizer(patches.frontal_grid)
        if self.decoder is None:
            return encoded
        if self.graph is not None:
            encoded.region_logits = self.graph.selector(mean_patch)
            boxes, visible = self._boxes(encoded, inputs, box_source)
            if inputs.annotation is not None:
                stand_ins = torch.where(visible.unsqueeze(-1), boxes, self.graph.atlas)
                encoded.annotated_graph = self._annotated_graph(
                    encoded, inputs, patches.frontal_grid, stand_ins, prior
                )
            if graph_source == GraphSource.ORACLE:
                encoded.graph = encoded.annotated_graph
            elif graph_source == GraphSource.PREDICTED:
                encoded.graph = self._predicted_graph(encoded, inputs, patches.frontal_grid, boxes, visible, prior)
            elif graph_source == GraphSource.MIXED:
                drawn = _draw_studies(inputs, mixing_probability)
                visible = visible & drawn.unsqueeze(1)  # predicted graphs of the other studies are not used
                predicted = self._predicted_graph(encoded, inputs, patches.frontal_grid, boxes, visible, prior)
                encoded.graph = _choose_by_study(drawn, predicted, encoded.annotated_graph)

        if self.shared_memory is not None:
            if graph_source == GraphSource.MIXED and drawn is None:
                drawn = _draw_studies(inputs, mixing_probability)
            encoded.shared_memory = self.shared_memory.for_studies(
                self._observations(encoded, inputs, graph_source, drawn)
            )
        self._encode_patches(encoded, patches)
        if self.context is not None:
            encoded.memory, encoded.memory_mask = self.context.extend_memory(
                encoded, texts, prior, self.image_encoder
            )
            encoded.context_rows = encoded.memory.shape[1] - patches.tokens.shape[1]
        return encoded

    def _encode_patches(self, encoded: Encoded, patches: Patches) -> None:
        """Set the memory of `encoded`, whose graph is known."""
        arguments = (patches.mask, encoded.graph, encoded.shared_memory)
        if self.discriminative_map is None:
            encoded.memory = self.image_encoder(patches.tokens, *arguments)
            return
        mapped = self.discriminative_map(
            patches.tokens, patches.mask, encoded.observation_logits, self.observation_head.head.weight
        )
        encoded.discriminative_map = mapped.map
        rows = self.image_encoder(mapped.tokens, *arguments, mapped.foreground)
        encoded.foreground, encoded.memory = rows[:, 0], rows[:, 1:]

    def forward(
        self, inputs: ModelInputs, token_ids: Tensor, token_mask: Tensor, graph_source: GraphSource,
        box_source: BoxSource, mixing_probability: float = 0.0, with_region_attention: bool = False,
        image_attention_layer: int | None = None,
    ) -> SGRRGOutput:
        """Teacher forcing: token_ids [B, T] -> logits of tokens 1 .. T - 1, each given those before.

        token_mask [B, T] bool: True for real tokens, BOS and EOS included. A model without a decoder returns no logits.
        """
        encoded = self.encode(inputs, graph_source, box_source, mixing_probability)
        if self.decoder is None:
            return SGRRGOutput(encoded)
        packing = Packing.from_mask(token_mask[:, 1:], inputs.sizes and inputs.sizes.tokens)
        decoded = self.decoder.decode(
            token_ids[:, :-1], packing, encoded.memory, encoded.memory_mask, encoded.graph, encoded.shared_memory,
            with_region_attention and self._decoder_sees(encoded), image_attention_layer,
        )
        output = SGRRGOutput(encoded, decoded.logits, packing, decoded.region_log_attention)
        if image_attention_layer is not None:
            output.words, output.image_attention = decoded.words, decoded.image_attention
        return output

    def generate(
        self, inputs: ModelInputs, graph_source: GraphSource, box_source: BoxSource, beam_size: int = 3,
        max_tokens: int = 100, sampled: bool = False, temperature: float = 1.0,
        generator: torch.Generator | None = None, with_region_attention: bool = False,
        excluded_ids: tuple[int, ...] = (),
    ) -> Generation:
        """Generate reports of at most `max_tokens` tokens counting BOS, so at most max_tokens - 1 generated ones.

        beam_size                1 is greedy decoding
        sampled                  sample each token at `temperature` with `generator` instead
        excluded_ids             tokens that are never generated, e.g. that of unknown words
        with_region_attention    also return the attention to regions, which takes one more pass over the result
        Raises ValueError for a model without a decoder.
        """
        if self.decoder is None:
            raise ValueError("this model writes no reports: it has no decoder (model.report=false)")
        encoded = self.encode(inputs, graph_source, box_source)
        studies, longest = len(inputs.images), max_tokens - 1
        decoding = Decoding(
            studies, longest, self.decoder.word_head.out_features, self.bos_id, self.eos_id, self.pad_id,
            inputs.images.device, excluded_ids,
        )
        beams = 1 if sampled else beam_size
        state = self.decoder.start(
            encoded.memory, encoded.memory_mask, encoded.graph, beams, longest, encoded.shared_memory
        )
        if sampled:
            hypotheses = sample(self.decoder.step, state, decoding, temperature, generator)
        elif beams == 1:
            hypotheses = greedy_search(self.decoder.step, state, decoding)
        else:
            hypotheses = beam_search(self.decoder.step, state, decoding, beams)
        attention = None
        if with_region_attention and self._decoder_sees(encoded):
            attention = self._region_attention(hypotheses.token_ids, encoded)
        return Generation(
            hypotheses.token_ids, hypotheses.scores, hypotheses.token_log_probs, encoded, attention
        )

    def _region_attention(self, token_ids: Tensor, encoded: Encoded) -> Tensor:
        """`Generation.region_attention` for `token_ids` [B, T], which end with the first EOS."""
        ended = (token_ids == self.eos_id).cumsum(1)
        real = ended - (token_ids == self.eos_id).long() == 0  # EOS itself is a generated token
        inputs = torch.cat([torch.full_like(token_ids[:, :1], self.bos_id), token_ids[:, :-1]], 1)
        _, log_attention = self.decoder.with_region_attention(
            inputs, Packing.from_mask(real), encoded.memory, encoded.memory_mask, encoded.graph, encoded.shared_memory
        )
        return log_attention.exp() * real.unsqueeze(-1)

    def _decoder_sees(self, encoded: Encoded) -> bool:
        """Whether the decoder attends to the graph of these studies."""
        return encoded.graph is not None and self.decoder.attends_to_graphs

    # Observations, boxes, regions and attributes are chosen in the functions below, and nowhere else.

    def _observations(
        self, encoded: Encoded, inputs: ModelInputs, source: GraphSource, drawn: Tensor | None
    ) -> Tensor | None:
        """The observations [B, K] bool of `source`; predicted ones are more probable than not. None without a head.

        drawn [B] bool: for `mixed`, the studies with predicted ones
        """
        if encoded.observation_logits is None:
            return None
        predicted = encoded.observation_logits > 0
        if source == GraphSource.ORACLE:
            return inputs.observations
        if source == GraphSource.MIXED:
            return torch.where(drawn.unsqueeze(1), predicted, inputs.observations)
        return predicted

    def _boxes(self, encoded: Encoded, inputs: ModelInputs, source: BoxSource) -> tuple[Tensor, Tensor]:
        """The boxes [B, R, 4] of `source`, clamped to the image and detached, and which are visible [B, R]."""
        if source == BoxSource.LOCALIZER:
            if encoded.boxes is None:
                raise ValueError("box_source localizer needs a model with model.localizer=true: use atlas or file")
            visible = torch.sigmoid(encoded.visible_logits) > self.graph.visible_threshold
            return encoded.boxes.detach().clamp(0, 1), visible
        if source == BoxSource.ATLAS:
            boxes = self.graph.atlas.expand(len(inputs.images), -1, -1)
            return boxes, torch.ones_like(boxes[..., 0], dtype=torch.bool)
        return inputs.detector_boxes, inputs.detector_visible

    def _annotated_graph(
        self, encoded: Encoded, inputs: ModelInputs, grid: Tensor, boxes: Tensor, prior: PriorStudy | None
    ) -> SceneGraph:
        """The graph of annotated regions, boxes and attributes; `boxes` stand in where boxes are not annotated."""
        annotation, sizes = inputs.annotation, inputs.sizes and inputs.sizes.annotated
        selected = annotated_regions(annotation)
        boxes = torch.where(annotation.boxes_known[:, None, None], annotation.boxes, boxes)
        features = self.graph.pooler(grid, boxes, selected, sizes and sizes.subgraphs)
        encoded.attribute_logits = self._attribute_logits(encoded, features)
        encoded.attribute_regions = selected
        changes = None
        if self.context is not None:
            logits = self._read_changes(encoded, prior, features, selected, sizes and sizes.subgraphs)
            changes = self.context.annotated_changes(prior, logits, annotation.change)
        return self.graph.encoder(features, boxes, annotation.attributes, selected, sizes, changes)

    def _predicted_graph(
        self, encoded: Encoded, inputs: ModelInputs, grid: Tensor, boxes: Tensor, visible: Tensor,
        prior: PriorStudy | None,
    ) -> SceneGraph:
        """The graph of the model's own regions and attributes, edited by `inputs.overrides`.

        Attribute logits are computed for every visible region.
        """
        overrides = inputs.overrides
        chosen = torch.sigmoid(encoded.region_logits.float()) > self.graph.region_thresholds
        if overrides is not None:
            boxes = torch.where(overrides.box_overridden.unsqueeze(-1), overrides.boxes, boxes)
            visible = visible | overrides.box_overridden | overrides.regions_on
            chosen = (chosen | overrides.regions_on) & ~overrides.regions_off
        visible = visible & inputs.frontal.unsqueeze(1)
        selected = visible & chosen
        features = self.graph.pooler(grid, boxes, visible)
        logits = self._attribute_logits(encoded, features)
        if encoded.attribute_logits is None:  # the losses need those of annotated regions
            encoded.attribute_logits, encoded.attribute_regions = logits, visible
        attributes = torch.sigmoid(logits.float()) > self.graph.attribute_thresholds
        if overrides is not None:
            attributes = (attributes | overrides.attributes_on) & ~overrides.attributes_off
        attributes = attributes & self.graph.attribute_predictor.slots
        changes = None
        if self.context is not None:
            changes = self.context.predicted_changes(
                prior, self._read_changes(encoded, prior, features, visible), attributes
            )
        return self.graph.encoder(features, boxes, attributes, selected, changes=changes)

    def _attribute_logits(self, encoded: Encoded, features: Tensor) -> Tensor:
        """The logits [B, R, A] of region features [B, R, C] and of what the indication adds to them."""
        if encoded.evidence is not None:
            features = features + encoded.evidence.unsqueeze(1)
        return self.graph.attribute_predictor(features)

    def _read_changes(
        self, encoded: Encoded, prior: PriorStudy | None, features: Tensor, regions: Tensor, count: int | None = None
    ) -> Tensor | None:
        """The logits of the change of `regions` [B, R] since `prior`."""
        parts = self.graph
        return self.context.read_changes(
            encoded, prior, parts.localizer, parts.pooler, parts.atlas, features, regions, count
        )


def annotated_regions(annotation: GraphAnnotation) -> Tensor:
    """The regions [B, R] with an annotated sub-graph: mentioned, and visible if the study has annotated boxes."""
    visible = annotation.visible | ~annotation.boxes_known[:, None]
    return annotation.mentioned & annotation.graph_known[:, None] & visible


def _draw_studies(inputs: ModelInputs, probability: float) -> Tensor:
    """Studies [B] bool, each drawn with `probability`."""
    return torch.rand(len(inputs.images), device=inputs.images.device) < probability


def _choose_by_study(use_first: Tensor, first: SceneGraph, second: SceneGraph) -> SceneGraph:
    """`first` for the studies of `use_first` [B] bool, `second` for the others; nodes padded to the larger E."""
    largest = max(first.nodes.shape[2], second.nodes.shape[2])

    def choose(left: Tensor, right: Tensor) -> Tensor:
        return torch.where(use_first.view(-1, *[1] * (left.dim() - 1)), left, right)

    def pad(nodes: Tensor) -> Tensor:
        padding = nodes.new_zeros(*nodes.shape[:2], largest - nodes.shape[2], *nodes.shape[3:])
        return torch.cat([nodes, padding], 2)

    return SceneGraph(
        selected=choose(first.selected, second.selected),
        boxes=choose(first.boxes, second.boxes),
        attributes=choose(first.attributes, second.attributes),
        embeddings=choose(first.embeddings, second.embeddings),
        nodes=choose(pad(first.nodes), pad(second.nodes)),
        node_mask=choose(pad(first.node_mask), pad(second.node_mask)),
        changes=choose(first.changes, second.changes),
    )
