"""Scores of the predicted scene graph: regions, attributes, boxes, and whether boxes point at findings.

Shapes: R regions, A attribute slots per region (padded). graph_known, boxes_known [studies] bool: the study has an
annotated graph, annotated boxes. Predictions are None if the model does not make them.
"""

import numpy as np
from numpy.typing import NDArray

from modules.evaluation.metrics.multilabel import label_counts, macro_auroc, macro_f1, macro_scores, micro_scores
from modules.evaluation.metrics.weighted import Score, ScoreSet, absent_scores, ratio_score

REGION_NAMES = ("region_micro_f1", "region_macro_f1", "region_auroc")
ATTRIBUTE_NAMES = (
    "attribute_micro_f1", "attribute_macro_f1", "attribute_abnormal_micro_f1", "attribute_abnormal_macro_f1",
    "attribute_auroc",
)
BOX_NAMES = ("box_iou",)
GROUNDING_NAMES = ("grounding_iou", "grounding_pointing", "grounding_generated_iou", "grounding_generated_pointing")
NAMES = REGION_NAMES + ATTRIBUTE_NAMES + BOX_NAMES

_NO_GRAPH = "no study has an annotated graph"
_NO_BOXES = "no study has annotated boxes"


def region_scores(
    selected: NDArray | None, probabilities: NDArray | None, mentioned: NDArray, graph_known: NDArray
) -> ScoreSet:
    """Compare the regions that the model selects with those that the reference report mentions: micro/macro F1, AUROC.

    selected, mentioned [studies, R] bool, probabilities [studies, R], graph_known [studies] bool.
    """
    if selected is None or probabilities is None:
        return absent_scores(REGION_NAMES, "regions are not predicted")
    if not graph_known.any():
        return absent_scores(REGION_NAMES, _NO_GRAPH)
    counted = np.broadcast_to(graph_known[:, None], mentioned.shape)
    counts = label_counts(selected, mentioned, counted)
    return ScoreSet({
        "region_micro_f1": micro_scores(counts)["f1"],
        "region_macro_f1": macro_scores(counts)["f1"],
        "region_auroc": macro_auroc(probabilities, mentioned, counted),
    })


def attribute_scores(
    predicted: NDArray | None,
    probabilities: NDArray | None,
    reference: NDArray,
    mentioned: NDArray,
    graph_known: NDArray,
    abnormal: NDArray | None = None,
) -> ScoreSet:
    """Compare the attributes that the model gives to regions with those of the annotated graph.

    F1 counts (study, region, attribute) of annotated studies: `predicted` [studies, R, A] bool, the attributes of
    selected regions, against `reference` [studies, R, A] bool, the annotated attributes of mentioned regions. Micro
    pools all of them; macro is the mean over the attributes of regions that occur in the reference. The abnormal ones
    are those of the attributes `abnormal` [R, A] bool; None if the vocabulary does not say which these are.
    AUROC (mean over the attributes with both classes) ranks, for each attribute of each region, the studies whose
    report mentions that region (mentioned [studies, R] bool) by probabilities [studies, R, A]. It does not depend on
    which regions the model selects. graph_known [studies] bool.
    """
    if predicted is None or probabilities is None:
        return absent_scores(ATTRIBUTE_NAMES, "attributes are not predicted")
    if not graph_known.any():
        return absent_scores(ATTRIBUTE_NAMES, _NO_GRAPH)
    described = (mentioned & graph_known[:, None])[..., None]
    reference = reference & described
    ranked = np.broadcast_to(described, reference.shape)
    by_slot = (array.reshape(len(array), -1) for array in (probabilities, reference, ranked))
    predicted = predicted & graph_known[:, None, None]
    scores = ScoreSet(_attribute_f1("attribute", predicted, reference) | {"attribute_auroc": macro_auroc(*by_slot)})
    if abnormal is None or not abnormal.any():
        return scores | absent_scores(
            [name for name in ATTRIBUTE_NAMES if "abnormal" in name], "the vocabulary has no abnormal attributes"
        )
    return scores | ScoreSet(
        _attribute_f1("attribute_abnormal", predicted[:, abnormal], reference[:, abnormal])
    )


