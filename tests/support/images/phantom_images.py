"""Phantom images with known boxes, and comparisons of boxes."""

from functools import cache

import numpy as np
import torch
from torchvision.ops import box_iou

from data.ontology import Anatomy
from data.sources.phantom.patient import draw_patient
from data.sources.phantom.physics import simulate

SIZE = 128


@cache
def phantom(number: int):
    """The image and the boxes of a healthy phantom."""
    return simulate(draw_patient(np.random.default_rng([4, number])), (), SIZE, noise_seed=number)


def iou(first, second) -> float:
    """The intersection over union of two boxes."""
    return float(box_iou(torch.tensor([list(first)]), torch.tensor([list(second)])))


def shipped_boxes() -> dict[str, list[float]]:
    """The boxes of the shipped atlas by region."""
    return {region.name: list(region.box) for region in Anatomy.load().regions}
