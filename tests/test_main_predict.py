"""The command for your own images, with a small untrained model."""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main_predict
import main_test
from data.ontology import CHANGES
from modules.evaluation.display import format_report
from modules.inference.prediction_files import NOTICE
from modules.inference.predictor import Predictor
from tests.support.context.tiny_context import save_context_run
from tests.support.images.dicom_files import dicom
from tests.support.tiny_run import write_tiny_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder and the root of its data set."""
    return write_tiny_run(tmp_path_factory.mktemp("predict"), lively=True)


@pytest.fixture
def command(trained, tmp_path):
    """Runs the command with tmp_path/out as the folder of the results."""
    def run(*arguments):
        return main_predict.main(
            ["--checkpoint", str(trained[0]), "--device", "cpu", "--out", str(tmp_path / "out"), *map(str, arguments)]
        )

    return run


@pytest.fixture
def folder(tmp_path):
    """A folder with four studies of one image, one of two, a damaged file, a text file and a hidden file."""
    folder = tmp_path / "xrays"
    (folder / "pair").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "c", "pair/1.png", "pair/2.png"):
        pixels = generator.integers(0, 255, (40, 50), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name, "JPEG" if name == "b.jpg" else "PNG")
    (folder / "d.png").write_bytes(dicom(generator.integers(0, 4000, (40, 50)).astype(np.uint16), ViewPosition="PA"))
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:300])
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden").write_text("not an image")
    return folder


def results(tmp_path):
    return {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}


def test_one_image(trained, command, tmp_path, capsys):
    image = next((trained[1] / "images").glob("test*"))
    assert command(image) == 0
    printed = capsys.readouterr().out
    expected = Predictor(trained[0], device="cpu").predict([image])[0]
    assert printed.startswith(NOTICE) and "not for clinical use" in NOTICE
    assert f"\n{image.name}\n{format_report(expected.report)}\n" in printed
    assert "warning: the image does not look like a frontal chest radiograph" in printed
    assert f"written: {tmp_path / 'out' / image.name}.json" in printed
    result = results(tmp_path)[image.name]
    assert (result["report"], result["notice"]) == (expected.report, NOTICE)
    with Image.open(tmp_path / "out" / f"{image.name}.png") as overlay:
        assert overlay.mode == "RGB" and overlay.size == (1024, 1024)


def test_a_folder_goes_on_past_damaged_files_and_names_them(command, folder, tmp_path, capsys):
    assert command(folder) == 1
    assert set(results(tmp_path)) == {"a.png", "b.jpg", "c", "d.png", "pair"}
    errors = capsys.readouterr().err.strip().splitlines()
    assert errors[1].startswith(f"{folder}/cut.png is damaged")
    assert errors[2] == f"{folder}/notes.txt is not a PNG, JPEG, TIFF or DICOM image: replace it"
    assert errors[3] == "2 of 7 studies have no report: cut.png, notes.txt"
    assert any("left out" in warning for warning in results(tmp_path)["pair"]["warnings"])


def test_a_folder_gives_what_single_images_give(command, folder, tmp_path):
    command(folder)
    together = {name: result["report"] for name, result in results(tmp_path).items()}
    for name in ("a.png", "d.png"):
        assert command(folder / name, "--batch-size", 1) == 0
    assert {name: result["report"] for name, result in results(tmp_path).items()} == together


def test_a_frontal_and_a_lateral_image(tmp_path):
    run_folder, root = write_tiny_run(tmp_path, "data.views=2", lively=True, views=2)
    pair = sorted((root / "images").glob("test1_*"))
    arguments = ["--checkpoint", str(run_folder), "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main_predict.main([*arguments, "--study", *map(str, pair), str(pair[0])]) == 0
    reports = results(tmp_path)
    assert set(reports) == {"test1_0.png", "test1_0.png-2"}
    expected = Predictor(run_folder, device="cpu").predict([tuple(pair)])[0]
    probabilities = reports["test1_0.png-2"]["observations"]
    assert probabilities == pytest.approx(expected.observations, abs=1e-5)
    assert probabilities != pytest.approx(reports["test1_0.png"]["observations"], abs=1e-5)


def test_chosen_regions(command, folder, tmp_path):
    assert command(folder / "a.png", "--regions", "left lung, cardiac silhouette") == 0
    regions = results(tmp_path)["a.png"]["regions"]
    assert {name for name, region in regions.items() if region["selected"]} == {"left lung", "cardiac silhouette"}


def test_a_drawn_box(command, folder, tmp_path):
    assert command(folder / "a.png", "--box", "left lung=20,5.5,45,36") == 0
    regions = results(tmp_path)["a.png"]["regions"]
    assert {name for name, region in regions.items() if region["selected"]} == {"left lung"}
    assert regions["left lung"]["box"] == [20, 5.5, 45, 36]


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "No image to report on"),
    (["{folder}/missing.png"], "missing.png (No such file"),
    (["{folder}/empty"], "No image to report on"),
    (["{folder}/a.png", "--regions", "heart"], "Unknown region 'heart'"),
    (["{folder}/a.png", "--regions", " ,"], "--regions names no region"),
    (["{folder}/a.png", "--box", "left lung"], 'Cannot read --box "left lung"'),
    (["{folder}/a.png", "--box", "left lung=1,2,3"], "Cannot read --box"),
    (["{folder}/a.png", "--box", "left lung=60,2,70,30"], "has no area in the image of 50 x 40 pixels"),
    (["{folder}", "--box", "left lung=1,2,3,4"], "--box needs a single study, not 7"),
    (["{folder}/a.png", "--checkpoint", "{folder}"], "is not a checkpoint"),
    (["{folder}/a.png", "--batch-size", "0"], "batch_size=0: must be at least 1"),
])
def test_what_a_user_can_mend_is_one_line(command, folder, tmp_path, capsys, arguments, message):
    if "{folder}/empty" in arguments:
        (folder / "empty").mkdir()
    assert command(*(argument.format(folder=folder) for argument in arguments)) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert any(message in line for line in lines) and not any("Traceback" in line for line in lines)
    assert not results(tmp_path)


def test_names_from_hell(command, folder, tmp_path, monkeypatch):
    """Unusual file names, with an output stream that is limited to ASCII."""
    unusual = tmp_path / "hell"
    unusual.mkdir()
    content = (folder / "a.png").read_bytes()
    names = [b"-rf.png", b"two\nlines.png", b"\xff\xfe.png", "ü\u202e.png".encode(), b"x" * 240, b"$(id);`id`.png"]
    for name in names:
        Path(os.fsdecode(os.fsencode(unusual) + b"/" + name)).write_bytes(content)
    (unusual / "broken\r\n.png").write_bytes(content[:50])
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="ascii") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    assert command(unusual) == 1
    streams["stderr"].flush()
    errors = streams["stderr"].buffer.getvalue()
    assert errors.splitlines()[-1] == b"1 of 7 studies have no report: broken\\ufffd\\ufffd.png"
    out = tmp_path / "out"
    assert len(list(out.glob("*.json"))) == len(list(out.glob("*.png"))) == 6
    assert {path.parent for path in out.rglob("*")} == {out}


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    """The run folder of a model that reads the context, and two of the images of its data set."""
    run, root = save_context_run(tmp_path_factory.mktemp("reading"))
    return run, root / "images/test0_0.png", root / "images/test1_0.png"


def predicted(tmp_path, run, image, *arguments):
    """The JSON of one study."""
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    assert main_predict.main(["--checkpoint", str(run), str(image), "--out", str(out), *map(str, arguments)]) == 0
    (path,) = out.glob("*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_context_changes_the_report_and_regions_have_a_change(reading, tmp_path):
    run, earlier, image = reading
    report = tmp_path / "earlier.txt"
    report.write_text("The heart is clear.", encoding="utf-8")
    alone = predicted(tmp_path, run, image)
    assert not any("change" in region for region in alone["regions"].values())
    contexts = (["--indication", "Chronic cough."], ["--prior", earlier], ["--prior-report", report])
    found = [predicted(tmp_path, run, image, *arguments) for arguments in contexts]
    assert all(each["sentences"] != alone["sentences"] for each in found)
    changes = {region["change"] for region in found[1]["regions"].values() if "change" in region}
    assert changes and changes <= set(CHANGES)
    assert not any("change" in region for region in found[0]["regions"].values())


def test_the_report_is_that_of_main_test(reading, tmp_path):
    run, earlier, image = reading
    report = tmp_path / "earlier.txt"
    records = [json.loads(line) for line in (image.parents[1] / "records.jsonl").read_text().splitlines()]
    by_id = {record["id"]: record for record in records}
    report.write_text(by_id["test0"]["report"], encoding="utf-8")
    indication = by_id["test1"]["indication"]
    given = predicted(tmp_path, run, image, "--prior", earlier, "--prior-report", report, "--indication", indication)
    assert main_test.main(["--checkpoint", str(run), "--out", str(tmp_path / "tested"), "--baselines", "none",
                           "eval.protocol=full"]) == 0
    lines = (tmp_path / "tested/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    tested = {line["id"]: line for line in map(json.loads, lines)}["test1"]
    assert given["report"] == tested["generated"]
    assert {name: region["change"] for name, region in given["regions"].items() if "change" in region} == (
        tested["changes"]
    )


@pytest.mark.parametrize(("arguments", "message"), [
    (["--indication", "Cough."], "This model does not read an indication"),
    (["--prior", "IMAGE"], "This model does not read a previous image"),
    (["--prior-report", "nowhere.txt"], "Cannot read nowhere.txt"),
    (["--prior-report", "/dev/zero"], "/dev/zero is not a report (it has more than 1,048,576 characters)"),
    (["IMAGE", "--indication", "Cough."], "need a single study, not 2"),
])
def test_a_context_that_cannot_be_used_is_one_line(reading, tmp_path, capsys, arguments, message):
    run, root = write_tiny_run(tmp_path)
    image = str(root / "images/test0_0.png")
    arguments = [image if argument == "IMAGE" else argument for argument in arguments]
    assert main_predict.main(["--checkpoint", str(run), image, *arguments, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
