"""Selects the batch fields that the model may see.

Outside training, the sources `predicted` and `none` withhold the annotation, so nothing derived from the reference
report can reach the model.
"""

from data.batch import Batch
from models.outputs import BatchSizes, BoxSource, GraphAnnotation, GraphSizes, GraphSource, ModelInputs
from models.sgrrg import annotated_regions


def model_inputs(
    batch: Batch, graph_source: GraphSource, box_source: BoxSource, training: bool = False,
    sizes: BatchSizes | None = None,
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
    return ModelInputs(
        batch.images, batch.view_mask, batch.frontal, detector_boxes, detector_visible, annotation, sizes=sizes
    )


def count_sizes(batch: Batch) -> BatchSizes:
    """Return the sizes that follow from the masks of `batch`, which is still on the CPU: on a GPU this would wait."""
    selected = annotated_regions(GraphAnnotation(**vars(batch.regions)))
    attributes = (batch.regions.attributes & selected.unsqueeze(-1)).sum(-1)
    subgraphs = int(selected.sum())
    return BatchSizes(
        views=int(batch.view_mask.sum()), tokens=int(batch.token_mask[:, 1:].sum()),
        annotated=GraphSizes(subgraphs, nodes=subgraphs + int(attributes.sum()), attributes=int(attributes.max())),
    )
