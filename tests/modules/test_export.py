"""The export command: the same weights and programs, a card with the scores, and no local paths."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from data.errors import UserError
from data.images.network_input import normalise
from modules import export
from modules.checkpoint import load_checkpoint
from modules.inference import export_folder, exported_programs
from modules.inference.exported_programs import DECODER_STEP, ENCODER
from modules.inference.predictor import Predictor
from tests.support.tested_run import METRICS, write_tested_run

FILES = {
    "README.md", "config.json", "config.yaml", "vocabularies.json", "model.safetensors", "metrics.json", "encoder.pt2",
    "decoder_step.pt2", "manifest.json",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with scores, and the root of its data set."""
    return write_tested_run(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def exported(run):
    """The folder that the command writes for `run`, including the programs."""
    out = run[0].parent / "exported"
    assert export.main(["--checkpoint", str(run[0]), "--out", str(out)]) == 0
    return out


@pytest.fixture
def without_programs(monkeypatch):
    """Skip the programs, since tracing takes seconds."""
    monkeypatch.setattr(export_folder, "export_programs", lambda folder, checkpoint: {})


def test_folder_is_a_checkpoint_with_the_same_weights(run, exported):
    assert {path.name for path in exported.iterdir()} == FILES
    before, after = load_checkpoint(run[0]), load_checkpoint(exported)
    assert before.weights.keys() == after.weights.keys()
    for name, value in before.weights.items():
        assert value.dtype == after.weights[name].dtype and torch.equal(value, after.weights[name]), name
    assert after.vocabularies.fingerprints() == before.vocabularies.fingerprints()
    assert after.config.model == before.config.model and after.config.eval == before.config.eval


def test_predictor_writes_the_same_reports(run, exported):
    images = sorted((run[1] / "images").glob("test*"))
    assert Predictor(exported, device="cpu").predict(images) == Predictor(run[0], device="cpu").predict(images)


def test_nothing_names_a_folder_of_this_machine(run, exported):
    folders = [str(folder).encode() for folder in (run[0].parent, Path(export.__file__).parents[1])]
    for path in exported.iterdir():
        contents = [path.read_bytes()]
        if path.suffix == ".pt2":
            with zipfile.ZipFile(path) as archive:
                contents = [archive.read(name) for name in archive.namelist()]
        assert not [folder for folder in folders for content in contents if folder in content], path.name


def test_programs_write_a_report_on_their_own(run, exported):
    """Greedy decoding with the first of each study's beams, in a batch of another size than the traced one."""
    predictor = Predictor(run[0], device="cpu", beam_size=1)
    images = sorted((run[1] / "images").glob("t*"))[:4]
    expected = [prediction.report for prediction in predictor.predict(images[:2]) + predictor.predict(images[2:])]
    encoder, step = (torch.export.load(exported / name).module() for name in (ENCODER, DECODER_STEP))
    pixels = torch.stack([predictor.read(image).pixels for image in images])
    normalised = torch.stack([normalise(image.float() / 255) for image in pixels])
    state = encoder(normalised, torch.ones(4, 1, dtype=torch.bool), torch.ones(4, dtype=torch.bool))["state"]
    beams, tokenizer = predictor.config.eval.beam_size, predictor.vocabularies.tokenizer
    tokens, words = torch.full((4 * beams,), tokenizer.bos_id), []
    for position in range(predictor.config.data.max_tokens - 1):
        logits, state = step(tokens, position, state)
        logits[:, [tokenizer.bos_id, tokenizer.pad_id]] = -torch.inf
        tokens = logits.argmax(-1)
        words.append(tokens[::beams])
    assert [tokenizer.decode(report) for report in torch.stack(words, 1)] == expected


def test_card_has_front_matter_for_the_hub_and_the_scores(exported):
    _, front, text = (exported / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["pipeline_tag"] == "image-to-text" and front["metrics"] == ["bleu", "meteor"]
    result, = front["model-index"][0]["results"]
    assert result["dataset"] == {"type": "tiny", "name": "tiny", "split": "test"}
    assert result["metrics"] == [{"type": "bleu", "name": "bleu_4", "value": 0.25}]
    assert "tiny, split test, 3 studies; graph predicted, boxes localizer, beam 2, protocol r2gen, seed 5" in text
    assert "not for clinical use" in text and "0.125" in text and "meteor is absent: no Java" in text
    assert json.loads((exported / "config.json").read_text())["model_type"] == "sgrrg"


def test_exported_model_can_be_exported_again(exported, tmp_path, without_programs):
    export_folder.export_checkpoint(exported, tmp_path / "again")
    for name in ("README.md", "config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes()


def export_error(capsys, *arguments):
    """The last line on stderr of a command that fails."""
    assert export.main([str(argument) for argument in arguments]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "Traceback" not in last
    return last


def test_refusals(run, tmp_path, capsys, without_programs):
    (tmp_path / "there").mkdir()
    assert "exists" in export_error(capsys, "--checkpoint", run[0], "--out", tmp_path / "there")
    assert "No checkpoint" in export_error(capsys, "--checkpoint", tmp_path / "none", "--out", tmp_path / "out")
    (tmp_path / "file").write_text("")
    assert "Cannot write" in export_error(capsys, "--checkpoint", run[0], "--out", tmp_path / "file/out")
    shutil.copytree(run[0], tmp_path / "run")
    (tmp_path / "run/metrics.json").write_text("{}")
    arguments = ("--checkpoint", tmp_path / "run", "--out", tmp_path / "out")
    assert "metrics.json is damaged" in export_error(capsys, *arguments)
    old = {name: value for name, value in METRICS.items() if name != "graph_in"}
    (tmp_path / "run/metrics.json").write_text(json.dumps(old))
    assert "from an older version" in export_error(capsys, *arguments)
    assert not (tmp_path / "out").exists()


def test_damaged_weights_are_one_line(exported, tmp_path):
    damaged = Path(shutil.copytree(exported, tmp_path / "damaged"))
    (damaged / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(UserError, match="model.safetensors is damaged"):
        load_checkpoint(damaged)


def test_what_differs_is_not_exported(run, tmp_path, monkeypatch, capsys, without_programs):
    monkeypatch.setattr(export_folder, "save_file", lambda weights, path, metadata: save_modified(weights, path))
    assert "when read back" in export_error(capsys, "--checkpoint", run[0], "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def save_modified(weights, path):
    """Save the weights with the last bit of one number changed."""
    changed = {name: value.clone() for name, value in weights.items()}
    bias = changed["decoder.word_head.bias"]
    bias[0] = torch.nextafter(bias[0], torch.tensor(torch.inf))
    save_file(changed, path)


def test_programs_that_differ_are_not_exported(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(exported_programs, "_write_program", lambda *_: None)
    monkeypatch.setattr(exported_programs, "compare_programs", lambda *_: {"encoder.pt2": 0.0, "decoder_step.pt2": 0.5})
    assert "decoder_step.pt2 differs from the model by 0.5" in export_error(
        capsys, "--checkpoint", run[0], "--out", tmp_path / "out"
    )
    assert list(tmp_path.iterdir()) == []
