"""Files and settings that the conversion of a release checkpoint refuses."""

import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from data.errors import UserError
from models.trunks import torch_archive
from modules.official_checkpoint import main
from modules.release.conversion import convert
from tests.support.release_files import ATTRIBUTES, OVERRIDES, TRUNK, UNUSED, WIDTH, release_state, write_release


def refusal(capsys, state: dict | Path, tokens: Path, *overrides: str) -> str:
    """The one line on stderr of a conversion that fails and leaves no folder."""
    folder = tokens.parent
    file = write_release(folder / "other.pth", state) if isinstance(state, dict) else state
    assert main([str(file), "--vocabulary", str(tokens), "--out", str(folder / "out"), *OVERRIDES, *overrides]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and not (folder / "out").exists()
    return said


def test_weights_of_another_size_are_refused_with_published_names_and_shapes(small_trunk, tokens, capsys):
    state = release_state()
    state["decoder.layers.0.cross_attn_img.linears.2.weight"] = torch.zeros(WIDTH, WIDTH + 1)
    state[TRUNK + "norm.weight"] = torch.zeros(65)
    said = refusal(capsys, state, tokens)
    assert "2 weights of" in said and "more" not in said
    assert "decoder.layers.0.cross_attn_img.linears.2.weight is [16, 17] there and [16, 16] here" in said
    assert f"{TRUNK}norm.weight is [65] there and [64] here" in said
    said = refusal(capsys, release_state(), tokens, "model.width=32")
    assert "att_embed.0.weight is [16, 64] there and [32, 64] here" in said and said.endswith("; and 93 more\n")


@pytest.mark.parametrize("name, shape, expected", [
    ("attribute_predictor.attribute_heads.3.weight", (1, 64), "[4, 64]"),
    ("attribute_predictor.attribute_heads.0.weight", (3, 64), "[1, 64]"),
    ("attribute_predictor.attribute_heads.3.weight", (4, 65), "[4, 64]"),
    ("scene_graph_encoder.att_embedding.weight", (sum(ATTRIBUTES), WIDTH), f"[{sum(ATTRIBUTES) + 1}, {WIDTH}]"),
    ("scene_graph_encoder.att_embedding.weight", (), f"[{sum(ATTRIBUTES) + 1}, {WIDTH}]"),
])
def test_attribute_heads_and_embeddings_have_published_sizes(name, shape, expected, small_trunk, tokens, capsys):
    said = refusal(capsys, release_state() | {name: torch.zeros(shape)}, tokens)
    assert f"{name} is {list(shape)} there and {expected} here" in said


@pytest.mark.parametrize("change, said", [
    ({"decoder.layers.0.feed_forward.w_1.weight": None}, "lacks decoder.layers.0.feed_forward.w_1.weight"),
    ({"rrg_head.weight": "text"}, "holds rrg_head.weight as str, not as a plain tensor"),
    ({"att_embed.0.weight": [1, 2]}, "holds att_embed.0.weight as list"),
    ({"att_embed.0.weight": 3}, "holds att_embed.0.weight as int"),
    ({"rrg_head.weight": torch.zeros(21, WIDTH).to_sparse()}, "holds rrg_head.weight as torch.sparse_coo"),
    ({5: torch.zeros(2)}, "calls a weight 5"),
    ({"attribute_predictor.attribute_heads.3.bias": torch.tensor(1.0)}, "attribute_heads.3.bias has no rows"),
    ({"att_embed.0.weight": torch.tensor(1.0)}, "has no rows"),
    ({"vision_encoder.layers.7.norm": torch.zeros(2)}, "has vision_encoder.layers.7 but no vision_encoder.layers.1"),
])
def test_a_damaged_file_is_refused_in_one_line(change, said, small_trunk, tokens, tmp_path, capsys):
    state = {name: value for name, value in (release_state() | change).items() if value is not None}
    torch.save({"state_dict": state}, tmp_path / "damaged.pth")
    assert said in refusal(capsys, tmp_path / "damaged.pth", tokens)


def test_a_name_without_the_number_of_its_layer_is_not_used(small_trunk, tokens, tmp_path):
    file = write_release(tmp_path / "odd.pth", release_state() | {"vision_encoder.layers.x.norm": torch.zeros(2)})
    assert "vision_encoder.layers.x.norm" in convert(file, tokens, tmp_path / "out", OVERRIDES)


@pytest.mark.parametrize("overrides, said", [
    (["model.localizer=true", "eval.box_source=localizer"], "model.localizer=true has no weights in a release"),
    (["model.share_attribute_names=true"], "model.share_attribute_names=true has no weights in a release"),
    (["model.gate=true"], "model.gate=true has no weights in a release"),
    (["model.cross_modal_memory.rows=64"], "model.cross_modal_memory.rows=64: the release has no such part"),
    (["model.decoder.norms=memory"], "model.decoder.norms=memory: the release has no such part"),
    (["model.discriminative_map=true"], "model.discriminative_map=true: the release has no such part"),
    (["model.prototypes.per_observation=2"], "model.prototypes.per_observation=2: the release has no such part"),
    (["model.norm=std"], "model.norm=std: the release has no such part"),
    (["model.fuse=concat"], "model.fuse=concat has no weights in a release"),
    (["model.sentence_attention=hierarchical"], "model.sentence_attention=hierarchical has no weights in a release"),
    (["model.patch_encoder.backbone=densenet121"], "backbone=densenet121 is not the release's trunk"),
])
def test_settings_that_would_leave_weights_random_are_refused(overrides, said, small_trunk, release, tokens, capsys):
    assert said in refusal(capsys, release, tokens, *overrides)


def test_a_missing_weight_is_named(small_trunk, tokens, tmp_path):
    state = release_state()
    del state["region_selector.ff.bias"]
    with pytest.raises(UserError, match="region_selector.ff.bias"):
        convert(write_release(tmp_path / "lacking.pth", state), tokens, tmp_path / "out", OVERRIDES)


def test_a_file_without_a_trunk_is_no_release(tokens, tmp_path):
    state = {name: value for name, value in release_state().items() if not name.startswith(TRUNK)}
    with pytest.raises(UserError, match=f"{TRUNK}norm.weight"):
        convert(write_release(tmp_path / "bare.pth", state), tokens, tmp_path / "out", OVERRIDES)


class Intruder:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_the_file_is_executed(tokens, tmp_path):
    proof = tmp_path / "executed"
    torch.save({"state_dict": release_state(), "monitor_best": Intruder(proof)}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"state_dict": Intruder(proof)}, protocol=2))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(UserError, match="weights alone"):
            convert(tmp_path / name, tokens, tmp_path / "out", OVERRIDES)
    assert not proof.exists()


