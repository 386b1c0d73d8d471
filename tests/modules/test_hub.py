"""The model as an object of the Hugging Face hub, without the hub."""

import json
import shutil

import pytest
import torch

from data.errors import UserError
from models.outputs import BoxSource, GraphSource, ModelInputs
from modules.builders import load_model
from modules.checkpoint import load_checkpoint
from modules.inference.export_folder import write_weights
from modules.inference.predictor import Predictor
from tests.support.tiny_run import write_tiny_run

pytest.importorskip("huggingface_hub", reason="no huggingface_hub: pip install -r requirements-tracking.txt")

from huggingface_hub import HfApi  # noqa: E402

from modules import hub  # noqa: E402
from modules.hub import SGRRG  # noqa: E402


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder as modules.export writes it, without programs."""
    folder = tmp_path_factory.mktemp("hub")
    run_folder, _ = write_tiny_run(folder, lively=True)
    (folder / "exported").mkdir()
    write_weights(folder / "exported", load_checkpoint(run_folder))
    return folder / "exported"


def reports(model) -> torch.Tensor:
    images = torch.randn(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    inputs = ModelInputs(images, torch.ones(2, 1, dtype=torch.bool), torch.ones(2, dtype=torch.bool))
    with torch.no_grad():
        return model.generate(inputs, GraphSource.PREDICTED, BoxSource.LOCALIZER, beam_size=2, max_tokens=12).token_ids


def test_a_folder_is_loaded_saved_and_loaded_again(exported, tmp_path):
    model = SGRRG.from_pretrained(exported)
    checkpoint = load_checkpoint(exported)
    assert not model.training and model.checkpoint.config == checkpoint.config
    assert torch.equal(reports(model), reports(load_model(checkpoint, checkpoint.config).eval()))
    with torch.no_grad():
        model.decoder.word_head.bias += 1
    model.save_pretrained(tmp_path / "saved")
    again = SGRRG.from_pretrained(str(tmp_path / "saved"))
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    assert json.loads((tmp_path / "saved/config.json").read_text())["architectures"] == ["SGRRG"]
    assert "research only" in (tmp_path / "saved/README.md").read_text()
    assert Predictor(again.checkpoint.directory, "cpu").vocabularies.to_dict() == checkpoint.vocabularies.to_dict()


def test_a_repository_is_downloaded_without_its_programs(exported, tmp_path, monkeypatch):
    seen = {}

    def download(repository, allow_patterns, revision, **settings):
        seen.update(repository=repository, revision=revision)
        shutil.copytree(exported, tmp_path / "cache")
        assert {path.name for path in exported.iterdir()} <= set(allow_patterns)
        assert not any(pattern.endswith(".pt2") for pattern in allow_patterns)
        return str(tmp_path / "cache")

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", lambda **_: str(exported / "config.json"))
    model = SGRRG.from_pretrained("someone/sgrrg", revision="main")
    assert seen == {"repository": "someone/sgrrg", "revision": "main"}
    assert torch.equal(reports(model), reports(SGRRG.from_pretrained(exported)))


def test_a_push_uploads_a_checkpoint(exported, tmp_path, monkeypatch):
    class Created:
        repo_id = "someone/sgrrg"

    def upload(api, repo_id, folder_path, **settings):
        shutil.copytree(folder_path, tmp_path / "uploaded")
        return f"https://hub/{repo_id}"

    monkeypatch.setattr(HfApi, "create_repo", lambda api, repo_id, private, exist_ok: Created)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    model = SGRRG.from_pretrained(exported)
    assert model.push_to_hub("someone/sgrrg", private=True) == "https://hub/someone/sgrrg"
    assert torch.equal(reports(SGRRG.from_pretrained(tmp_path / "uploaded")), reports(model))


def test_what_is_not_a_checkpoint_is_refused(tmp_path, exported):
    with pytest.raises(UserError, match="is not a checkpoint"):
        SGRRG.from_pretrained(tmp_path)
    model = SGRRG.from_pretrained(exported)
    model.checkpoint = None
    with pytest.raises(ValueError, match="loaded by from_pretrained"):
        model.save_pretrained(tmp_path / "saved")