def _attribute_f1(prefix: str, predicted: NDArray, reference: NDArray) -> dict[str, Score]:
    """Micro- and macro-F1 of attributes, [studies, ...] bool."""
    predicted, reference = (array.reshape(len(array), -1) for array in (predicted, reference))
    arrays = (predicted & reference, predicted, reference)
    counts = np.stack([array.sum(axis=1) for array in arrays], axis=-1)[:, None]  # [studies, 1, 3]
    return {
        f"{prefix}_micro_f1": micro_scores(counts)["f1"], f"{prefix}_macro_f1": macro_f1(predicted, reference),
    }


def box_scores(
    predicted_boxes: NDArray | None,
    predicted_visible: NDArray | None,
    boxes: NDArray,
    visible: NDArray,
    boxes_known: NDArray,
) -> ScoreSet:
    """Return `box_iou`: the mean intersection over union over annotated visible regions of studies with boxes.

    A region that the model predicts as not visible counts 0. predicted_boxes, boxes [studies, R, 4] xyxy;
    predicted_visible, visible [studies, R] bool; boxes_known [studies] bool.
    """
    if predicted_boxes is None or predicted_visible is None:
        return absent_scores(BOX_NAMES, "boxes are not predicted")
    counted = visible & boxes_known[:, None]
    overlaps = box_iou(predicted_boxes, boxes) * predicted_visible
    return ScoreSet({"box_iou": _mean_over_regions(overlaps, counted, _NO_BOXES)})


def grounding_scores(
    predicted_boxes: NDArray | None,
    predicted_visible: NDArray | None,
    boxes: NDArray,
    has_box: NDArray,
    reference_findings: NDArray,
    generated_findings: NDArray,
) -> ScoreSet:
    """Check whether predicted boxes are where the findings are. Means over (study, region) pairs of

    - the IoU of the predicted and the annotated box, and
    - the pointing accuracy: whether the centre of the predicted box is inside the annotated one (Zhang et al., Top-down
      Neural Attention by Excitation Backprop, IJCV 2018: the pointing game),

    over annotated boxes of regions with a finding, once in the reference graph and once in the generated report. A box
    that the model predicts as not visible counts 0.

    predicted_boxes, boxes [studies, R, 4] xyxy; predicted_visible, has_box (there is an annotated box),
    reference_findings, generated_findings (the region has a finding) [studies, R] bool.
    """
    if predicted_boxes is None or predicted_visible is None:
        return absent_scores(GROUNDING_NAMES, "boxes are not predicted")
    overlaps = box_iou(predicted_boxes, boxes) * predicted_visible
    hits = centre_inside(predicted_boxes, boxes) & predicted_visible
    scores = {}
    for prefix, findings, source in (
        ("grounding", reference_findings, "a reference graph"),
        ("grounding_generated", generated_findings, "a generated report"),
    ):
        undefined_reason = f"no region with an annotated box has a finding in {source}"
        scores[f"{prefix}_iou"] = _mean_over_regions(overlaps, has_box & findings, undefined_reason)
        scores[f"{prefix}_pointing"] = _mean_over_regions(hits, has_box & findings, undefined_reason)
    return ScoreSet(scores)


def _mean_over_regions(values: NDArray, counted: NDArray, undefined_reason: str) -> Score:
    """Return the mean of `values` [studies, R] over the pairs that are `counted` [studies, R] bool."""
    return ratio_score(np.where(counted, values, 0).sum(axis=1), counted.sum(axis=1), undefined_reason)


def centre_inside(predicted: NDArray, boxes: NDArray) -> NDArray:
    """Return [...] bool: the centre of `predicted` [..., 4] xyxy is inside `boxes` [..., 4], edges included."""
    centre = (predicted[..., :2] + predicted[..., 2:]) / 2
    return ((centre >= boxes[..., :2]) & (centre <= boxes[..., 2:])).all(axis=-1)


def box_iou(first: NDArray, second: NDArray) -> NDArray:
    """Return the intersection over union [...] of corresponding boxes [..., 4] xyxy; 0 if the union is empty."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    intersection = _area(np.concatenate([low, high], axis=-1))
    union = _area(first) + _area(second) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def _area(boxes: NDArray) -> NDArray:
    """Return the areas [...] of boxes [..., 4] xyxy; 0 if a maximum is below its minimum."""
    sides = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None)
    return sides[..., 0] * sides[..., 1]
