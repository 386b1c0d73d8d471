"""The average healthy phantom: where `files/anatomy.yaml` and `files/chest_template.yaml` have their numbers from.

    python -m data.sources.phantom.atlas [--patients 400]     writes both files anew

The places of the two lungs in both files are chosen by hand and kept; everything else follows from the phantoms.
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

from data.images.atlas import TEMPLATE_FILE, chest_frame, from_frame, grid_positions, to_frame
from data.ontology import Anatomy
from data.sources.phantom.anatomy import draw_patient
from data.sources.phantom.physics import Box, simulate

ANATOMY_FILE = TEMPLATE_FILE.with_name("anatomy.yaml")
PATIENTS = 400
_SIDE = 96
# Cells a side of the template, and grey levels that tell its darkest from its brightest cell.
_CELLS, _LEVELS = 20, 99
# Nearer to the border of the picture than this a lung may be cut off.
_MARGIN = 0.005


def average_chest(patients: int) -> tuple[dict[str, NDArray], NDArray]:
    """The mean boxes of the regions and the mean picture, over so many healthy phantoms.

    Boxes [4] by region: those of one side relative to the lung of that side, those in the middle relative to
    `data.images.atlas.chest_frame`. The picture is [C, C] int, 0..99, on the grid of `data.images.atlas.grid_positions`. Patients
    whose lungs are not wholly in the picture are left out.
    """
    anatomy = Anatomy.load()
    places: dict[str, list[NDArray]] = {name: [] for name in anatomy.names}
    pictures = []
    for number in range(patients):
        rng = np.random.default_rng([29, number])
        picture = simulate(draw_patient(rng), (), _SIDE, noise_seed=number)
        right, left = picture.boxes["right lung"], picture.boxes["left lung"]
        if not (_whole(right) and _whole(left)):
            continue
        right, left = np.array(right), np.array(left)
        chest = chest_frame(right, left)
        frames = {"right": right, "left": left, None: chest}
        for region in anatomy.regions:
            box = picture.boxes[region.name]
            if _whole(box) or region.name == "abdomen":  # which always goes on beyond the picture
                places[region.name].append(to_frame(frames[region.side], np.array(box)))
        pictures.append(_sampled(picture.image, chest))
    boxes = {name: np.mean(seen, axis=0) for name, seen in places.items()}
    mean = np.mean(pictures, axis=0)
    levels = (mean - mean.min()) / (mean.max() - mean.min()) * _LEVELS
    return boxes, levels.round().astype(int)


def _whole(box: Box | None) -> bool:
    """Whether a box is wholly in the picture."""
    return box is not None and min(box) >= _MARGIN and max(box) <= 1 - _MARGIN


def _sampled(image: NDArray, chest: NDArray) -> NDArray:
    """[C, C]: the picture round the lungs, averaged over each cell, with mean 0 and deviation 1."""
    first, last = grid_positions(_CELLS)[[0, -1]]
    half_cell = (last - first) / (_CELLS - 1) / 2
    around = np.array([first - half_cell, first - half_cell, last + half_cell, last + half_cell])
    box = from_frame(chest, around) * len(image)
    cells = (
        Image.fromarray(image)
        .convert("F")
        .transform((4 * _CELLS, 4 * _CELLS), Image.Transform.EXTENT, tuple(box), Image.Resampling.BILINEAR)
    )
    means = np.asarray(cells).reshape(_CELLS, 4, _CELLS, 4).mean((1, 3))
    return (means - means.mean()) / means.std()


def placed(anatomy: Anatomy, relative: dict[str, NDArray]) -> Anatomy:
    """`anatomy` with all boxes but those of the lungs placed relative to its lungs, to three digits.

    The abdomen ends at the lower border of the image; no other edge lies on the border (see `data.images.atlas.fitted_boxes`).
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
    """Write both files anew."""
    parser = ArgumentParser(prog="python -m data.sources.phantom.atlas", description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=PATIENTS, help="phantoms to average")
    options = parser.parse_args(arguments)
    relative, brightness = average_chest(options.patients)
    anatomy = placed(Anatomy.load(), relative)
    regions = [
        f"  - {{name: {region.name}, side: {region.side or 'null'}, mirror: {region.mirror or 'null'}, "
        f"box: {list(region.box)}}}"
        for region in anatomy.regions
    ]
    _replace(ANATOMY_FILE, "regions", regions)
    _replace(TEMPLATE_FILE, "brightness", [f"  - {row}" for row in brightness.tolist()])
    return 0


def _replace(path: Path, key: str, lines: list[str]) -> None:
    """Write `lines` in place of those below the last key, `key`, of a YAML file; what stands above is kept."""
    above = path.read_text(encoding="utf-8").partition(f"{key}:\n")[0]
    text = above + f"{key}:\n" + "\n".join(lines) + "\n"
    yaml.safe_load(text)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    sys.exit(main())
