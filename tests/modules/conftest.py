"""Fixtures shared by the tests of modules: release checkpoints, and what a checkpoint is made of."""

import json
from pathlib import Path

import pytest

from models.patch_encoder import PatchEncoder
from models.trunks.torchvision_trunk import extract_trunk
from modules import builders
from modules.builders import build_vocabularies
from modules.config import load_config
from tests.support.release_files import SMALL_SWIN, WORDS, release_state, small_swin, write_release
from tests.support.tiny_training import tiny_settings


@pytest.fixture
def small_trunk(monkeypatch):
    """Build a small Swin in place of `swin_b`."""
    def build(backbone: str, stride: int | None, weights: str, stochastic_depth: float, *_: object) -> PatchEncoder:
        assert (backbone, stride, weights, stochastic_depth) == ("swin_b", None, "none", 0.1)
        return PatchEncoder(extract_trunk(small_swin(), "permute"), 8 * SMALL_SWIN["embed"])

    monkeypatch.setattr(builders, "build_patch_encoder", build)


@pytest.fixture
def release(tmp_path) -> Path:
    """A checkpoint file of the release."""
    return write_release(tmp_path / "model_best.pth", release_state())


@pytest.fixture
def tokens(tmp_path) -> Path:
    """The list of its words."""
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps(WORDS))
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A configuration and the vocabularies of its data set."""
    config = load_config(None, tiny_settings(tmp_path_factory.mktemp("parts")))
    return config, build_vocabularies(config)
