"""torchxrayvision's DenseNets: a tiny one of the real class, saved as the library saves its own."""

import pytest
import torch

from models.trunks.build import build_patch_encoder

NAME = "densenet121-res224-nih"
TINY = {"growth_rate": 4, "block_config": (1, 1, 1, 1), "num_init_features": 8}


def test_missing_package_names_the_requirements(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"xrv:{NAME} needs torchxrayvision: pip install -r requirements-trunks.txt"):
        build_patch_encoder(f"xrv:{NAME}")


@pytest.fixture
def library(monkeypatch):
    """The models of torchxrayvision, with tiny DenseNets."""
    xrv = pytest.importorskip(
        "torchxrayvision", reason="torchxrayvision is not installed (requirements-trunks.txt)"
    )
    monkeypatch.setattr(xrv.models, "get_densenet_params", lambda arch: TINY)
    return xrv.models


def test_features_are_those_of_the_library_and_no_pickled_code_runs(library, monkeypatch, tmp_path):
    torch.manual_seed(1)
    densenet = library.DenseNet(**TINY).eval()
    torch.save(densenet, tmp_path / "nih.pt")
    monkeypatch.setattr(library, "get_weights", lambda name, cache_dir=None: str(tmp_path / "nih.pt"))
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: load(*args, **(options | {"weights_only": True})))
    encoder = build_patch_encoder(f"xrv:{NAME}", weights="pretrained").eval()
    pixels = torch.rand(2, 1, 64, 64)
    images = (pixels - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        grid = encoder.trunk(images)
        expected = densenet.features2((2 * pixels - 1) * 1024)  # the mean over the grid
    assert grid.shape[2:] == (2, 2) and encoder.channels == grid.shape[1]
    torch.testing.assert_close(grid.mean((2, 3)), expected, atol=1e-2, rtol=1e-4)
    assert encoder.unused_weights == ("classifier.bias", "classifier.weight")
    # The same from a state dict.
    torch.save(densenet.state_dict(), tmp_path / "state.pt")
    other = build_patch_encoder(f"xrv:{NAME}", weights=str(tmp_path / "state.pt")).eval()
    with torch.no_grad():
        assert torch.equal(other.trunk(images), grid)


def test_file_out_of_reach_is_one_clear_error(library, monkeypatch):
    def unreachable(name, cache_dir=None):
        raise OSError("no route to host")

    monkeypatch.setattr(library, "get_weights", unreachable)
    with pytest.raises(ConnectionError, match=f"Cannot fetch the weights of xrv:{NAME} from https://github.com/mlmed"):
        build_patch_encoder(f"xrv:{NAME}", weights="pretrained")


@pytest.mark.parametrize(
    ("backbone", "settings", "message"),
    [
        ("xrv:resnet50-res512-all", {}, "torchxrayvision has no DenseNet 'resnet50-res512-all': choose one of dense"),
        (f"xrv:{NAME}", {"stride": 16}, "does not support a stride of 16, its own is 32"),
        (f"xrv:{NAME}", {"stochastic_depth": 0.1}, "has no stochastic depth"),
    ],
)
def test_what_the_library_lacks_is_one_clear_error(library, backbone, settings, message):
    with pytest.raises(ValueError, match=message):
        build_patch_encoder(backbone, **settings)
