"""Files of weights: wrapped, prefixed, of other implementations, and what is not loaded from them."""

import argparse
import zipfile
from collections import OrderedDict

import pytest
import torch
import torchvision.models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torchvision.models import SwinTransformer

from models.patch_encoder import PatchEncoder
from models.trunks import torch_archive
from models.trunks.build import build_patch_encoder
from models.trunks.small_resnet import small_resnet
from models.trunks.torchvision_trunk import extract_trunk
from models.trunks.weight_files import load_trunk_file, read_weights


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    torch.manual_seed(5)
    network = torchvision.models.resnet18(weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
            nn.init.uniform_(module.running_mean)
    return network.eval()


def assert_loaded(encoder: PatchEncoder, classifier: nn.Module) -> None:
    """The trunk of `encoder` computes the patches of `classifier`."""
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(classifier.fc(encoder.eval().trunk(images).mean((2, 3))), classifier(images))


@pytest.mark.parametrize("stride", [32, 16])
def test_weights_of_a_classifier_are_taken_by_name(classifier, tmp_path, stride):
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    encoder = build_patch_encoder("resnet18", stride, str(tmp_path / "resnet18.pth"))
    assert torch.equal(encoder.trunk.layer4.get_submodule("1").conv2.weight, classifier.layer4[1].conv2.weight)
    assert torch.equal(encoder.trunk.bn1.running_mean, classifier.bn1.running_mean)
    assert encoder.unused_weights == ("fc.bias", "fc.weight")
    if stride == 32:
        assert_loaded(encoder, classifier)


def test_order_and_counters_of_older_files_do_not_matter(classifier, tmp_path):
    """Older torchvision files store running means before weights and have no num_batches_tracked."""
    entries = sorted(classifier.state_dict().items())
    state = OrderedDict((name, value) for name, value in entries if not name.endswith("num_batches_tracked"))
    torch.save(state, tmp_path / "old.pth")
    assert_loaded(build_patch_encoder("resnet18", 32, str(tmp_path / "old.pth")), classifier)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone.", "model.encoder.trunk."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_wrapped_files_are_understood(classifier, tmp_path, wrapper, prefix):
    state = {prefix + name: value for name, value in classifier.state_dict().items()}
    state["projector.0.weight"] = torch.zeros(3)
    content = state if wrapper is None else {
        "epoch": 3, "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {}}, wrapper: state,
    }
    torch.save(content, tmp_path / "wrapped.pt")
    encoder = build_patch_encoder("resnet18", None, str(tmp_path / "wrapped.pt"))
    assert_loaded(encoder, classifier)
    assert encoder.unused_weights == ("fc.bias", "fc.weight", "projector.0.weight")


def test_safetensors_are_understood(classifier, tmp_path):
    save_file({f"module.{name}": value for name, value in classifier.state_dict().items()}, tmp_path / "w.safetensors")
    assert_loaded(build_patch_encoder("resnet18", None, str(tmp_path / "w.safetensors")), classifier)
    (tmp_path / "w.safetensors").write_bytes(b"not a header")
    with pytest.raises(ValueError, match="w.safetensors is not a file of weights"):
        build_patch_encoder("resnet18", None, str(tmp_path / "w.safetensors"))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.sampled_from(["module", "net", "0", "backbone", "weight", "visual_extractor"]), max_size=4))
def test_any_common_prefix_is_removed(tmp_path, parts):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1)))
    prefix = "".join(f"{part}." for part in parts)
    torch.save({prefix + name: value + 1 for name, value in network.state_dict().items()}, tmp_path / "w.pt")
    expected = {name: value + 1 for name, value in network.state_dict().items()}
    assert load_trunk_file(network, tmp_path / "w.pt") == []
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


def test_weights_of_a_trunk_of_earlier_versions_are_taken_by_number(classifier, tmp_path):
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    earlier = nn.Sequential(*(getattr(classifier, name) for name in names))
    torch.save(earlier.state_dict(), tmp_path / "trunk.pt")
    encoder = build_patch_encoder("resnet18", None, str(tmp_path / "trunk.pt"))
    assert_loaded(encoder, classifier)
    assert encoder.unused_weights == ()


def test_weights_of_the_small_trunk_are_taken_by_name(tmp_path):
    torch.manual_seed(5)
    own = small_resnet()
    torch.save(own.state_dict(), tmp_path / "trunk.pth")
    loaded = build_patch_encoder("small_resnet", 16, str(tmp_path / "trunk.pth")).trunk
    for name, value in own.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_older_names_of_dense_nets_are_understood(tmp_path, quick_initialisation):
    network = torchvision.models.densenet121(weights=None)
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.fill_(number)
    state = {name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value
             for name, value in network.state_dict().items()}
    torch.save(state, tmp_path / "dense.pth")
    trunk = build_patch_encoder("densenet121", 32, str(tmp_path / "dense.pth")).trunk
    first, second = network.features.denseblock4.denselayer16, trunk.features.denseblock4.denselayer16
    assert torch.equal(first.conv2.weight, second.conv2.weight)


def test_weights_of_another_network_are_refused_and_listed(tmp_path):
    torch.save(small_resnet(width=16).state_dict(), tmp_path / "narrow.pth")
    with pytest.raises(ValueError, match=r"narrow.pth does not fit the trunk: \d+ mismatches \(0.weight \(16, 3"):
        build_patch_encoder("small_resnet", 32, str(tmp_path / "narrow.pth"))
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match="mismatches .*bn1.weight missing for"):
        build_patch_encoder("resnet18", 32, str(tmp_path / "part.pth"))


