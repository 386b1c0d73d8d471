"""What there is to name: regions, their attributes, observations and words.

Regions and observations come from `files/`; attributes, words and the atlas boxes from a training split. Everything is
addressed by name, offsets are derived, and a checkpoint carries the whole of it.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from data.errors import UserError
from data.records import MALFORMED_GRAPH, is_frontal, malformed_graph, read_records
from data.report_cleaning import clean
from data.tokenizer import Tokenizer, fingerprint

_FILES = Path(__file__).resolve().parent.parent / "files"


def _read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises UserError where it is missing or not YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML") from error


_OBSERVATION_FILE = _read_yaml(_FILES / "observations.yaml")
OBSERVATIONS: tuple[str, ...] = tuple(_OBSERVATION_FILE["observations"])
FIVE_OBSERVATIONS: tuple[str, ...] = tuple(_OBSERVATION_FILE["five"])


@dataclass(frozen=True)
class Region:
    """An anatomical region of the frontal image.

    name    Chest ImaGenome's name
    side    the patient's "left" or "right"; None in the middle
    mirror  name of the region on the other side; None where there is none
    box     atlas box: where the region usually lies, xyxy in 0..1 of the image
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
        """The anatomy of a YAML file; None: the shipped one.

        Raises UserError for a missing or malformed file, and for one with other regions than the shipped: weights and
        data sets index regions by position.
        """
        shipped = _shipped_anatomy()
        if path is None:
            return shipped
        try:
            anatomy = cls.from_list(_read_yaml(Path(path))["regions"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is no anatomy: copy files/anatomy.yaml and change its boxes") from error
        if anatomy.names != shipped.names:
            raise UserError(f"{path} has other regions, or another order, than files/anatomy.yaml: change boxes only")
        return anatomy

    @classmethod
    def from_list(cls, content: list[dict]) -> "Anatomy":
        """The anatomy of a list of {name, side, mirror, box}. Raises ValueError for a box that is no box."""
        regions = []
        for entry in content:
            x1, y1, x2, y2 = (float(value) for value in entry["box"])
            if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
                raise ValueError(f"atlas box of {entry['name']}: {entry['box']}")
            regions.append(Region(entry["name"], entry["side"], entry["mirror"], (x1, y1, x2, y2)))
        return cls(tuple(regions))

    def to_list(self) -> list[dict]:
        """Plain JSON that `from_list` reads."""
        return [asdict(region) | {"box": list(region.box)} for region in self.regions]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the regions."""
        return tuple(region.name for region in self.regions)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.names)}

    def index(self, name: str) -> int:
        """The position of the region `name`. Raises UserError where there is no such region."""
        if name not in self._positions:
            raise UserError(f"'{name}' is none of the {len(self.names)} regions of files/anatomy.yaml")
        return self._positions[name]

    @property
    def boxes(self) -> Tensor:
        """[R, 4] float: the atlas boxes, xyxy in 0..1."""
        return torch.tensor([region.box for region in self.regions])

    def with_boxes(self, boxes: dict[str, tuple[float, float, float, float]]) -> "Anatomy":
        """The same regions with other atlas boxes for those named in `boxes`."""
        return Anatomy(tuple(replace(region, box=boxes.get(region.name, region.box)) for region in self.regions))


def is_abnormal(attribute: str) -> bool:
    """Whether `attribute` (category|polarity|label) says that something is wrong: a finding, a disease, "abnormal"."""
    category, _, statement = attribute.partition("|")
    return statement.startswith("yes|") and (
        category in ("anatomicalfinding", "disease") or attribute == "nlp|yes|abnormal"
    )


@cache
def _shipped_anatomy() -> Anatomy:
    """Every graph of a report asks for it, and reading YAML takes longer than the graph."""
    return Anatomy.from_list(_read_yaml(_FILES / "anatomy.yaml")["regions"])


@dataclass(frozen=True)
class AttributeVocabulary:
    """The attributes that each region can have: `category|polarity|label`, alphabetical, or `region/number`.

    by_region  a tuple of attributes for every region; may be empty
    rule       name of the rule in `files/attributes.yaml` that chose the categories
    """

    by_region: tuple[tuple[str, ...], ...]
    rule: str

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of attributes of each region."""
        return tuple(len(attributes) for attributes in self.by_region)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where the attributes of each region start in the flat list of all."""
        return tuple(accumulate(self.sizes, initial=0))[:-1]

    @cached_property
    def largest(self) -> int:
        """A, the length of the attribute axis: the most attributes that a region has, but at least one slot."""
        return max(1, *self.sizes)

    @cached_property
    def _positions(self) -> tuple[dict[str, int], ...]:
        return tuple({name: position for position, name in enumerate(names)} for names in self.by_region)

    def index(self, region: int, attribute: str) -> int | None:
        """The slot of `attribute` in the list of the region at position `region`; None where it is not in it."""
        return self._positions[region].get(attribute)

    @cached_property
    def name_numbers(self) -> list[list[int]]:
        """The number of the name of each region's attributes: the same wherever the name is the same."""
        numbers: dict[str, int] = {}
        return [[numbers.setdefault(name, len(numbers)) for name in names] for names in self.by_region]

    def slots(self) -> Tensor:
        """[R, A] bool: the slots that stand for an attribute."""
        return torch.arange(self.largest) < torch.tensor(self.sizes)[:, None]


@dataclass(frozen=True)
class Vocabularies:
    """All names of a model and of its data."""

    anatomy: Anatomy
    attributes: AttributeVocabulary
    observations: tuple[str, ...]
    tokenizer: Tokenizer

    def to_dict(self) -> dict:
        """Plain JSON that `from_dict` reads."""
        return {
            "anatomy": self.anatomy.to_list(),
            "attributes": {
                "rule": self.attributes.rule,
                "by_region": {
                    name: list(attributes)
                    for name, attributes in zip(self.anatomy.names, self.attributes.by_region, strict=True)
                },
            },
            "observations": list(self.observations),
            "tokenizer": self.tokenizer.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: dict) -> "Vocabularies":
        """The vocabularies that `to_dict` described."""
        anatomy = Anatomy.from_list(content["anatomy"])
        by_region = content["attributes"]["by_region"]
        return cls(
            anatomy=anatomy,
            attributes=AttributeVocabulary(
                tuple(tuple(by_region[name]) for name in anatomy.names), content["attributes"]["rule"]
            ),
            observations=tuple(content["observations"]),
            tokenizer=Tokenizer.from_dict(content["tokenizer"]),
        )

    def fingerprints(self) -> dict[str, str]:
        """By part ("anatomy", "attributes", "observations", "tokenizer"): equal where the parts are equal."""
        return {part: fingerprint(content) for part, content in self.to_dict().items()}


def build_vocabularies(
    root: str | Path,
    cleaning: str,
    min_word_count: int,
    min_attribute_count: int,
    distinct_special_tokens: bool,
    atlas_file: str | Path | None = None,
) -> Vocabularies:
    """The vocabularies of the training split of the prepared data set in `root`.

    Words and, region by region, attributes enter with at least `min_word_count` and `min_attribute_count` occurrences.
    The atlas boxes are those of `atlas_file`; without one, the mean boxes of the training split, and for regions
    without any box there the shipped ones. Raises UserError as `read_records` and `Anatomy.load` do, and for a graph
    that is not of the schema's form.
    """
    anatomy = Anatomy.load(atlas_file)
    rule = "default"
    kept_categories = set(_read_yaml(_FILES / "attributes.yaml")["rules"][rule])
    reports = []
    counts = [Counter() for _ in anatomy.regions]
    boxes = [_MeanBox() for _ in anatomy.regions]
    for record in read_records(root, "train"):
        reports.append(clean(record["report"], cleaning))
        if record["graph"] is None or not is_frontal(record):
            continue
        try:
            for name, region in record["graph"]["regions"].items():
                position = anatomy.index(name)
                counts[position].update(region["attributes"])
                if region["box"] is not None:
                    boxes[position].add(region["box"])
        except MALFORMED_GRAPH as error:
            raise malformed_graph(record, error) from error
    if atlas_file is None:
        anatomy = anatomy.with_boxes(
            {name: box.mean for name, box in zip(anatomy.names, boxes, strict=True) if box.count > 0}
        )
    return Vocabularies(
        anatomy=anatomy,
        attributes=AttributeVocabulary(
            tuple(_frequent(count, min_attribute_count, kept_categories) for count in counts), rule
        ),
        observations=OBSERVATIONS,
        tokenizer=Tokenizer.from_reports(reports, min_word_count, distinct_special_tokens),
    )


class _MeanBox:
    """The mean of the boxes added, which are clipped to the image; those without an area do not count.

    Plain numbers: a training split has millions of boxes, for which small arrays are slow.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums = [0.0] * 4

    def add(self, box: list[float]) -> None:
        """Take in one box, xyxy."""
        x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in box)
        if x1 < x2 and y1 < y2:
            self.count += 1
            self._sums = [total + value for total, value in zip(self._sums, (x1, y1, x2, y2), strict=True)]

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean box. Its six decimals are enough for any image."""
        return tuple(round(total / self.count, 6) for total in self._sums)


def _frequent(counts: Counter, min_count: int, kept_categories: Iterable[str]) -> tuple[str, ...]:
    """The attributes of the kept categories with at least `min_count` occurrences, alphabetical.

    Those of the release's own files are called `region/number` and have no category: they are kept, by their numbers
    as in the release.
    """
    kept = [
        attribute
        for attribute, count in counts.items()
        if count >= min_count and ("|" not in attribute or attribute.split("|", 1)[0] in kept_categories)
    ]
    return tuple(sorted(kept, key=_by_number))


def _by_number(attribute: str) -> tuple[str, int]:
    """What sorts "lung/10" behind "lung/9", and names of any other form by their letters."""
    numbered = re.fullmatch(r"([^|]*/)([0-9]+)", attribute)
    return (numbered[1], int(numbered[2])) if numbered else (attribute, 0)
