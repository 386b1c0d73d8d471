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
    Q  tokens of the longest indication or previous report
    L  slots of a padded sequence, P  packed rows: in `models/layers/packing.py`
Masks are boolean, True = keep. Boxes are xyxy in 0..1 of the frontal image.
"""

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from models.family.shared_memory import BoundMemory
from models.layers.packing import Packing


class GraphSource(StrEnum):
    """Where the decoder's scene graph comes from."""

    PREDICTED = "predicted"  # the image alone
    ORACLE = "oracle"        # regions, attributes and observations annotated from the reference report
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
    change [B, R] long     index of the change since the prior, -1 where unknown; None: unknown everywhere
    """

    boxes: Tensor
    visible: Tensor
    mentioned: Tensor
    abnormal: Tensor
    attributes: Tensor
    graph_known: Tensor
    boxes_known: Tensor
    visibility_known: Tensor | None = None
    change: Tensor | None = None


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
    changes      further nodes with the change of a region, for a model that reads priors
    """

    subgraphs: int
    nodes: int
    attributes: int
    changes: int = 0


@dataclass(frozen=True)
class BatchSizes:
    """Sizes that follow from the masks of a batch. A model that knows them need not wait for the GPU to count.

    views       views of all studies
    tokens      tokens to predict, without padding
    annotated   of the annotated graphs
    priors      previous images of all studies
    """

    views: int
    tokens: int
    annotated: GraphSizes
    priors: int = 0


@dataclass
class ContextInputs:
    """The context of a batch of studies. What is None is absent in all of them, like what is masked in one.

    has_prior [B] bool, prior_image [B, 3, H, H]       the patient's previous frontal image
    indication [B, Q] long, indication_mask [B, Q]     token ids without BOS and EOS
    prior_report [B, Q] long, prior_report_mask [B, Q] the same of the previous report
    """

    has_prior: Tensor | None = None
    prior_image: Tensor | None = None
    indication: Tensor | None = None
    indication_mask: Tensor | None = None
    prior_report: Tensor | None = None
    prior_report_mask: Tensor | None = None


@dataclass
class ModelInputs:
    """What the model may see of a batch of studies; nothing of the report if `annotation` is None.

    images            [B, V, 3, H, H], the frontal view first
    view_mask         [B, V] bool
    frontal           [B] bool: images[:, 0] is a frontal view
    detector_boxes    [B, R, 4] boxes from a detector's file; detector_visible [B, R] bool
    annotation        the annotated graph; None in `predicted` mode
    observations      [B, K] bool, the positive labels, for models whose memory is chosen by them; None in `predicted`
                      mode
    overrides         user edits of the predicted graph
    sizes             sizes of the batch, counted on the CPU; None: counted by the model
    context           indication and previous study; models without `context` parts ignore it
    """

    images: Tensor
    view_mask: Tensor
    frontal: Tensor
    detector_boxes: Tensor | None = None
    detector_visible: Tensor | None = None
    annotation: GraphAnnotation | None = None
    observations: Tensor | None = None
    overrides: GraphOverrides | None = None
    sizes: BatchSizes | None = None
    context: ContextInputs | None = None


@dataclass
class SceneGraph:
    """The scene graphs of a batch, one sub-graph per selected region.

    selected    [B, R] bool      regions with a sub-graph
    boxes       [B, R, 4]        the boxes that region features were pooled from
    attributes  [B, R, A] bool   attributes of selected regions
    embeddings  [B, R, D]        sub-graph vectors; zeros if not selected
    nodes       [B, R, E, D]     encoded nodes, the object first, then its attributes; zeros where masked
    node_mask   [B, R, E] bool
    changes     [B, R] long      the change of each region, an attribute node like the others; -1 for none, which is
                                 the default
    """

    selected: Tensor
    boxes: Tensor
    attributes: Tensor
    embeddings: Tensor
    nodes: Tensor
    node_mask: Tensor
    changes: Tensor | None = None

    def __post_init__(self) -> None:
        if self.changes is None:
            self.changes = torch.full_like(self.selected, -1, dtype=torch.long)


@dataclass
class Encoded:
    """Everything that is computed before the first word. A field is None if the model lacks the part.

    memory              [B, N, D]  encoded patches for the decoder, [B, N, C] without a decoder; memory_mask [B, N],
                                   followed by the `context_rows` states of the context, if the model reads any
    graph               the decoder's scene graph
    annotated_graph     the annotated scene graph, for the contrastive loss; None without an annotation
    attribute_logits    [B, R, A]  of the regions of `attribute_regions` [B, R] bool; 0 in padding slots
    region_logits       [B, R]     of "the report mentions this region"
    boxes               [B, R, 4]  of the localizer; visible_logits [B, R]
    observation_logits  [B, K]
    change_logits       [B, R, changes]  of the regions of `change_regions` [B, R] bool, which have a prior;
                        prior_boxes [B, R, 4]  where they are in the previous image
    evidence            [B, C]     what the indication adds to the mean patch and to the features of regions
    shared_memory       the memory that patches have read and words will
    discriminative_map  [B, N]  in 0..1: how much each patch speaks for the predicted observations; without gradient
    foreground          [B, D]  the encoded sum of the patches, weighted with the map
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
    change_logits: Tensor | None = None
    change_regions: Tensor | None = None
    evidence: Tensor | None = None
    prior_boxes: Tensor | None = None
    shared_memory: BoundMemory | None = None
    discriminative_map: Tensor | None = None
    foreground: Tensor | None = None
    context_rows: int = 0

    @property
    def patch_mask(self) -> Tensor:
        """[B, N] bool: the part of `memory_mask` for the patches of the study itself."""
        return self.memory_mask[:, : self.memory_mask.shape[1] - self.context_rows]

    @property
    def predictions(self) -> tuple[Tensor | None, ...]:
        """What the model predicts before the first word."""
        return self.boxes, self.visible_logits, self.region_logits, self.attribute_logits, self.observation_logits


@dataclass
class SGRRGOutput:
    """The output of teacher forcing.

    packed_logits         [P, W]  of tokens 1 .. T - 1 without padding, each given those before; None without a decoder
    packing               of these tokens, from [B, T - 1]; None without a decoder
    region_log_attention  [B, T - 1, R]  logarithm of `Generation.region_attention` for the same tokens, `EXCLUDED` for
                          regions without a sub-graph; None unless requested, or without a graph
    words                 [B, T - 1, D]  embeddings of the tokens 0 .. T - 2; None unless image attention is requested
    image_attention       [B, T - 1, N]  attention of these tokens to patches in one layer, averaged over heads, without
                          dropout; zeros for tokens whose next one is padding; None unless requested
    """

    encoded: Encoded
    packed_logits: Tensor | None = None
    packing: Packing | None = None
    region_log_attention: Tensor | None = None
    words: Tensor | None = None
    image_attention: Tensor | None = None

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
