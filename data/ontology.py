"""The 29 regions and the 14 observations, as defined in `files/`.

The files are read on first use and cached; nothing is read at import.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from data.errors import UserError, cannot_read, unknown_name, wrong_format

if TYPE_CHECKING:
    from torch import Tensor

FILES = Path(__file__).resolve().parent.parent / "files"

# How a region differs from an earlier study, in the order of the change axis. Chest ImaGenome has only the three in the
# middle: there, what is new has worsened.
NEW, WORSENED, IMPROVED, UNCHANGED, RESOLVED = CHANGES = ("new", "worsened", "improved", "no change", "resolved")


def combine_changes(changes: Iterable[str]) -> str | None:
    """Return the only change among several statements about a region; None if they differ, or if there are none."""
    distinct = set(changes)
    return distinct.pop() if len(distinct) == 1 else None


def read_yaml(path: Path) -> Any:
    """Read a YAML file. Raises UserError if it is missing or not YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise cannot_read(path, error) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise wrong_format(path, "YAML", "fix it, or restore it") from error


@cache
def observation_names() -> tuple[str, ...]:
    """Return the 14 CheXpert observations in the order of the observation axis."""
    return tuple(read_yaml(FILES / "observations.yaml")["observations"])


@cache
def five_observation_names() -> tuple[str, ...]:
    """Return the five observations of CheXpert's competition tasks."""
    return tuple(read_yaml(FILES / "observations.yaml")["five"])


@dataclass(frozen=True)
class Region:
    """An anatomical region of the frontal image.

    name    Chest ImaGenome's name
    side    the patient's "left" or "right"; None for regions in the middle
    mirror  name of the region on the other side; None for regions in the middle
    box     atlas box: the usual position of the region, xyxy in 0..1 of the image
    """

    name: str
    side: str | None
    mirror: str | None
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Anatomy:
    """The 29 regions, in the order of the region axis."""

    regions: tuple[Region, ...]

    @classmethod
    def load(cls, path: str | Path | None = None) -> "Anatomy":
        """Read the anatomy from a YAML file, by default the shipped one.

        Raises UserError if the file is missing or malformed, or if its regions or their order differ from the shipped
        ones: weights and data sets index regions by position.
        """
        shipped = _shipped_anatomy()
        if path is None:
            return shipped
        try:
            anatomy = cls.from_list(read_yaml(Path(path))["regions"])
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_format(path, "an anatomy", "copy files/anatomy.yaml and change its boxes") from error
        if anatomy.names != shipped.names:
            raise UserError(f"{path} has other regions, or another order, than files/anatomy.yaml: change only boxes")
        return anatomy

    @classmethod
    def from_list(cls, content: list[dict]) -> "Anatomy":
        """Create the anatomy from a list of {name, side, mirror, box}. Raises ValueError if a box is invalid."""
        regions = []
        for entry in content:
            x1, y1, x2, y2 = (float(value) for value in entry["box"])
            if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
                raise ValueError(f"atlas box of {entry['name']}: {entry['box']}")
            regions.append(Region(entry["name"], entry["side"], entry["mirror"], (x1, y1, x2, y2)))
        return cls(tuple(regions))

    def to_list(self) -> list[dict]:
        """Return plain JSON for `from_list`."""
        return [asdict(region) | {"box": list(region.box)} for region in self.regions]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the regions."""
        return tuple(region.name for region in self.regions)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.names)}

    def index(self, name: str) -> int:
        """Return the position of the region `name`. Raises UserError if the name is unknown."""
        if name not in self._positions:
            raise unknown_name("region", name, self.names)
        return self._positions[name]

    @property
    def boxes(self) -> "Tensor":
        """[R, 4] float: the atlas boxes, xyxy in 0..1."""
        import torch  # takes longer to import than a thousand reports to read, which needs no tensor

        return torch.tensor([region.box for region in self.regions])

    def with_boxes(self, boxes: dict[str, tuple[float, float, float, float]]) -> "Anatomy":
        """Return a copy with new atlas boxes for the regions named in `boxes`."""
        return Anatomy(tuple(replace(region, box=boxes.get(region.name, region.box)) for region in self.regions))


@cache
def _shipped_anatomy() -> Anatomy:
    """Return the anatomy of `files/anatomy.yaml`, cached: reading it takes longer than building a graph."""
    return Anatomy.from_list(read_yaml(FILES / "anatomy.yaml")["regions"])
