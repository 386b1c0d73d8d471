"""What the rows of a weight stand for, so that a checkpoint can be loaded where words, attributes or regions differ.

A module that owns such a weight declares it in its class attribute `rows`, next to the code that creates the weight:

    class ObservationHead(nn.Module):
        rows = {"head.weight": Rows.OBSERVATIONS, "head.bias": Rows.OBSERVATIONS}

The elements of a weight are distributed evenly over its rows, in order: a weight [R, A, C] with `ATTRIBUTE_SLOTS` has
R * A rows of C elements.
"""

from enum import StrEnum
from operator import attrgetter

from torch import nn


class Rows(StrEnum):
    """The meanings of rows."""

    WORDS = "words"                      # the ids of the tokenizer, special tokens included
    REGIONS = "regions"
    NODE_TYPES = "node types"            # the regions, then "attribute"
    ATTRIBUTES = "attributes"            # the attributes of all regions, region by region
    ATTRIBUTE_SLOTS = "attribute slots"  # R x A, padding included
    ATTRIBUTE_NAMES = "attribute names"  # the names of attributes, which regions share
    OBSERVATIONS = "observations"


def row_meanings(model: nn.Module) -> dict[str, Rows]:
    """The weights of `model` whose rows have a meaning: name in the state dict -> meaning.

    A weight that this model does not have (its attribute is None) is left out. Raises AttributeError if a module
    declares a weight under a name that does not exist.
    """
    meanings = {}
    for prefix, module in model.named_modules():
        for name, rows in getattr(module, "rows", {}).items():
            if getattr(module, name.split(".")[0]) is None:
                continue
            attrgetter(name)(module)
            meanings[f"{prefix}.{name}" if prefix else name] = rows
    return meanings
