"""One linear head per region, in one padded tensor."""

import torch
import torch.nn.functional as F

from models.attribute_predictor import AttributePredictor

SIZES = [3, 0, 1, 4]


def predictor() -> AttributePredictor:
    torch.manual_seed(0)
    heads = AttributePredictor(6, SIZES)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter)
    return heads


def test_every_region_has_a_head_of_its_own():
    heads, features = predictor(), torch.randn(2, 4, 6)
    logits = heads(features)
    assert logits.shape == (2, 4, 4)
    for region, size in enumerate(SIZES):
        expected = F.linear(features[:, region], heads.weight[region, :size], heads.bias[region, :size])
        torch.testing.assert_close(logits[:, region, :size], expected)
        assert (logits[:, region, size:] == 0).all()


def test_padding_slots_learn_nothing():
    heads = predictor()
    heads(torch.randn(2, 4, 6)).square().sum().backward()
    assert (heads.weight.grad[~heads.slots] == 0).all() and (heads.bias.grad[~heads.slots] == 0).all()
    assert (heads.weight.grad[heads.slots] != 0).all()


def test_data_without_any_attribute_leave_one_padding_slot():
    heads = AttributePredictor(6, [0, 0, 0])
    torch.nn.init.normal_(heads.weight)
    assert torch.equal(heads(torch.randn(2, 3, 6)), torch.zeros(2, 3, 1))
    assert not heads.slots.any()


def test_regions_share_the_weights_of_a_name():
    """Regions 0 and 3 share the attribute name 1, whose weights are added to those of each slot."""
    torch.manual_seed(0)
    heads = AttributePredictor(6, SIZES, [[0, 1, 2], [], [3], [1, 4, 5, 6]])
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter)
    assert heads.name_weight.shape == (7, 6)
    features = torch.randn(2, 4, 6)
    before = heads(features)
    for region, slot, name in ((0, 1, 1), (3, 0, 1), (3, 3, 6)):
        expected = F.linear(features[:, region], heads.weight[region, slot] + heads.name_weight[name])
        torch.testing.assert_close(before[:, region, slot], expected + heads.bias[region, slot])
    with torch.no_grad():
        heads.name_weight[1] += 1
    changed = (heads(features) != before).any(0)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[0, 1] = expected[3, 0] = True
    assert torch.equal(changed, expected)


def test_names_without_any_attribute():
    heads = AttributePredictor(6, [0, 0, 0], [[], [], []])
    torch.nn.init.normal_(heads.weight)
    torch.nn.init.normal_(heads.name_weight)
    assert torch.equal(heads(torch.randn(2, 3, 6)), torch.zeros(2, 3, 1))
