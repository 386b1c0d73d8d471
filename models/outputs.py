"""What the models take and promise.

Shape legend:
    B batch, V views, N patches (of all views), C patch channels, G grid side of the frontal view,
    R regions (29 fixed slots), A attributes a region (padded), M attributes of the fullest sub-graph, D model width,
    T tokens, W words, K observations, S selected regions in the batch.
Masks are boolean, True = keep. Boxes are xyxy in 0..1 of the frontal image.
"""

from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor


class GraphSource(StrEnum):
    """Where the decoder's scene graph comes from."""

    PREDICTED = "predicted"  # from the image alone
    ORACLE = "oracle"        # regions and attributes annotated from the reference report
    MIXED = "mixed"          # training only: annotated, but predicted for studies drawn at random
    NONE = "none"            # the decoder sees no sub-graph


class BoxSource(StrEnum):
    """Where the boxes of regions come from."""

    LOCALIZER = "localizer"        # the model's own
    FILE = "file"                  # a detector's file
    ATLAS = "atlas"                # the same mean boxes for every image
    ORACLE_BOXES = "oracle_boxes"  # the annotation's own; an experiment, always named as such


@dataclass
class GraphAnnotation:
    """The annotated graph, for teacher forcing and losses: all [B, R, ...] but the two [B] flags.

    boxes [B, R, 4], visible, mentioned, abnormal [B, R] bool, attributes [B, R, A] bool;
    graph_known [B] bool: the study has region and attribute labels; boxes_known [B] bool: it has boxes.
    """

    boxes: Tensor
    visible: Tensor
    mentioned: Tensor
    abnormal: Tensor
    attributes: Tensor
    graph_known: Tensor
    boxes_known: Tensor


@dataclass
class GraphOverrides:
    """Somebody's own choices, which replace the model's where a graph is predicted.

    boxes [B, R, 4] for the regions of boxes_given [B, R] bool, which then count as visible;
    regions_on (visible and selected, whatever the model finds), regions_off [B, R] bool;
    attributes_on, attributes_off [B, R, A] bool. What is both on and off is off.
    """

    boxes: Tensor
    boxes_given: Tensor
    regions_on: Tensor
    regions_off: Tensor
    attributes_on: Tensor
    attributes_off: Tensor


@dataclass
class ModelInputs:
    """What an image study gives the model. In `predicted` mode `annotation` is None: nothing of the report is here.

    images [B, V, 3, H, H], the frontal view first; view_mask [B, V] bool; frontal [B] bool, images[:, 0] is frontal;
    detector_boxes [B, R, 4], detector_visible [B, R] bool: boxes from a file, None without one;
    overrides: what somebody changes in the predicted graph, None for nothing.
    """

    images: Tensor
    view_mask: Tensor
    frontal: Tensor
    detector_boxes: Tensor | None = None
    detector_visible: Tensor | None = None
    annotation: GraphAnnotation | None = None
    overrides: GraphOverrides | None = None


@dataclass
class SceneGraph:
    """A scene graph for every study of a batch, one sub-graph a selected region.

    selected    [B, R] bool       regions with a sub-graph
    boxes       [B, R, 4]         the boxes they were pooled from
    attributes  [B, R, A] bool    their attributes
    embeddings  [B, R, D]         sub-graph vectors, zeros where not selected
    nodes       [B, R, 1 + M, D]  encoded nodes: object, then attributes; zeros where masked
    node_mask   [B, R, 1 + M] bool
    """

    selected: Tensor
    boxes: Tensor
    attributes: Tensor
    embeddings: Tensor
    nodes: Tensor
    node_mask: Tensor


@dataclass
class Encoded:
    """All that is known of a batch of studies before a word is written.

    memory              [B, N, D]  encoded patches for the decoder; memory_mask [B, N] bool
    graph               the decoder's scene graph; None without one
    annotated_graph     the annotated scene graph, for the contrast; None outside of training or without annotation
    attribute_logits    [B, R, A]  of the regions of `attribute_regions` [B, R] bool; padding slots hold 0
    region_logits       [B, R]     "will the report speak of this region?"
    boxes, visible_logits  [B, R, 4], [B, R]  of the localizer
    observation_logits  [B, K]
    Each is None where the model is built without the part.
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
    """What training needs: the encoded studies and the next-word logits.

    word_logits  [B, T - 1, W]  for tokens 1 .. T-1, given those before; of padding they mean nothing
    region_attention [B, T - 1, R]  as in `Generation`, for the same tokens; None where it was not asked for, or the
                 decoder was given no graph
    """

    encoded: Encoded
    word_logits: Tensor
    region_attention: Tensor | None = None


@dataclass
class Generation:
    """Written reports.

    token_ids  [B, T] long, without BOS; EOS where it was written, padding after it
    scores     [B]  summed log-probability / number of generated tokens (EOS counted)
    token_log_probs [B, T]  log-probability of each written token, 0 after EOS
    encoded    what they were written from
    region_attention [B, T, R]  how much each token looked at the sub-graph of each region, on average over layers and
               heads; adds up to 1, or is 0 after EOS and for studies without sub-graph. None where it was not asked
               for, or the decoder was given no graph
    """

    token_ids: Tensor
    scores: Tensor
    token_log_probs: Tensor
    encoded: Encoded
    region_attention: Tensor | None = None
