"""Scores of the scene graph: which regions, which attributes, and where the regions are.

Shapes: N studies, R regions, A attribute slots a region (padded). `known` [N] says which studies are annotated.
"""

import numpy as np
from numpy.typing import NDArray

from modules.evaluation.metrics.multilabel import label_counts, macro_auroc, macro_scores, micro_scores
from modules.evaluation.metrics.weighted import Score, ScoreSet, absent, of_sums, ratio

REGION_NAMES = ("region_micro_f1", "region_macro_f1", "region_auroc")
ATTRIBUTE_NAMES = ("attribute_micro_f1", "attribute_auroc")
BOX_NAMES = ("box_iou",)
GROUNDING_NAMES = ("grounding_iou", "grounding_pointing", "grounding_generated_iou", "grounding_generated_pointing")
NAMES = REGION_NAMES + ATTRIBUTE_NAMES + BOX_NAMES

_NO_GRAPH = "no study has an annotated graph"
_NO_BOXES = "no study has annotated boxes"


def region_scores(
    selected: NDArray | None, probabilities: NDArray | None, mentioned: NDArray, known: NDArray
) -> ScoreSet:
    """Does the model choose the regions that the reference report mentions? Micro and macro F1, macro AUROC.

    selected, mentioned [N, R] bool, probabilities [N, R], known [N] bool: the study has an annotated graph. None for
    selected and probabilities where the model chooses no regions.
    """
    if selected is None or probabilities is None:
        return absent(REGION_NAMES, "regions are not predicted")
    if not known.any():
        return absent(REGION_NAMES, _NO_GRAPH)
    counted = np.broadcast_to(known[:, None], mentioned.shape)
    counts = label_counts(selected, mentioned, counted)
    return ScoreSet({
        "region_micro_f1": micro_scores(counts)["f1"],
        "region_macro_f1": macro_scores(counts)["f1"],
        "region_auroc": macro_auroc(probabilities, mentioned, counted),
    })


def attribute_scores(
    given: NDArray | None, probabilities: NDArray | None, reference: NDArray, mentioned: NDArray, known: NDArray
) -> ScoreSet:
    """Does the model give regions the attributes that the reference report gives them?

    F1 (micro) is over all (study, region, attribute) of annotated studies: given [N, R, A] bool by the model to the
    regions it selects, against `reference` [N, R, A] bool, the annotated attributes of mentioned regions.
    AUROC (mean over the attributes with both classes) ranks, for each attribute of a region, the studies whose report
    mentions that region (mentioned [N, R] bool), by probabilities [N, R, A]: it judges the attributes apart from the
    choice of regions. None for given and probabilities where the model gives no attributes.
    """
    if given is None or probabilities is None:
        return absent(ATTRIBUTE_NAMES, "attributes are not predicted")
    if not known.any():
        return absent(ATTRIBUTE_NAMES, _NO_GRAPH)
    told = mentioned & known[:, None]
    reference = reference & told[..., None]
    ranked = np.broadcast_to(told[..., None], reference.shape)
    by_slot = (array.reshape(len(array), -1) for array in (probabilities, reference, ranked))
    given = given & known[:, None, None]
    counts = np.stack([array.sum(axis=(1, 2)) for array in (given & reference, given, reference)], axis=-1)[:, None]
    return ScoreSet({"attribute_micro_f1": micro_scores(counts)["f1"], "attribute_auroc": macro_auroc(*by_slot)})


def box_scores(
    predicted_boxes: NDArray | None, predicted_visible: NDArray | None, boxes: NDArray, visible: NDArray, known: NDArray
) -> ScoreSet:
    """`box_iou`: mean intersection over union over all annotated visible regions of studies with annotated boxes.

    predicted_boxes, boxes [N, R, 4] xyxy; predicted_visible, visible [N, R] bool; known [N] bool. A region that the
    model does not call visible counts 0. None for the predicted ones where the model gives no boxes.
    """
    if predicted_boxes is None or predicted_visible is None:
        return absent(BOX_NAMES, "boxes are not predicted")
    counted = visible & known[:, None]
    return ScoreSet({"box_iou": _mean_over(counted, box_iou(predicted_boxes, boxes) * predicted_visible, _NO_BOXES)})


def grounding_scores(
    predicted_boxes: NDArray | None,
    predicted_visible: NDArray | None,
    boxes: NDArray,
    boxed: NDArray,
    found: NDArray,
    generated: NDArray,
) -> ScoreSet:
    """Do the boxes lie where the findings of the reports are? Mean over (study, region) pairs of

    - IoU of the predicted with the annotated box, and
    - pointing accuracy: whether the centre of the predicted box lies in the annotated one (Zhang et al., Top-down
      Neural Attention by Excitation Backprop, IJCV 2018: the pointing game),

    over the annotated boxes of regions with a finding in the reference graph, and of those that the generated report
    gives a finding. A box that the model does not call visible counts 0.

    predicted_boxes, boxes [N, R, 4] xyxy, None where the model gives none; predicted_visible, boxed (the annotation has
    a box), found, generated [N, R] bool.
    """
    if predicted_boxes is None or predicted_visible is None:
        return absent(GROUNDING_NAMES, "boxes are not predicted")
    overlaps = box_iou(predicted_boxes, boxes) * predicted_visible
    hits = centre_inside(predicted_boxes, boxes) & predicted_visible
    scores = {}
    for prefix, regions, report in (
        ("grounding", found, "the reference graphs have"), ("grounding_generated", generated, "a generated report has")
    ):
        undefined = f"no region with an annotated box has a finding that {report}"
        scores[f"{prefix}_iou"] = _mean_over(boxed & regions, overlaps, undefined)
        scores[f"{prefix}_pointing"] = _mean_over(boxed & regions, hits, undefined)
    return ScoreSet(scores)


def _mean_over(counted: NDArray, values: NDArray, undefined: str) -> Score:
    """The mean of `values` [N, R] over all pairs that are `counted` [N, R] bool."""
    statistics = np.stack([np.where(counted, values, 0).sum(axis=1), counted.sum(axis=1)], axis=1)
    return of_sums(statistics, lambda sums: ratio(sums[:, 0], sums[:, 1]), undefined)


def centre_inside(predicted: NDArray, boxes: NDArray) -> NDArray:
    """[...] bool: the centre of `predicted` [..., 4] xyxy lies in or on `boxes` [..., 4]."""
    centre = (predicted[..., :2] + predicted[..., 2:]) / 2
    return ((centre >= boxes[..., :2]) & (centre <= boxes[..., 2:])).all(axis=-1)


def box_iou(first: NDArray, second: NDArray) -> NDArray:
    """Intersection over union [...] of boxes [..., 4] xyxy, pair by pair; 0 where the union is empty."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    intersection = _area(np.concatenate([low, high], axis=-1))
    union = _area(first) + _area(second) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def _area(boxes: NDArray) -> NDArray:
    """Areas [...] of boxes [..., 4]; 0 for boxes turned inside out."""
    sides = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None)
    return sides[..., 0] * sides[..., 1]
