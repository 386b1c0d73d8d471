"""The command that finds region boxes with the localizer of a trained model."""

import json
from pathlib import Path

import pytest
import yaml

from modules.builders import build_model
from modules.checkpoint import load_checkpoint, save_checkpoint
from modules.config import load_config
from modules.region_boxes import main
from tests.support.sources.toy_source import content_without_index, folder_content
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_run import TINY, write_tiny_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder, and the data set of the run."""
    return write_tiny_run(tmp_path_factory.mktemp("trained"))


def test_with_out_a_file_is_written(trained, tmp_path, capsys):
    run, root = trained
    content, out = folder_content(root), tmp_path / "boxes.jsonl"
    assert main(["--checkpoint", str(run), "--data", str(root), "--out", str(out)]) == 0
    assert f"written: {out}, boxes of 14 studies" in capsys.readouterr().out
    assert len(out.read_text(encoding="utf-8").splitlines()) == 14
    assert main(["--checkpoint", str(run), "--data", str(root), "--out", str(out), "--split", "val", "test"]) == 0
    assert "boxes of 6 studies" in capsys.readouterr().out
    assert folder_content(root) == content


def test_without_out_the_boxes_of_the_data_set_are_replaced(trained, tmp_path, capsys):
    root = write_tiny_dataset(tmp_path / "data", train=3, val=1, test=1, image_size=32)
    # The second training study has no graph.
    assert main(["--checkpoint", str(trained[0]), "--data", str(root)]) == 0
    assert f"replaced: the boxes of 4 graphs in {root}" in capsys.readouterr().out
    records = [json.loads(line) for line in (root / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["graph"] and record["graph"]["box_source"] for record in records] == [
        "localizer", None, "localizer", "localizer", "localizer"
    ]
    assert yaml.safe_load((root / "dataset.yaml").read_text(encoding="utf-8"))["graphs_with_given_boxes"] == 4


def test_a_part_of_the_splits_needs_a_file(trained, tmp_path, capsys):
    run, root = trained
    content = folder_content(root)
    assert main(["--checkpoint", str(run), "--data", str(root), "--split", "val"]) == 1
    assert capsys.readouterr().err == "--split needs --out FILE: without it, the boxes of all splits are replaced\n"
    assert folder_content(root) == content


def test_what_a_user_can_mend_is_one_line_and_no_file(trained, tmp_path, capsys):
    """Both with --out and without it."""
    run, root = trained

    def printed_error(checkpoint: Path, data: Path) -> str:
        content = content_without_index(data)
        lines = set()
        for out in (["--out", str(tmp_path / "boxes.jsonl")], []):
            assert main(["--checkpoint", str(checkpoint), "--data", str(data), *out]) == 1
            assert list(tmp_path.glob("*.jsonl*")) == [] and content_without_index(data) == content
            lines.update(capsys.readouterr().err.splitlines())
        (line,) = lines
        return line

    assert "No checkpoint at" in printed_error(tmp_path / "none", root)
    assert "No data set at" in printed_error(run / "best", tmp_path / "none")

    config = load_config(None, [*TINY, f"data.root={root}", "model.localizer=false", "eval.box_source=atlas"])
    vocabularies = load_checkpoint(run / "best").vocabularies
    save_checkpoint(tmp_path / "blind", build_model(config, vocabularies), config, vocabularies)
    assert "no localizer" in printed_error(tmp_path / "blind", root)

    damaged = write_tiny_dataset(tmp_path / "damaged", train=1, val=1, test=2, image_size=32)
    (damaged / "images" / "test1_0.png").write_bytes(b"not an image")
    assert "Study test1" in printed_error(run / "best", damaged)


def test_without_studies_a_split_is_left_out(trained, tmp_path):
    root = write_tiny_dataset(tmp_path / "data", train=1, val=0, test=1, image_size=32)
    out = tmp_path / "boxes.jsonl"
    assert main(["--checkpoint", str(trained[0] / "best"), "--data", str(root), "--out", str(out)]) == 0
    entries = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert {entry["id"] for entry in entries} == {"train0", "test0"}
