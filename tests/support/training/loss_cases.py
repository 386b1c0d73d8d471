"""A batch with partly missing annotation, and random model output for it."""

import torch
from torch import Tensor

from data.batch import Batch
from models.layers.packing import Packing
from models.outputs import Encoded, SceneGraph, SGRRGOutput
from modules.training.losses import ReportCriterion
from tests.support.tiny_model import tiny_batch, tiny_vocabularies, with_regions

WEIGHTS = {"report": 1.0, "observations": 0.25, "regions": 0.5, "attributes": 0.1, "contrast": 0.2, "boxes": 1.0,
           "visibility": 0.3}
SLOTS = tiny_vocabularies().attributes.slots()


def partly_annotated_batch() -> Batch:
    """Three studies: the second without graph labels, the third with labels but without boxes."""
    full = tiny_batch(3, seed=2)
    regions, boxes_known = full.regions, torch.tensor([True, True, False])
    known = torch.tensor([True, False, True])
    return with_regions(
        full, graph_known=known, boxes_known=boxes_known, visible=regions.visible & boxes_known.unsqueeze(1),
        boxes=regions.boxes * boxes_known[:, None, None], mentioned=regions.mentioned & known.unsqueeze(1),
        abnormal=regions.abnormal & known.unsqueeze(1), attributes=regions.attributes & known[:, None, None],
    )


def annotated(batch: Batch) -> Tensor:
    """[B, R] bool: the regions with an annotated sub-graph, computed independently of the models."""
    regions = batch.regions
    return regions.mentioned & (regions.visible | ~regions.boxes_known.unsqueeze(1))


def random_output(batch: Batch, seed: int = 0) -> SGRRGOutput:
    """Random model output for `batch`, with the annotated graph."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, requires_grad=True)

    studies, regions, attributes = len(batch), *SLOTS.shape
    selected = annotated(batch)
    embeddings = draw(studies, regions, 6)
    graph = SceneGraph(
        selected, batch.regions.boxes, batch.regions.attributes, embeddings * selected.unsqueeze(-1),
        torch.zeros(studies, regions, 1, 6), selected.unsqueeze(-1),
    )
    corner = torch.rand(studies, regions, 2, generator=generator) * 0.7
    encoded = Encoded(
        memory=torch.zeros(studies, 1, 6), memory_mask=torch.ones(studies, 1, dtype=torch.bool), annotated_graph=graph,
        attribute_logits=draw(studies, regions, attributes), attribute_regions=selected,
        region_logits=draw(studies, regions), boxes=torch.cat([corner, corner + 0.25], -1).requires_grad_(),
        visible_logits=draw(studies, regions), observation_logits=draw(studies, 14),
    )
    packing = Packing.from_mask(batch.token_mask[:, 1:])
    return SGRRGOutput(encoded, packing.pack(draw(studies, batch.token_ids.shape[1] - 1, 23)), packing)


def terms_of(criterion: ReportCriterion, output: SGRRGOutput, batch: Batch) -> dict[str, float]:
    """The loss terms of a single batch as numbers."""
    return {name: term.item() for name, term in criterion(output, batch, criterion.counts(batch)).terms.items()}
