"""A scene graph where none is published: regions and attributes from the report's text, boxes from the fitted atlas."""

import numpy as np

from data.images.atlas import atlas_boxes
from data.text.report_graph import read_report, scene_graph

_NOT_MENTIONED = {"mentioned": False, "abnormal": False, "attributes": []}


def graph_of_report(report: str, frontal: np.ndarray | None) -> dict:
    """A record's `graph` of a report and its frontal image, uint8 [H, W], at whatever size.

    All 29 regions have a box then, as in Chest ImaGenome; without a frontal image none has.
    """
    regions = scene_graph(read_report(report))["regions"]
    if frontal is not None:
        regions = {
            name: _NOT_MENTIONED | regions.get(name, {}) | {"box": box} for name, box in atlas_boxes(frontal).items()
        }
    return {"box_source": "atlas", "regions": regions}
