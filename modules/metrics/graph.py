"""Scores of the scene graph: which regions, which attributes, and where the regions are.

Shapes: N studies, R regions, A attribute slots a region (padded). `known` [N] says which studies are annotated.
"""

import numpy as np
from numpy.typing import NDArray

from modules.metrics.multilabel import ONE_CLASS, macro_auroc, macro_scores, micro_scores

REGION_NAMES = ("region_micro_f1", "region_macro_f1", "region_auroc")
ATTRIBUTE_NAMES = ("attribute_micro_f1", "attribute_auroc")
BOX_NAMES = ("box_iou",)
NAMES = REGION_NAMES + ATTRIBUTE_NAMES + BOX_NAMES

_NO_GRAPH = "no study has an annotated graph"


def region_scores(
    selected: NDArray | None, probabilities: NDArray | None, mentioned: NDArray, known: NDArray
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Does the model choose the regions that the reference report mentions? Micro and macro F1, macro AUROC.

    selected, mentioned [N, R] bool, probabilities [N, R], known [N] bool: the study has an annotated graph. None for
    selected and probabilities where the model chooses no regions.
    """
    scores: dict[str, float | None] = dict.fromkeys(REGION_NAMES)
    if selected is None or probabilities is None:
        return scores, dict.fromkeys(REGION_NAMES, "regions are not predicted")
    if not known.any():
        return scores, dict.fromkeys(REGION_NAMES, _NO_GRAPH)
    counted = np.broadcast_to(known[:, None], mentioned.shape)
    scores["region_micro_f1"] = micro_scores(selected, mentioned, counted)[2]
    scores["region_macro_f1"] = macro_scores(selected, mentioned, counted)[2]
    scores["region_auroc"] = macro_auroc(probabilities, mentioned, counted)
    return scores, {} if scores["region_auroc"] is not None else {"region_auroc": ONE_CLASS}


def attribute_scores(
    given: NDArray | None, probabilities: NDArray | None, reference: NDArray, mentioned: NDArray, known: NDArray
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Does the model give regions the attributes that the reference report gives them?

    F1 (micro) is over all (study, region, attribute) of annotated studies: given [N, R, A] bool by the model to the
    regions it selects, against `reference` [N, R, A] bool, the annotated attributes of mentioned regions.
    AUROC (mean over the attributes with both classes) ranks, for each attribute of a region, the studies whose report
    mentions that region (mentioned [N, R] bool), by probabilities [N, R, A]: it judges the attributes apart from the
    choice of regions. None for given and probabilities where the model gives no attributes.
    """
    scores: dict[str, float | None] = dict.fromkeys(ATTRIBUTE_NAMES)
    if given is None or probabilities is None:
        return scores, dict.fromkeys(ATTRIBUTE_NAMES, "attributes are not predicted")
    if not known.any():
        return scores, dict.fromkeys(ATTRIBUTE_NAMES, _NO_GRAPH)
    told = mentioned & known[:, None]
    reference = reference & told[..., None]
    counted = np.broadcast_to(known[:, None, None], reference.shape)
    scores["attribute_micro_f1"] = micro_scores(given, reference, counted)[2]
    ranked = np.broadcast_to(told[..., None], reference.shape)
    by_slot = (array.reshape(len(array), -1) for array in (probabilities, reference, ranked))
    scores["attribute_auroc"] = macro_auroc(*by_slot)
    return scores, {} if scores["attribute_auroc"] is not None else {"attribute_auroc": ONE_CLASS}


def box_scores(
    predicted_boxes: NDArray | None, predicted_visible: NDArray | None, boxes: NDArray, visible: NDArray, known: NDArray
) -> tuple[dict[str, float | None], dict[str, str]]:
    """`box_iou`: mean intersection over union over all annotated visible regions of studies with annotated boxes.

    predicted_boxes, boxes [N, R, 4] xyxy; predicted_visible, visible [N, R] bool; known [N] bool. A region that the
    model does not call visible counts 0. None for the predicted ones where the model gives no boxes.
    """
    if predicted_boxes is None or predicted_visible is None:
        return {"box_iou": None}, {"box_iou": "boxes are not predicted"}
    counted = visible & known[:, None]
    if not counted.any():
        return {"box_iou": None}, {"box_iou": "no study has annotated boxes"}
    overlaps = box_iou(predicted_boxes[counted], boxes[counted]) * predicted_visible[counted]
    return {"box_iou": float(overlaps.mean())}, {}


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
