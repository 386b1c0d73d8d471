"""The names that a model and its data share: regions, attributes, observations and words.

A checkpoint contains all of them. Files refer to names; positions and offsets are derived.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from data.ontology import Anatomy
from data.text.tokenizer import Tokenizer, fingerprint


def is_abnormal(attribute: str) -> bool:
    """Whether `attribute` (category|polarity|label) affirms a finding or a disease, or is "abnormal"."""
    category, _, statement = attribute.partition("|")
    return statement.startswith("yes|") and (
        category in ("anatomicalfinding", "disease") or attribute == "nlp|yes|abnormal"
    )


@dataclass(frozen=True)
class AttributeVocabulary:
    """The attributes that each region can have: `category|polarity|label`, alphabetical, or `region/number`.

    by_region  one tuple of attributes per region, possibly empty
    rule       name of the rule in `files/attributes.yaml` that selected the categories
    """

    by_region: tuple[tuple[str, ...], ...]
    rule: str

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of attributes of each region."""
        return tuple(len(attributes) for attributes in self.by_region)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Start of each region's attributes in the concatenated list."""
        return tuple(accumulate(self.sizes, initial=0))[:-1]

    @cached_property
    def largest(self) -> int:
        """A, the length of the attribute axis: the largest number of attributes of a region, but at least 1."""
        return max(1, *self.sizes)

    @cached_property
    def _positions(self) -> tuple[dict[str, int], ...]:
        return tuple({name: position for position, name in enumerate(names)} for names in self.by_region)

    def index(self, region: int, attribute: str) -> int | None:
        """Return the slot of `attribute` in the region at position `region`; None if the region does not have it."""
        return self._positions[region].get(attribute)

    @cached_property
    def name_ids(self) -> list[list[int]]:
        """The id of each attribute's name, by region: regions that have the same attribute share its id."""
        ids: dict[str, int] = {}
        return [[ids.setdefault(name, len(ids)) for name in names] for names in self.by_region]

    def slots(self) -> Tensor:
        """Return which slots are in use, [R, A] bool; the others are padding."""
        return torch.arange(self.largest) < torch.tensor(self.sizes)[:, None]

    def abnormal_slots(self) -> Tensor:
        """Return which slots hold an attribute that `is_abnormal`, [R, A] bool."""
        abnormal = torch.zeros(len(self.by_region), self.largest, dtype=torch.bool)
        for region, names in enumerate(self.by_region):
            abnormal[region, : len(names)] = torch.tensor([is_abnormal(name) for name in names], dtype=torch.bool)
        return abnormal


@dataclass(frozen=True)
class Vocabularies:
    """All names of a model and its data."""

    anatomy: Anatomy
    attributes: AttributeVocabulary
    observations: tuple[str, ...]
    tokenizer: Tokenizer

    def to_dict(self) -> dict:
        """Return plain JSON for `from_dict`."""
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
        """Create the vocabularies from the content of `to_dict`."""
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
        """Return one fingerprint per part ("anatomy", "attributes", "observations", "tokenizer")."""
        return {part: fingerprint(content) for part, content in self.to_dict().items()}
