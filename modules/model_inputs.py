"""The one door between a batch and the model: decides what the model may see of a study.

Outside of training the annotation stays behind in `predicted` and `none` mode, so nothing derived from the reference
report can reach the model, whatever the model does with its inputs.
"""

from data.batch import Batch
from models.outputs import BoxSource, GraphAnnotation, GraphSource, ModelInputs


def model_inputs(
    batch: Batch, graph_source: GraphSource, box_source: BoxSource, training: bool = False
) -> ModelInputs:
    """The part of `batch` that the model may see under the given sources.

    `oracle` and `mixed` show the annotated graph, and so does training in every mode: its losses count annotated
    regions, while the decoder's graph still follows `graph_source`. `oracle_boxes` shows the annotated boxes alone.
    """
    detector_boxes = detector_visible = annotation = None
    if box_source == BoxSource.FILE:
        detector_boxes, detector_visible = batch.detector_boxes, batch.detector_visible
    elif box_source == BoxSource.ORACLE_BOXES:
        detector_boxes, detector_visible = batch.regions.boxes, batch.regions.visible
    if training or graph_source in (GraphSource.ORACLE, GraphSource.MIXED):
        annotation = GraphAnnotation(**vars(batch.regions))
    return ModelInputs(batch.images, batch.view_mask, batch.frontal, detector_boxes, detector_visible, annotation)
