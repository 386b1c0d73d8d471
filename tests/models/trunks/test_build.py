"""Trunks by name: exact names of weights, and names that do not exist."""

import pytest
import torch
from torch import nn

from models.patch_encoder import PatchEncoder
from models.trunks.build import build_patch_encoder, exact_trunk, is_convolutional
from models.trunks.small_resnet import small_resnet


@pytest.mark.parametrize(
    ("backbone", "weights", "exact"),
    [
        ("resnet101", "imagenet", "imagenet_v2"), ("resnet101", "imagenet_v1", "imagenet_v1"),
        ("resnet101", "pretrained", "imagenet_v2"), ("densenet121", "imagenet", "imagenet_v1"),
        ("swin_b", "pretrained", "imagenet_v1"), ("resnet101", "none", "none"),
        ("small_resnet", "folder/imagenet.pt", "folder/imagenet.pt"), ("timm:resnet18", "none", "none"),
        ("xrv:densenet121-res224-all", "pretrained", "pretrained"),
    ],
)
def test_weights_have_an_exact_name(backbone, weights, exact):
    assert exact_trunk(backbone, weights) == (backbone, exact, None)


def test_weights_of_timm_are_named_by_their_tag():
    assert exact_trunk("timm:resnet18", "pretrained") == ("timm:resnet18.a1_in1k", "pretrained", None)
    assert exact_trunk("timm:resnet18.tv_in1k", "imagenet") == ("timm:resnet18.tv_in1k", "pretrained", None)
    with pytest.raises(ValueError, match="timm:resnet14t_nothing|timm has no model"):
        exact_trunk("timm:resnet14t_nothing", "pretrained")


@pytest.mark.parametrize(
    ("backbone", "weights", "message"),
    [
        ("swin_b", "imagenet_v2", "swin_b has no weights imagenet_v2: set model.patch_encoder.weights=imagenet_v1"),
        ("small_resnet", "imagenet_v1", "small_resnet has no ImageNet weights: set model.patch_encoder.weights=none"),
        ("small_resnet", "pretrained", "small_resnet has no ImageNet weights"),
        ("resnet7", "imagenet", "No backbone 'resnet7'"),
        ("timm:resnet18", "imagenet_v1", "timm:resnet18 has no weights imagenet_v1: set .*weights=pretrained"),
        ("xrv:densenet121-res224-all", "imagenet", "has no weights imagenet: set .*weights=pretrained"),
        ("keras:resnet50", "none", "No library 'keras' of trunks"),
    ],
)
def test_weights_and_libraries_that_do_not_exist_are_refused(backbone, weights, message):
    with pytest.raises(ValueError, match=message):
        exact_trunk(backbone, weights)


def test_cnns_are_told_from_transformers():
    transformer = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Linear(4, 4))
    assert is_convolutional(small_resnet()) and not is_convolutional(transformer)
    assert is_convolutional(PatchEncoder(small_resnet(), 256))


@pytest.mark.parametrize("stride", [32, 16])
def test_small_resnet_keeps_the_size_of_its_last_stage_at_stride_16(stride):
    trunk = build_patch_encoder("small_resnet", stride).trunk.eval()
    with torch.no_grad():
        assert trunk(torch.zeros(1, 3, 96, 96)).shape == (1, 256, 96 // stride, 96 // stride)
    torch.manual_seed(0)
    first = small_resnet(stride=16).state_dict()
    torch.manual_seed(0)
    second = small_resnet(stride=32).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
