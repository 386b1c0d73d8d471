"""The names that a model and its data share: regions, attributes, observations and words.

Everything is addressed by name, offsets are derived, and a checkpoint carries the whole of it.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from data.ontology import Anatomy
from data.text.tokenizer import Tokenizer, fingerprint


def is_abnormal(attribute: str) -> bool:
    """Whether `attribute` (category|polarity|label) says that something is wrong: a finding, a disease, "abnormal"."""
    category, _, statement = attribute.partition("|")
    return statement.startswith("yes|") and (
        category in ("anatomicalfinding", "disease") or attribute == "nlp|yes|abnormal"
    )


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
