"""Scene graphs for data sets without annotated ones: regions and attributes from the report, boxes by the localizer."""

import numpy as np

from data.localizer.shipped import describe_localizer, find_boxes
from data.text.report_graph import read_report, scene_graph

_NOT_MENTIONED = {"mentioned": False, "abnormal": False, "attributes": []}


def build_report_graph(report: str, frontal: np.ndarray | None) -> dict:
    """Return a record's `graph` from a report and the frontal image of its study, uint8 [height, width], if there is
    one.

    With an image, all 29 regions have a box, as in Chest ImaGenome; without one, none has.
    """
    regions = scene_graph(read_report(report))["regions"]
    if frontal is not None:
        regions = {
            name: _NOT_MENTIONED | regions.get(name, {}) | {"box": box} for name, box in find_boxes(frontal).items()
        }
    return {"box_source": "localizer", "regions": regions}


def describe_report_graphs() -> str:
    """Return where the graphs of `build_report_graph` come from, with the version of the localizer."""
    return f"text of the report, boxes of {describe_localizer()}"
