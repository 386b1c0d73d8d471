"""How the programs of an export are compared with the model."""

import torch

from modules.inference.exported_programs import _max_difference


def test_difference_is_the_largest_of_all_and_infinite_for_other_shapes():
    one = {"a": torch.zeros(2), "b": [torch.tensor([True, False])]}
    other = {"a": torch.tensor([0.0, -0.25]), "b": [torch.tensor([True, False])]}
    assert _max_difference(one, other) == 0.25
    assert _max_difference(one, other | {"b": [torch.tensor([False, False])]}) == 1
    assert _max_difference(one, other | {"a": torch.zeros(3)}) == float("inf")
