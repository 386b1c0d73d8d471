"""Boxes of the 29 regions for X-rays without annotated boxes, by the shipped localizer.

`find_boxes` is what the preparation of data sets uses. Boxes of the lungs and of regions inside them are the mean of
two independent estimates, the localizer's and those of the atlas fitted to the lungs (`data/images/atlas.py`), because
the mean is better than either; the others are the localizer's. docs/real_images.md has the scores on real X-rays.

The weights, `files/localizer.safetensors`, are trained on simulated chests alone, by `python -m data.localizer`: no
patient's data is in them.
"""

from functools import cache
from multiprocessing import parent_process
from pathlib import Path

import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from data.errors import damaged
from data.images.atlas import fit_boxes
from data.images.lungs import find_lungs
from data.images.network_input import to_unit_range
from data.images.transforms import squash
from data.localizer.network import SIDE, BoxNetwork
from data.ontology import FILES, Anatomy
from data.sources.fingerprints import path_fingerprint
from data.storage.atomic_files import atomic_file

LOCALIZER_FILE = FILES / "localizer.safetensors"
# The least width and height of a box, as a share of the image's side.
_LEAST_SIZE = 0.01


def localize(pixels: NDArray, path: Path = LOCALIZER_FILE) -> dict[str, list[float]]:
    """Return the boxes of all 29 regions by name, for a frontal image, [height, width] uint8.

    Boxes are xyxy in 0..1 of the image; every box is inside the image and has an area. The patient's left is on the
    right. Raises UserError if the weights in `path` are missing or damaged.
    """
    image = squash(Image.fromarray(pixels), SIDE)
    with torch.inference_mode():
        boxes = load_network(path)(to_unit_range(image[None]))[0]
    low = boxes[:, :2].clamp(0, 1 - _LEAST_SIZE)
    high = torch.maximum(boxes[:, 2:].clamp(0, 1), low + _LEAST_SIZE)
    corners = torch.cat([low, high], 1).double().round(decimals=5).tolist()
    return dict(zip(Anatomy.load().names, corners, strict=True))


def find_boxes(pixels: NDArray, path: Path = LOCALIZER_FILE) -> dict[str, list[float]]:
    """Return the best boxes of all 29 regions, as `localize` does, by the localizer and the fitted atlas together."""
    boxes = localize(pixels, path)
    lungs = find_lungs(pixels)
    if lungs is not None:
        anatomy = Anatomy.load()
        fitted = fit_boxes(anatomy, lungs)
        for region in anatomy.regions:
            if region.side is not None:
                pairs = zip(boxes[region.name], fitted[region.name], strict=True)
                boxes[region.name] = [round((one + other) / 2, 5) for one, other in pairs]
    return boxes


def describe_localizer() -> str:
    """Return a short text that identifies the shipped weights."""
    return f"{LOCALIZER_FILE.name} {path_fingerprint(LOCALIZER_FILE)}"


def save_network(network: BoxNetwork, path: Path) -> None:
    """Write the weights of a network to `path`, with half precision. Raises OSError if that fails."""
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
    with atomic_file(path) as file:
        file.write(save(weights))


@cache
def load_network(path: Path = LOCALIZER_FILE) -> BoxNetwork:
    """Return the network of `path`, ready for inference. Raises UserError if the file is missing or damaged."""
    if parent_process() is not None:  # a data set is prepared by one worker process for each core
        torch.set_num_threads(1)
    network = BoxNetwork(len(Anatomy.load().regions))
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise damaged(str(path), first, "restore it, or make it again with python -m data.localizer") from error
    return network.eval()
