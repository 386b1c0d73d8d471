"""Studies that are not in a data set, read as the network sees them.

An image goes through the same preparation as those of a prepared data set (`data/images/network_image.py`), so its
report is the one that main_test.py would generate.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.context.fields import StudyContext
from data.errors import UserError, readable
from data.images.network_image import ImageLike, NetworkImage, read_network_image
from data.records import is_frontal_view
from modules.config import DataConfig
from modules.inference.given_context import GivenContext
from modules.inference.image_doubts import MIN_CHEST_AGREEMENT, file_doubts, frontal_doubts


@dataclass(frozen=True)
class Study:
    """The images of one examination, the frontal one first if that is known.

    context   indication and previous study, for a model that reads them
    """

    name: str
    images: tuple[ImageLike, ...]
    context: GivenContext | None = None


# A single image, a frontal and a lateral one, or a named study.
StudyLike = ImageLike | tuple[ImageLike, ImageLike] | Study


@dataclass(frozen=True)
class ReadStudy:
    """A study whose images were read; it can be predicted several times.

    pixels      [V, H, H] uint8 as the network sees them, the frontal view first
    frontal     whether the first one is a frontal view, as far as its file says
    image_size  (width, height) of the original of the first one
    source      the image that the first one was read from
    context     as the network takes it; None for a model that reads none
    prior_warnings   of the previous image
    """

    name: str
    pixels: Tensor
    frontal: bool
    image_size: tuple[int, int]
    source: ImageLike
    warnings: tuple[str, ...]
    context: StudyContext | None = None
    prior_warnings: tuple[str, ...] = ()


def read_study(image: StudyLike, name: str, data: DataConfig, window: bool) -> ReadStudy:
    """Read the images of a study and put a frontal one first.

    name    of a study whose image has neither a name nor a path
    window  apply the window of a DICOM file instead of the preparation of data sets

    Raises UserError naming the image that cannot be read.
    """
    study = _as_study(image, name)
    if not study.images:
        raise UserError(f"{study.name} has no image: give at least one")
    read = []
    for position, source in enumerate(study.images):
        title = study.name if len(study.images) == 1 else f"{study.name}, image {position + 1}"
        if isinstance(source, (str, Path)):
            title = readable(str(source))
        read.append((read_network_image(source, title, data.image_size, window), source))
    ordered = _frontal_first(read)
    used = ordered[: data.views]
    first, source = used[0]
    warnings = []
    if first is not read[0][0]:
        warnings.append("the first image is not a frontal view: another image of the study was used in its place")
    if len(used) < len(ordered):
        images = "1 image" if len(used) == 1 else f"{len(used)} images"
        warnings.append(f"this model uses {images} per study: {len(ordered) - len(used)} left out")
    warnings += frontal_doubts(first)
    warnings += [doubt for image, _ in used for doubt in file_doubts(image)]
    pixels = torch.stack([image.pixels for image, _ in used])
    frontal = is_frontal_view(first.view)
    return ReadStudy(study.name, pixels, frontal, first.size, source, tuple(dict.fromkeys(warnings)))


def _as_study(image: StudyLike, name: str) -> Study:
    """Convert to a study; a single file gives the study its name."""
    if isinstance(image, Study):
        return image
    images = image if isinstance(image, tuple) else (image,)
    first = images[0]
    return Study(readable(Path(first).name) if isinstance(first, (str, Path)) else name, images)


def _frontal_first(read: list[tuple[NetworkImage, ImageLike]]) -> list[tuple[NetworkImage, ImageLike]]:
    """Move the best frontal image to the front: not a lateral view by its file, and similar to a chest.

    The order is unchanged if the first image is as good as any other.
    """

    def doubt(image: NetworkImage) -> int:
        if not is_frontal_view(image.view):
            return 2
        return 0 if image.view or image.agreement >= MIN_CHEST_AGREEMENT else 1

    best = min(read, key=lambda item: doubt(item[0]))  # the first of equals
    return [best, *(item for item in read if item is not best)]
