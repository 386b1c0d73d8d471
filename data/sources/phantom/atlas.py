"""The average healthy phantom, from which `files/anatomy.yaml` and `files/chest_template.yaml` are made.

    python -m data.sources.phantom.atlas [--patients 400]     rewrites both files

The boxes of the two lungs in both files are chosen by hand and stay as they are; all other numbers are averages.
"""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from data.console import run_command
from data.images.atlas import chest_frame, from_frame, to_frame
from data.images.lungs import TEMPLATE_FILE, grid_positions
from data.ontology import Anatomy
from data.sources.phantom.patient import draw_patient
from data.sources.phantom.physics import simulate
from data.sources.phantom.regions import Box

ANATOMY_FILE = TEMPLATE_FILE.with_name("anatomy.yaml")
PATIENTS = 400
_IMAGE_SIDE = 96
# Cells per side of the template, and its highest grey level (the lowest is 0).
_CELLS, _MAX_LEVEL = 20, 99
# A box that is closer to the border of the image than this may be cut off.
_MARGIN = 0.005


def average_chest(patients: int) -> tuple[dict[str, NDArray], NDArray]:
    """Return the mean boxes of the regions and the mean image of `patients` healthy phantoms.

    Boxes [4] are relative to the lung of their side, and without a side to `data.images.atlas.chest_frame`. The image
    is [cells, cells] int, 0..99, on the grid of `data.images.lungs.grid_positions`. Patients whose lungs are not
    completely inside the image are left out.
    """
    anatomy = Anatomy.load()
    boxes: dict[str, list[NDArray]] = {name: [] for name in anatomy.names}
    cells = []
    for number in range(patients):
        rng = np.random.default_rng([29, number])
        view = simulate(draw_patient(rng), (), _IMAGE_SIDE, noise_seed=number)
        right, left = view.boxes["right lung"], view.boxes["left lung"]
        if not (_is_complete(right) and _is_complete(left)):
            continue
        right, left = np.array(right), np.array(left)
        chest = chest_frame(right, left)
        frames = {"right": right, "left": left, None: chest}
        for region in anatomy.regions:
            box = view.boxes[region.name]
            if _is_complete(box) or region.name == "abdomen":  # which always extends beyond the image
                boxes[region.name].append(to_frame(frames[region.side], np.array(box)))
        cells.append(_sample_cells(view.image, chest))
    mean_boxes = {name: np.mean(collected, axis=0) for name, collected in boxes.items()}
    mean = np.mean(cells, axis=0)
    levels = (mean - mean.min()) / (mean.max() - mean.min()) * _MAX_LEVEL
    return mean_boxes, levels.round().astype(int)


def _is_complete(box: Box | None) -> bool:
    """Return whether a box is completely inside the image."""
    return box is not None and min(box) >= _MARGIN and max(box) <= 1 - _MARGIN


def _sample_cells(image: NDArray, chest: NDArray) -> NDArray:
    """Return the mean brightness around the lungs, [cells, cells], standardised to mean 0 and deviation 1."""
    first, last = grid_positions(_CELLS)[[0, -1]]
    half_cell = (last - first) / (_CELLS - 1) / 2
    grid = np.array([first - half_cell, first - half_cell, last + half_cell, last + half_cell])
    box = from_frame(chest, grid) * len(image)
    cells = (
        Image.fromarray(image)
        .convert("F")
        .transform((4 * _CELLS, 4 * _CELLS), Image.Transform.EXTENT, tuple(box), Image.Resampling.BILINEAR)
    )
    means = np.asarray(cells).reshape(_CELLS, 4, _CELLS, 4).mean((1, 3))
    return (means - means.mean()) / means.std()


def place_boxes(anatomy: Anatomy, relative: dict[str, NDArray]) -> Anatomy:
    """Return `anatomy` with all boxes except those of the lungs placed relative to its lungs, rounded to three digits.

    The abdomen extends to the lower border of the image; no other edge is on the border (see
    `data.images.atlas.fit_boxes`).
    """
    right, left = (np.array(anatomy.regions[anatomy.index(name)].box) for name in ("right lung", "left lung"))
    frames = {"right": right, "left": left, None: chest_frame(right, left)}
    boxes = {}
    for region in anatomy.regions:
        if region.name in ("right lung", "left lung"):
            continue
        box = from_frame(frames[region.side], relative[region.name]).clip(_MARGIN, 1 - _MARGIN).round(3)
        if region.name == "abdomen":
            box[3] = 1.0
        boxes[region.name] = tuple(box.tolist())
    return anatomy.with_boxes(boxes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite both files."""
    parser = ArgumentParser(
        prog="python -m data.sources.phantom.atlas",
        description="Rewrite files/anatomy.yaml and files/chest_template.yaml from the average healthy phantom.",
    )
    parser.add_argument(
        "--patients", type=int, default=PATIENTS, help="number of phantoms to average (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    relative, brightness = average_chest(options.patients)
    anatomy = place_boxes(Anatomy.load(), relative)
    regions = [
        f"  - {{name: {region.name}, side: {region.side or 'null'}, mirror: {region.mirror or 'null'}, "
        f"box: {list(region.box)}}}"
        for region in anatomy.regions
    ]
    _replace_list(ANATOMY_FILE, "regions", regions)
    _replace_list(TEMPLATE_FILE, "brightness", [f"  - {row}" for row in brightness.tolist()])
    return 0


def _replace_list(path: Path, key: str, lines: list[str]) -> None:
    """Replace the content of `key`, the last one of a YAML file, by `lines`; everything above is unchanged."""
    above = path.read_text(encoding="utf-8").partition(f"{key}:\n")[0]
    text = above + f"{key}:\n" + "\n".join(lines) + "\n"
    yaml.safe_load(text)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    sys.exit(run_command(main))
