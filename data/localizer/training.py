"""Training of localizers with domain randomisation: on simulated chests alone, or with annotated images mixed in."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from data.images.domain_randomisation import randomise_domain
from data.images.transforms import clip_boxes
from data.localizer.films import draw_film
from data.localizer.network import SIDE, BoxNetwork
from data.ontology import Anatomy

# Side of simulated and annotated images, which are warped to that of the network.
FILM_SIDE = 160
# A region is not trained on if less than this share of its box is inside the image.
_MIN_SHARE = 0.25
_FILM_STREAM, _ORDER_STREAM = 1, 2
_WEIGHTS = {"left lung": 4.0, "right lung": 4.0, "cardiac silhouette": 3.0}
# Annotated images: their share of a batch, the share of them whose domain is randomised (they are real already), and
# how far they are warped, as a share of simulated ones. The box of a rotated lung or heart follows only roughly from
# its box before, so large rotations would teach boxes that are too wide.
ANNOTATED_PART, ANNOTATED_RANDOMISED, ANNOTATED_WARP = 0.75, 0.3, 0.35


@dataclass(frozen=True)
class LocalizerSettings:
    """Settings of a training; equal settings give the same weights on the same machine.

    films    number of simulated chests; each is warped and randomised afresh whenever it is used
    steps    optimiser steps, of `batch` images each
    rate     highest learning rate of the one-cycle schedule
    """

    films: int = 3000
    steps: int = 2500
    batch: int = 24
    rate: float = 3e-3
    seed: int = 0


@dataclass(frozen=True)
class Films:
    """Images with boxes: pixels [n, S, S] float16 in 0..1, boxes [n, R, 4] xyxy in 0..1, visible [n, R] bool."""

    pixels: NDArray
    boxes: NDArray
    visible: NDArray


def simulate_films(settings: LocalizerSettings, report: Callable[[int], None] = lambda done: None) -> Films:
    """Simulate the chests of a training; `report` is called with the number finished so far."""
    films = []
    for number in range(settings.films):
        films.append(draw_film(np.random.default_rng([_FILM_STREAM, settings.seed, number]), FILM_SIDE))
        report(number + 1)
    pixels, boxes, visible = (np.stack(part) for part in zip(*films, strict=True))
    return Films(pixels.astype(np.float16), boxes, visible)


def train(
    films: Films, settings: LocalizerSettings, report: Callable[[int, float], None] = lambda step, loss: None,
    annotated: Films | None = None, start: BoxNetwork | None = None,
) -> BoxNetwork:
    """Train a network and return the moving average of its weights.

    report     called with each step and its loss
    annotated  real images that fill most of every batch (`ANNOTATED_PART`)
    start      network whose weights are continued from; None for random ones
    """
    torch.manual_seed(settings.seed)
    network = BoxNetwork(len(Anatomy.load().regions)).train().to(memory_format=torch.channels_last)
    if start is not None:
        network.load_state_dict(start.state_dict())
    average, decay = deepcopy(network).eval(), 1 - 10 / max(settings.steps, 20)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, settings.steps, pct_start=0.1)
    generator = np.random.default_rng([_ORDER_STREAM, settings.seed])
    for step in range(settings.steps):
        real = 0 if annotated is None else int(settings.batch * ANNOTATED_PART)
        images, boxes, known = draw_batch(films, settings.batch - real, generator)
        if annotated is not None and real:
            others = draw_batch(annotated, real, generator, ANNOTATED_RANDOMISED, ANNOTATED_WARP)
            parts = zip((images, boxes, known), others, strict=True)
            images, boxes, known = (torch.cat(pair) for pair in parts)
        with torch.autocast("cpu", torch.bfloat16):  # twice as fast on CPUs that compute with it
            predicted = network(images)
        loss = box_loss(predicted, boxes, known)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        update_average(average, network, min(decay, (step + 1) / (step + 10)))
        report(step + 1, loss.item())
    return average


def update_average(average: BoxNetwork, network: BoxNetwork, decay: float) -> None:
    """Move the weights and statistics of `average` towards those of `network`, in place."""
    with torch.no_grad():
        for old, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if old.is_floating_point():
                old.lerp_(new, 1 - decay)
            else:
                old.copy_(new)


def box_loss(predicted: Tensor, boxes: Tensor, known: Tensor) -> Tensor:
    """Return the mean loss of boxes [B, R, 4] where `known` [B, R]: distance of edges, and 1 - IoU.

    Lungs and heart count more than the other regions, whose places follow from them.
    """
    names = Anatomy.load().names
    weights = torch.tensor([_WEIGHTS.get(name, 1.0) for name in names]).expand(known.shape)[known]
    weights = weights / weights.sum()
    predicted, boxes = predicted[known], boxes[known]
    low = torch.maximum(predicted[:, :2], boxes[:, :2])
    high = torch.minimum(predicted[:, 2:], boxes[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    areas = (predicted[:, 2:] - predicted[:, :2]).clamp(min=0).prod(1) + (boxes[:, 2:] - boxes[:, :2]).prod(1)
    iou = shared / (areas - shared).clamp(min=1e-4)
    distance = F.smooth_l1_loss(predicted, boxes, beta=0.02, reduction="none").mean(1)
    return (weights * (10 * distance + 0.5 * (1 - iou))).sum()


def draw_batch(
    films: Films, size: int, generator: np.random.Generator, randomised: float = 1.0, warped: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw `size` images, warped: [B, SIDE, SIDE], their boxes [B, R, 4] and which are known [B, R].

    randomised   the share of images whose domain is randomised
    warped       how far images are warped, see `Warp.draw`
    """
    chosen = generator.integers(len(films.pixels), size=size)
    warps = [Warp.draw(generator, warped) for _ in chosen]
    grids = torch.from_numpy(np.stack([warp.grid(SIDE) for warp in warps]))
    pixels = torch.from_numpy(films.pixels[chosen].astype(np.float32)).unsqueeze(1)
    warped = F.grid_sample(pixels, grids, padding_mode="border", align_corners=False)[:, 0].numpy()
    moved = [
        warp.move_boxes(films.boxes[film], films.visible[film]) for warp, film in zip(warps, chosen, strict=True)
    ]
    images = np.stack([
        randomise_domain(image, generator) if generator.random() < randomised else image for image in warped
    ])
    boxes, known = (torch.from_numpy(np.stack(part)) for part in zip(*moved, strict=True))
    return torch.from_numpy(images), boxes.float(), known