# Swin

TINY_SWIN = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4]}


@pytest.fixture
def tiny_swin(monkeypatch):
    """Make swin_b a tiny Swin with random weights; return those of another one under torchvision's names."""
    def build(name, weights=None):
        return SwinTransformer([4, 4], window_size=[7, 7], stochastic_depth_prob=0.5, **TINY_SWIN)

    monkeypatch.setattr(torchvision.models, "get_model", build)
    torch.manual_seed(6)
    trunk = extract_trunk(build("swin_b"), "permute")
    return {name: torch.randn_like(value) for name, value in trunk.named_parameters()}


def write_microsoft_swin(path, weights: dict[str, torch.Tensor]) -> None:
    """Write a file in the layout of Microsoft's Swin, with the entries that only it has."""
    renamed = {
        "features.0.0.": "patch_embed.proj.", "features.0.2.": "patch_embed.norm.", "features.1.": "layers.0.blocks.",
        "features.2.": "layers.0.downsample.", "features.3.": "layers.1.blocks.", "mlp.0.": "mlp.fc1.",
        "mlp.3.": "mlp.fc2.",
    }
    state = {}
    for name, value in weights.items():
        for ours, theirs in renamed.items():
            name = name.replace(ours, theirs)
        state[name] = value
    for stage in (0, 1):
        state[f"layers.{stage}.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    state |= {"head.weight": torch.zeros(21841, 16), "head.bias": torch.zeros(21841)}
    torch.save({"model": state}, path)


def test_files_of_microsofts_swin_are_understood(tiny_swin, tmp_path):
    write_microsoft_swin(tmp_path / "swin.pth", tiny_swin)
    encoder = build_patch_encoder("swin_b", None, str(tmp_path / "swin.pth"))
    trunk = encoder.trunk
    assert dict(trunk.named_parameters()).keys() == tiny_swin.keys()
    for name, parameter in trunk.named_parameters():
        assert torch.equal(parameter, tiny_swin[name]), name
    # The index of relative positions stays torchvision's.
    index = trunk.features.get_submodule("1.0").attn.relative_position_index
    assert index.shape == (49 * 49,) and index.max() > 0
    assert encoder.unused_weights == ("head.bias", "head.weight", "layers.0.blocks.1.attn_mask")


def test_microsofts_swin_of_another_size_is_refused(tiny_swin, tmp_path):
    tiny_swin["features.1.0.attn.relative_position_bias_table"] = torch.zeros(23 * 23, 2)
    write_microsoft_swin(tmp_path / "swin.pth", tiny_swin)
    with pytest.raises(ValueError, match=r"swin.pth does not fit the trunk: 1 mismatches .*bias_table \(529, 2\) for"):
        build_patch_encoder("swin_b", None, str(tmp_path / "swin.pth"))
    with pytest.raises(ValueError, match="swin.pth does not fit the trunk: .* missing for"):
        build_patch_encoder("small_resnet", 32, str(tmp_path / "swin.pth"))


def test_missing_file_of_the_release_says_where_to_download_it(tiny_swin, tmp_path):
    path = tmp_path / "swin_base_patch4_window7_224_22k.pth"
    with pytest.raises(FileNotFoundError) as error:
        build_patch_encoder("swin_b", None, str(path))
    message = str(error.value)
    assert str(path) in message and "download https://github.com/SwinTransformer/" in message and "\n" not in message


# Files without weights


class Trap:
    """Raises when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise AssertionError('pickled code was executed')",)


def test_pickled_code_is_not_executed(tmp_path):
    for content in (Trap(), {"model": small_resnet().state_dict(), "hooks": Trap()}):
        torch.save(content, tmp_path / "trap.pt")
        with pytest.raises(ValueError, match=r"trap.pt is not a file of weights \(it holds exec, which is not loaded"):
            read_weights(tmp_path / "trap.pt")


def test_files_without_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="No weights at .*nowhere.pth: set model.patch_encoder.weights to"):
        build_patch_encoder("small_resnet", 32, str(tmp_path / "nowhere.pth"))
    (tmp_path / "page.pth").write_text("<html>not found</html>", encoding="utf-8")
    (tmp_path / "empty.pth").touch()
    for name in ("page.pth", "empty.pth"):
        with pytest.raises(ValueError, match=f"{name} is not a file of weights"):
            build_patch_encoder("small_resnet", 32, str(tmp_path / name))
    for content in ({"epoch": 3}, [torch.zeros(1)], {"model": {}}):
        torch.save(content, tmp_path / "nothing.pth")
        with pytest.raises(ValueError, match="nothing.pth contains no weights: give a state dict, alone or under"):
            build_patch_encoder("small_resnet", 32, str(tmp_path / "nothing.pth"))


def test_a_file_that_takes_more_memory_than_its_size_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "w.pt"
    torch.save({"a": torch.zeros(1 << 18)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "compressed.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"compressed.pt is not a file of weights \(.* is compressed\)"):
        read_weights(tmp_path / "compressed.pt")
    monkeypatch.setattr(torch_archive, "LARGEST_PICKLE", 5000)
    assert read_weights(path)["a"].shape == (1 << 18,)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "history": [{} for _ in range(9000)]}, path)
    with pytest.raises(ValueError, match=r"w.pt is not a file of weights \(.*data.pkl has"):
        read_weights(path)