@pytest.mark.parametrize("value", [np.int64(3), np.bool_(True), np.float16(0.5), np.float32(0.5)], ids=str)
def test_numbers_of_numpy_are_read(value, small_trunk, tokens, tmp_path):
    torch.save({"state_dict": release_state(), "best_epoch": value}, tmp_path / "file.pth")
    assert convert(tmp_path / "file.pth", tokens, tmp_path / "out", OVERRIDES) == UNUSED
    with pytest.raises(pickle.UnpicklingError):  # allowed during the conversion only
        torch.load(tmp_path / "file.pth", weights_only=True)


@pytest.mark.parametrize("value, kind", [
    (defaultdict(dict), "collections.defaultdict"), (np.zeros(2), "numpy._core.multiarray._reconstruct"),
])
def test_what_is_not_read_for_safety_is_named(value, kind, tokens, tmp_path, capsys):
    torch.save({"state_dict": release_state(), "other": value}, tmp_path / "file.pth")
    said = refusal(capsys, tmp_path / "file.pth", tokens)
    assert f"weights alone: it holds a {kind}, which could execute code" in said
    assert "download" not in said and "\x1b" not in said


@pytest.mark.parametrize("content, said", [
    (None, "No checkpoint at"), (b"", "weights alone"), (b"no archive", "weights alone"),
])
def test_what_is_no_file_of_weights_is_refused(content, said, tokens, tmp_path):
    file = tmp_path / "file.pth"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=said):
        convert(file, tokens, tmp_path / "out", OVERRIDES)


def test_a_large_structure_is_refused_before_it_is_read(tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_archive, "LARGEST_PICKLE", 5000)
    torch.save({"state_dict": {}, "history": [{} for _ in range(9000)]}, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"weights alone \(ValueError\)"):
        convert(tmp_path / "file.pth", tokens, tmp_path / "out", OVERRIDES)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 1}, {"state_dict": [1]}])
def test_a_container_without_weights_is_refused(content, tokens, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError, match="no state_dict"):
        convert(tmp_path / "file.pth", tokens, tmp_path / "out", OVERRIDES)