@dataclass(frozen=True)
class Warp:
    """A rotation, zoom, squashing and shift, after uneven stretching along x and along y.

    angle    in radians
    zoom     factors along x and y
    shift    along x and y, in -1..1 from the centre to the border
    stretch  [2, 2]: amplitudes of the two sine waves that bend x, and those that bend y
    """

    angle: float
    zoom: NDArray
    shift: NDArray
    stretch: NDArray

    @classmethod
    def draw(cls, generator: np.random.Generator, strength: float = 1.0) -> "Warp":
        """Draw a warp; at a strength of 1, the framing ranges from a whole trunk to lungs that touch the border."""
        zoom = math.exp(strength * generator.uniform(-0.18, 0.38))
        squash = math.exp(strength * generator.uniform(-0.16, 0.16))
        return cls(
            angle=math.radians(strength * generator.normal() * 4),
            zoom=np.array([zoom * squash, zoom / squash]),
            shift=strength * generator.normal(size=2) * 0.1,
            stretch=strength * generator.uniform(-1, 1, size=(2, 2)) * [0.08, 0.05],
        )

    def grid(self, side: int) -> NDArray:
        """Return the position in the film, in -1..1, of every pixel of the new image: [side, side, 2] float32."""
        line = (np.arange(side) + 0.5) / side * 2 - 1
        x, y = np.meshgrid(line - self.shift[0], line - self.shift[1])
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        x, y = (cosine * x + sine * y) / self.zoom[0], (cosine * y - sine * x) / self.zoom[1]
        return np.stack([_bend(x, self.stretch[0]), _bend(y, self.stretch[1])], -1).astype(np.float32)

    def move_boxes(self, boxes: NDArray, visible: NDArray) -> tuple[NDArray, NDArray]:
        """Return `boxes` [R, 4] and `visible` [R] of a film as they are in the new image."""
        fine = np.linspace(-1.6, 1.6, 641)
        edges = boxes * 2 - 1
        straight = np.stack(
            [np.interp(edges[:, k], _bend(fine, self.stretch[k % 2]), fine) * self.zoom[k % 2] for k in range(4)], 1
        )
        centre, half = (straight[:, 2:] + straight[:, :2]) / 2, (straight[:, 2:] - straight[:, :2]) / 2
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        turn = np.array([[cosine, -sine], [sine, cosine]])
        # The box around a rotated superellipse of exponent 5, see `Perturbation.apply_to_boxes`.
        half = ((np.abs(turn) * half[:, None]) ** 1.25).sum(2) ** 0.8
        centre = centre @ turn.T + self.shift
        moved = (np.concatenate([centre - half, centre + half], 1) + 1) / 2
        return clip_boxes(moved, visible, _MIN_SHARE)


def _bend(position: NDArray, amplitudes: NDArray) -> NDArray:
    """Return positions -1..1 moved by two sine waves that leave the borders and the order of positions unchanged."""
    phase = np.pi * (position + 1) / 2
    return position + amplitudes[0] * np.sin(phase) + amplitudes[1] * np.sin(2 * phase)
