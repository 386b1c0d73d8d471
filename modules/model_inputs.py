"""Selects the batch fields that the model may see.

Outside training, the sources `predicted` and `none` withhold the annotation, so nothing derived from the reference
report can reach the model.
"""

from data.batch import Batch
from models.outputs import BoxSource, GraphAnnotation, GraphSource, ModelInputs


def model_inputs(
    batch: Batch, graph_source: GraphSource, box_source: BoxSource, training: bool = False
) -> ModelInputs:
    """Return the part of `batch` that the model may see with these sources.

    The annotated graph is included for `oracle` and `mixed`, and always in training: the losses need the annotated
    regions, while the decoder's graph still follows `graph_source`. `oracle_boxes` includes only the annotated boxes.
    """
    detector_boxes = detector_visible = annotation = None
    if box_source == BoxSource.FILE:
        detector_boxes, detector_visible = batch.detector_boxes, batch.detector_visible
    elif box_source == BoxSource.ORACLE_BOXES:
        detector_boxes, detector_visible = batch.regions.boxes, batch.regions.visible
    if training or graph_source in (GraphSource.ORACLE, GraphSource.MIXED):
        annotation = GraphAnnotation(**vars(batch.regions))
    return ModelInputs(batch.images, batch.view_mask, batch.frontal, detector_boxes, detector_visible, annotation)
