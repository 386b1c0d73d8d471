"""Selects the batch fields that the model may see.

Outside training, the sources `predicted` and `none` withhold the annotation, so nothing derived from the reference
report can reach the model.
"""

from data.batch import Batch
from data.context.fields import StudyContext
from models.outputs import (
    BatchSizes,
    BoxSource,
    ContextInputs,
    GraphAnnotation,
    GraphSizes,
    GraphSource,
    ModelInputs,
)
from models.sgrrg import annotated_regions
from modules.settings.context import ContextUse


def model_inputs(
    batch: Batch, graph_source: GraphSource, box_source: BoxSource, training: bool = False,
    sizes: BatchSizes | None = None, context: ContextUse = ContextUse.ALL,
) -> ModelInputs:
    """Return the part of `batch` that the model may see with these sources.

    The annotated graph is included for `oracle` and `mixed`, and always in training: the losses need the annotated
    regions, while the decoder's graph still follows `graph_source`. `oracle_boxes` includes only the annotated boxes.
    The positive observations are included for `oracle` and `mixed` alone; unknown ones count as negative.
    Of the study's context, `context` says what is included; a model reads only what it was built for.
    """
    detector_boxes = detector_visible = annotation = observations = None
    if box_source == BoxSource.FILE:
        detector_boxes, detector_visible = batch.detector_boxes, batch.detector_visible
    elif box_source == BoxSource.ORACLE_BOXES:
        detector_boxes, detector_visible = batch.regions.boxes, batch.regions.visible
    if training or graph_source in (GraphSource.ORACLE, GraphSource.MIXED):
        annotation = GraphAnnotation(**vars(batch.regions))
    if graph_source in (GraphSource.ORACLE, GraphSource.MIXED):
        observations = (batch.observations > 0) & batch.observations_known
    return ModelInputs(
        batch.images, batch.view_mask, batch.frontal, detector_boxes, detector_visible, annotation, observations,
        sizes=sizes, context=_context_inputs(batch.context, context),
    )


def _context_inputs(context: StudyContext | None, use: ContextUse) -> ContextInputs | None:
    """Return the part of a batch's context that `use` includes; None if there is none."""
    if context is None or use == ContextUse.NONE:
        return None
    inputs = ContextInputs()
    if use.includes_indication:
        inputs.indication, inputs.indication_mask = context.indication, context.indication_mask
    if use.includes_prior:
        inputs.has_prior, inputs.prior_image = context.has_prior, context.prior_image
        inputs.prior_report, inputs.prior_report_mask = context.prior_report, context.prior_report_mask
    return inputs


def count_sizes(batch: Batch) -> BatchSizes:
    """Return the sizes that follow from the masks of `batch`, which is still on the CPU: on a GPU this would wait."""
    selected = annotated_regions(GraphAnnotation(**vars(batch.regions)))
    attributes = (batch.regions.attributes & selected.unsqueeze(-1)).sum(-1)
    subgraphs = int(selected.sum())
    has_prior = None if batch.context is None else batch.context.has_prior
    priors = changes = 0
    if has_prior is not None:
        priors = int(has_prior.sum())
        changes = int((selected & has_prior.unsqueeze(1) & (batch.regions.change >= 0)).sum())
    return BatchSizes(
        views=int(batch.view_mask.sum()), tokens=int(batch.token_mask[:, 1:].sum()),
        annotated=GraphSizes(
            subgraphs, nodes=subgraphs + int(attributes.sum()), attributes=int(attributes.max()), changes=changes
        ),
        priors=priors,
    )
