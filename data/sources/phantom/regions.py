"""The boxes of the 29 regions in a frontal image of a phantom chest."""

from collections.abc import Sequence

import numpy as np

from data.sources.phantom.bodies import build_clavicle
from data.sources.phantom.chest import APICAL_ZONE, SIDE_SIGN, SPINE_DEPTH, ZONES, Chest, Lung
from data.sources.phantom.findings import SIDES
from data.sources.phantom.projection import Projection

# A region has a box if at least this share of it is inside the image.
MIN_VISIBLE_SHARE = 0.25

Box = tuple[float, float, float, float]


def region_boxes(chest: Chest, projection: Projection) -> dict[str, Box | None]:
    """Return the boxes of the 29 regions in a frontal image, xyxy in 0..1; None for regions outside the image."""
    boxes = {}
    for name, points in region_outlines(chest).items():
        positions = projection.project(points) / projection.size
        if name in ("spine", "abdomen"):
            # These extend beyond the image. Points outside it would widen the box of a rotated spine.
            positions = positions[(positions[:, 1] > -0.02) & (positions[:, 1] < 1.02)]
        boxes[name] = _visible_box(positions)
    return boxes


def _visible_box(positions: np.ndarray) -> Box | None:
    """Return the bounding box of `positions` clipped to the image; None if too little of it is inside."""
    if not len(positions):
        return None
    x1, y1 = positions.min(0)
    x2, y2 = positions.max(0)
    clipped = np.clip([x1, y1, x2, y2], 0, 1)
    visible_area = (clipped[2] - clipped[0]) * (clipped[3] - clipped[1])
    if visible_area < MIN_VISIBLE_SHARE * (x2 - x1) * (y2 - y1):
        return None
    return tuple(float(value) for value in clipped)


def region_outlines(chest: Chest) -> dict[str, np.ndarray]:
    """Return [n, 3] points for each of the 29 regions, whose bounding box in the image is the region's box."""
    patient = chest.patient
    carina, arch, heart = chest.carina, chest.aortic_arch, chest.heart
    band = float(chest.mediastinum_half_width(np.array(0.62 * carina[1])))
    outlines = {}
    for side in SIDES:
        outlines |= _lung_outlines(chest, chest.lungs[side])
        bone = build_clavicle(chest, side)
        thickness = bone.radius[0][:, None] * [0.0, 1.0, 0.0]
        outlines[f"{side} clavicle"] = np.concatenate((bone.points[0] - thickness, bone.points[0] + thickness))
        outlines[f"{side} hilar structures"] = _rectangle(
            chest.hilum(side) + [0.9 * SIDE_SIGN[side], 0.6, 0.0], 2.9, 3.4
        )
    silhouette = np.concatenate([part.outline() for part in heart])
    inlet = chest.upper_mediastinum_top
    cava = [-patient.mediastinum - 0.3, carina[1] - 2.0, 2.0]
    corners = [[-band, inlet, 0.0], [band, inlet, 0.0], [0.0, carina[1] + 1.2, 0.0], cava]
    upper = np.concatenate((corners, arch.outline()))
    throat = np.array([[-1.6, -5.0, 0.5], [1.7, -5.0, 0.5]])
    return outlines | {
        "cardiac silhouette": silhouette,
        "mediastinum": np.concatenate((upper, silhouette)),
        "upper mediastinum": upper,
        "aortic arch": np.concatenate((arch.outline(), [[arch.centre[0] - arch.axes[0] - 1.6, arch.centre[1], -1.5]])),
        "trachea": np.concatenate((throat, carina + [[-1.5, 0.0, 0.0], [1.8, 0.3, 0.0]])),
        "carina": _rectangle(carina + [0.0, 0.4, 0.0], 2.3, 1.9),
        "svc": _rectangle([-patient.mediastinum + 0.4, (carina[1] - 2.5 + chest.atrium_top[1]) / 2, 1.0], 1.7,
                          (chest.atrium_top[1] - carina[1] + 2.5) / 2),
        "right atrium": heart[1].outline(),
        "cavoatrial junction": _rectangle(chest.atrium_top, 2.0, 2.0),
        "abdomen": _abdomen_outline(chest),
        "spine": _spine_outline(chest),
    }


def _lung_outlines(chest: Chest, lung: Lung) -> dict[str, np.ndarray]:
    """Return the outlines of a lung, its zones, its hemidiaphragm and its costophrenic angle."""
    side, bottom = lung.side, lung.sulcus
    outlines = {f"{side} lung": _lung_section(chest, lung, 0.0, 1.0)}
    for zone, (start, end) in ZONES.items():
        outlines[f"{side} {zone} lung zone"] = _lung_section(chest, lung, start, end)
    outlines[f"{side} apical zone"] = _lung_section(chest, lung, *APICAL_ZONE)
    wall = float(chest.cage(bottom))
    top = max(lung.dome_top, 0.0)
    outlines[f"{side} hemidiaphragm"] = np.array(
        [[lung.sign * 1.0, top, 0.0], [lung.sign * wall, top, 0.0], [lung.sign * wall, bottom, 0.0]])
    outlines[f"{side} costophrenic angle"] = _rectangle([lung.sign * (wall - 1.7), bottom - 1.7, 0.0], 2.2, 2.2)
    return outlines


def _lung_section(chest: Chest, lung: Lung, start: float, end: float) -> np.ndarray:
    """Return [n, 3] points around a lung between two heights, given as shares of the height of the lung."""
    y = np.linspace(start, end, 9) * lung.sulcus
    edges = [np.stack((lung.sign * edge(y), y, np.zeros_like(y)), -1) for edge in (chest.pleura, chest.cage)]
    return np.concatenate(edges)


def _rectangle(centre: Sequence[float], half_width: float, half_height: float) -> np.ndarray:
    """Return the corners [4, 3] of an upright rectangle."""
    return np.asarray(centre) + [[x, y, 0.0] for x in (-half_width, half_width) for y in (-half_height, half_height)]


def _abdomen_outline(chest: Chest) -> np.ndarray:
    """Return [n, 3] points along both flanks, from the higher dome down beyond the image."""
    y = np.linspace(min(lung.dome_top for lung in chest.lungs.values()), 60.0, 60)
    flank = chest.patient.half_width + 0.5
    return np.concatenate([np.stack((np.full_like(y, x), y, np.zeros_like(y)), -1) for x in (-flank, flank)])


def _spine_outline(chest: Chest) -> np.ndarray:
    """Return [n, 3] points along both sides of the thoracic spine, transverse processes included."""
    y = np.linspace(-3.5, chest.patient.lung_height + 4.0, 60)
    line = chest.spine_shift(y)
    return np.concatenate([np.stack((line + x, y, np.full_like(y, SPINE_DEPTH)), -1) for x in (-3.0, 3.0)])
