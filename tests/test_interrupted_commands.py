"""Ctrl-C in the work of every command: one line, status 130, and no temporary file is left."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import main_predict
import main_test
import main_train
from benchmarks.chaos.processes import run
from data import labeler, prepare, text_graph
from data.storage.prepared_files import write_manifest
from modules import calibrate, compare, export, official_checkpoint, region_boxes, rexrank, score
from tests.support.tiny_run import TINY, write_tiny_run

# Lines on stderr beside the one about the interrupt.
PROGRESS = re.compile(r".* is a run folder: using its best checkpoint|Counting ")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with what the commands read: run, tiny (a data set), images, reports, predictions, a release."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # processes with several threads must not be forked
    folder = tmp_path_factory.mktemp("inputs")
    _, root = write_tiny_run(folder, lively=True)
    write_manifest(root)
    (folder / "images").mkdir()
    Image.fromarray(np.full((40, 40), 90, dtype=np.uint8)).save(folder / "images/chest.png")
    (folder / "reports.csv").write_text("id,report\nstudy1,The lungs are clear.\n")
    (folder / "table.csv").write_text("image,report\nchest.png,The lungs are clear.\n")
    (folder / "predictions.jsonl").write_text('{"id": "study1", "reference": "clear lungs", "generated": "clear"}\n')
    (folder / "others.jsonl").write_bytes((folder / "predictions.jsonl").read_bytes())
    (folder / "in.json").write_text(json.dumps({"study1": {"image_path": ["chest.png"], "report": "clear"}}))
    (folder / "words.json").write_text('["clear"]')
    torch.save({"state_dict": {"a": torch.zeros(1)}}, folder / "release.pth")
    yield folder
    torch.set_num_threads(threads)


def interrupted_at(main, name: str):
    """Return `main`, interrupted when it opens a file of this name."""

    def interrupted(arguments: list[str]) -> int:
        def interrupt(event: str, values: tuple) -> None:
            if event == "open" and isinstance(values[0], str) and Path(values[0]).name == name:
                os.kill(os.getpid(), signal.SIGINT)

        sys.addaudithook(interrupt)
        return main(arguments)

    return interrupted


@pytest.mark.parametrize(("main", "arguments", "opened"), [
    (main_train.main, [*TINY, "data.root=IN/tiny", "results=OUT", "name=run"], "records.jsonl"),
    (main_test.main, "--checkpoint IN/run --data IN/tiny --out OUT --baselines none --workers 1", "test0_0.png"),
    (main_predict.main, "--checkpoint IN/run IN/images/chest.png --out OUT", "chest.png"),
    (export.main, "--checkpoint IN/run --out OUT/exported", "README.md"),
    (calibrate.main, "--checkpoint IN/run", "records.jsonl"),
    (region_boxes.main, "--checkpoint IN/run --data IN/tiny --out OUT/boxes.jsonl", "train0_0.png"),
    (rexrank.main, "--checkpoint IN/run --input_json_file IN/in.json --save_json_file OUT/out.json "
     "--img_root_dir IN/images", "chest.png"),
    (official_checkpoint.main, "IN/release.pth --vocabulary IN/words.json --out OUT/converted", "release.pth"),
    (score.main, "IN/predictions.jsonl --out OUT/scores.json", "predictions.jsonl"),
    (compare.main, "IN/predictions.jsonl IN/others.jsonl --csv OUT/table.csv", "predictions.jsonl"),
    (labeler.main, "IN/reports.csv OUT/labels.csv", "reports.csv"),
    (text_graph.main, "IN/reports.csv OUT/graphs.jsonl", "reports.csv"),
    (prepare.main, "phantom --out OUT/data --studies 12 --image-size 32 --workers 1", "settings.yaml"),
    (prepare.main, "table --table IN/table.csv --images IN/images --out OUT/data --image image --workers 1",
     "table.csv"),
    (prepare.main, "verify IN/tiny", "dataset.yaml"),
], ids=lambda value: value.__module__ if callable(value) else "")  # fmt: skip
def test_an_interrupted_command_ends_with_one_line(inputs, tmp_path, main, arguments, opened):
    out = tmp_path / "out"
    out.mkdir()
    words = arguments.split() if isinstance(arguments, str) else arguments
    filled = [word.replace("IN/", f"{inputs}/").replace("OUT", str(out)) for word in words]
    outcome = run(interrupted_at(main, opened), filled, tmp_path / "log")
    lines = [line for line in outcome.errors if not PROGRESS.match(line)]
    assert outcome.status == 130 and len(lines) == 1 and lines[0].startswith("Interrupted"), outcome
    left = [path.name for path in out.rglob("*") if re.search(r"\.(tmp|partial|unfinished)$", path.name)]
    assert left == [] or main is prepare.main  # which resumes from them
