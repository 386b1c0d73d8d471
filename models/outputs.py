"""Typed inputs and outputs of the models, and the shape legend of the project.

Shape legend (a letter has one meaning everywhere):
    B  studies in the batch               R  regions (29 fixed slots)
    V  views per study                    A  attribute slots per region (padded)
    H  image side in pixels               E  nodes of the largest sub-graph: its object and its attributes
    G  side of the patch grid             S  selected regions in the batch (packed)
    N  patches of all views               T  tokens of the longest report
    C  channels of a patch                W  words: ids of the tokenizer
    D  model width                        K  observations
    Q  queries, M  memory rows, h  heads, d = D / h channels per head: in attention
    L  slots of a padded sequence, P  packed rows: in `models/layers/packing.py`
Masks are boolean, True = keep. Boxes are xyxy in 0..1 of the frontal image.
"""

from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from models.layers.packing import Packing


class GraphSource(StrEnum):
    """Where the decoder's scene graph comes from."""

    PREDICTED = "predicted"  # the image alone
    ORACLE = "oracle"        # regions and attributes annotated from the reference report
    MIXED = "mixed"          # training only: annotated, but predicted for studies drawn at random
    NONE = "none"            # the decoder gets no scene graph


class BoxSource(StrEnum):
    """Where the boxes of regions come from."""

    LOCALIZER = "localizer"        # the model's own localizer
    FILE = "file"                  # a detector's file
    ATLAS = "atlas"                # the same mean boxes for every image
    ORACLE_BOXES = "oracle_boxes"  # the annotated boxes; an experiment, always named as such


@dataclass
class GraphAnnotation:
    """The annotated scene graph, for teacher forcing and losses.

    boxes [B, R, 4]; visible, mentioned, abnormal [B, R] bool; attributes [B, R, A] bool
    graph_known [B] bool   the study has region and attribute labels
    boxes_known [B] bool   the study has boxes
    visibility_known [B, R] bool   whether the region is visible is annotated; None: in all studies that have boxes
    """

    boxes: Tensor
    visible: Tensor
    mentioned: Tensor
    abnormal: Tensor
    attributes: Tensor
    graph_known: Tensor
    boxes_known: Tensor
    visibility_known: Tensor | None = None


@dataclass
class GraphOverrides:
    """User edits of the predicted graph, which replace the model's own choices.

    boxes [B, R, 4], for the regions of box_overridden [B, R] bool, which then count as visible
    regions_on [B, R] bool (made visible and selected), regions_off [B, R] bool
    attributes_on, attributes_off [B, R, A] bool
    What is both on and off is off.
    """

    boxes: Tensor
    box_overridden: Tensor
    regions_on: Tensor
    regions_off: Tensor
    attributes_on: Tensor
    attributes_off: Tensor


@dataclass(frozen=True)
class GraphSizes:
    """Sizes of the scene graphs of a batch.

    subgraphs    S, sub-graphs of all studies
    nodes        nodes of all sub-graphs, objects and attributes
    attributes   E - 1, attributes of the largest sub-graph
    """

    subgraphs: int
    nodes: int
    attributes: int


@dataclass(frozen=True)
class BatchSizes:
    """Sizes that follow from the masks of a batch. A model that knows them need not wait for the GPU to count.

    views       views of all studies
    tokens      tokens to predict, without padding
    annotated   of the annotated graphs
    """

    views: int
    tokens: int
    annotated: GraphSizes


@dataclass
class ModelInputs:
    """What the model may see of a batch of studies; nothing of the report if `annotation` is None.

    images            [B, V, 3, H, H], the frontal view first
    view_mask         [B, V] bool
    frontal           [B] bool: images[:, 0] is a frontal view
    detector_boxes    [B, R, 4] boxes from a detector's file; detector_visible [B, R] bool
    annotation        the annotated graph; None in `predicted` mode
    overrides         user edits of the predicted graph
    sizes             sizes of the batch, counted on the CPU; None: counted by the model
    """

    images: Tensor
    view_mask: Tensor
    frontal: Tensor
    detector_boxes: Tensor | None = None
    detector_visible: Tensor | None = None
    annotation: GraphAnnotation | None = None
    overrides: GraphOverrides | None = None
    sizes: BatchSizes | None = None


@dataclass
class SceneGraph:
    """The scene graphs of a batch, one sub-graph per selected region.

    selected    [B, R] bool      regions with a sub-graph
    boxes       [B, R, 4]        the boxes that region features were pooled from
    attributes  [B, R, A] bool   attributes of selected regions
    embeddings  [B, R, D]        sub-graph vectors; zeros if not selected
    nodes       [B, R, E, D]     encoded nodes, the object first, then its attributes; zeros where masked
    node_mask   [B, R, E] bool
    """

    selected: Tensor
    boxes: Tensor
    attributes: Tensor
    embeddings: Tensor
    nodes: Tensor
    node_mask: Tensor


@dataclass
class Encoded:
    """Everything that is computed before the first word. A field is None if the model lacks the part.

    memory              [B, N, D]  encoded patches for the decoder, [B, N, C] without a decoder; memory_mask [B, N] bool
    graph               the decoder's scene graph
    annotated_graph     the annotated scene graph, for the contrastive loss; None without an annotation
    attribute_logits    [B, R, A]  of the regions of `attribute_regions` [B, R] bool; 0 in padding slots
    region_logits       [B, R]     of "the report mentions this region"
    boxes               [B, R, 4]  of the localizer; visible_logits [B, R]
    observation_logits  [B, K]
    """

    memory: Tensor
    memory_mask: Tensor
    graph: SceneGraph | None = None
    annotated_graph: SceneGraph | None = None
    attribute_logits: Tensor | None = None
    attribute_regions: Tensor | None = None
    region_logits: Tensor | None = None
    boxes: Tensor | None = None
    visible_logits: Tensor | None = None
    observation_logits: Tensor | None = None


@dataclass
class SGRRGOutput:
    """The output of teacher forcing.

    packed_logits         [P, W]  of tokens 1 .. T - 1 without padding, each given those before; None without a decoder
    packing               of these tokens, from [B, T - 1]; None without a decoder
    region_log_attention  [B, T - 1, R]  logarithm of `Generation.region_attention` for the same tokens, `EXCLUDED` for
                          regions without a sub-graph; None unless requested, or without a graph
    """

    encoded: Encoded
    packed_logits: Tensor | None = None
    packing: Packing | None = None
    region_log_attention: Tensor | None = None

    @property
    def word_logits(self) -> Tensor:
        """The logits in their places [B, T - 1, W], zeros for padding."""
        return self.packing.unpack(self.packed_logits)


@dataclass
class Generation:
    """Generated reports.

    token_ids         [B, T] long, without BOS; ends with EOS unless the length limit was reached, then padding
    scores            [B]  summed log-probability / number of generated tokens (EOS counted)
    token_log_probs   [B, T]  log-probability of each generated token, 0 after EOS
    encoded           the encoded studies
    region_attention  [B, T, R]  attention of each token to the sub-graph of each region, averaged over layers and
                      heads; adds up to 1, or is 0 after EOS and for studies without a sub-graph. None unless requested,
                      or without a graph
    """

    token_ids: Tensor
    scores: Tensor
    token_log_probs: Tensor
    encoded: Encoded
    region_attention: Tensor | None = None
