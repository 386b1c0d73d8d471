"""Scoring lung boxes, on simulated X-rays and, if available, on real ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.lung_boxes import region_ious
from benchmarks.real.films import read_annotated_images
from data.images.atlas import atlas_boxes
from data.localizer.network import BoxNetwork
from data.localizer.shipped import save_network
from data.sources.phantom.patient import draw_patient
from data.sources.phantom.physics import simulate
from tests.support.tiny_run import write_tiny_run

REAL = Path(__file__).resolve().parents[3] / "shared" / "real"
LUNGS = ("left lung", "right lung")


@pytest.fixture
def folder(tmp_path):
    """Three annotated images of 128 x 96 pixels, and one without boxes."""
    root = tmp_path / "films"
    (root / "images").mkdir(parents=True)
    annotation = {"train": [], "val": [], "test": []}
    for number, split in enumerate(("train", "train", "test", "test")):
        view = simulate(draw_patient(np.random.default_rng([9, number])), (), 128, noise_seed=number)
        Image.fromarray(view.image).resize((128, 96)).save(root / "images" / f"{number}.png")
        scale = np.array([128, 96, 128, 96])
        boxes = {name: (np.array(view.boxes[name]) * scale).tolist() for name in LUNGS} if number < 3 else None
        annotation[split].append({"id": str(number), "image_path": [f"{number}.png"], "boxes_xyxy": boxes})
    (root / "annotation.json").write_text(json.dumps(annotation))
    return root


@pytest.fixture
def both(folder):
    """The folder of `folder` and one in the layout of JSRT, with hearts: 2 images for training, 1 for validation."""
    root = folder.parent / "both"
    (root / "jsrt" / "images").mkdir(parents=True)
    folder.rename(root / "covid_cxr")
    entries = []
    for number, split in enumerate(("train", "val", "train")):
        view = simulate(draw_patient(np.random.default_rng([10, number])), (), 64, noise_seed=number)
        Image.fromarray(view.image).save(root / "jsrt" / "images" / f"{number}.png")
        boxes = {name: [64 * corner for corner in view.boxes[name]] for name in (*LUNGS, "cardiac silhouette")}
        entries.append({"image": f"{number}.png", "width": 64, "height": 64, "boxes": boxes, "split": split})
    entries.append({"image": "absent.png", "boxes": {"left_lung": [1, 2, 3, 4]}})  # not both lungs: left out
    (root / "jsrt" / "annotations.json").write_text(json.dumps(entries))
    return root


def rows(printed: str) -> dict[tuple[str, str, str], list[str]]:
    """The numbers of the table by its first three columns."""
    return {(line[:18].strip(), line[19:29].strip(), line[30:44].strip()): line[44:].split()
            for line in printed.splitlines()[1:]}


def test_the_table(folder, capsys):
    assert main(["lung_boxes", "--data", str(folder)]) == 0
    table = rows(capsys.readouterr().out)
    assert {way for way, _, _ in table} == {"atlas", "fitted atlas", "shipped localizer", "both"}
    assert [table["atlas", "films", group][0] for group in ("all", "train and val", "test")] == ["3", "2", "1"]
    fitted = table["fitted atlas", "films", "all"]
    expected = np.nanmean(region_ious(read_annotated_images(folder), atlas_boxes)[:, :2])
    assert float(fitted[1]) == pytest.approx(expected, abs=1e-3)
    assert float(fitted[1]) > 0.7 and fitted[4] == "100.0%" and fitted[5] == "-"
    low, high = map(float, fitted[6].split("-"))
    assert low <= float(fitted[1]) <= high and low < high and fitted[7] == "-"


def test_all_data_sets_of_a_folder_have_their_own_rows_and_hearts(both, capsys):
    assert main(["lung_boxes", "--data", str(both)]) == 0
    table = rows(capsys.readouterr().out)
    groups = [(data_set, group) for way, data_set, group in table if way == "atlas"]
    assert groups == [("covid_cxr", "all"), ("covid_cxr", "train and val"), ("covid_cxr", "test"),
                      ("jsrt", "all"), ("jsrt", "train"), ("jsrt", "val")]
    assert table["atlas", "jsrt", "train"][0] == "2" and 0 < float(table["atlas", "jsrt", "all"][5]) < 1


def test_true_boxes_score_1_and_exchanged_sides_0(both):
    for image in read_annotated_images(both):
        truth = {"cardiac silhouette": image.boxes["right lung"]} | image.boxes
        scores = region_ious([image], lambda _, truth=truth: truth)
        assert scores[0, :2].tolist() == [1.0, 1.0]
        assert scores[0, 2] == 1 if image.data_set == "jsrt" else np.isnan(scores[0, 2])
        exchanged = truth | dict(zip(LUNGS, reversed([truth[name] for name in LUNGS]), strict=True))
        assert region_ious([image], lambda _, exchanged=exchanged: exchanged)[0, :2].max() < 0.1


def test_localizers_of_a_checkpoint_and_of_a_file_beside_the_atlas(folder, tmp_path, capsys):
    run, _ = write_tiny_run(tmp_path)
    save_network(BoxNetwork(29), tmp_path / "w.safetensors")
    options = ["--checkpoint", str(run), "--weights", str(tmp_path / "w.safetensors")]
    assert main(["lung_boxes", "--data", str(folder), *options]) == 0
    table = rows(capsys.readouterr().out)
    for way in ("checkpoint", "--weights"):
        number, *scores = table[way, "films", "all"]
        assert number == "3" and 0 <= float(scores[0]) <= 1
    assert main(["lung_boxes", "--data", str(folder), "--weights", str(tmp_path / "absent")]) == 1
    assert "No file of weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (None, "annotation.json (No such file or directory)"),
        ("no JSON", "does not have the form"),
        ("[]", "does not have the form"),
        ('{"train": [{"image_path": ["0.png"], "boxes_xyxy": {"left lung": [1, 2, 3, 4]}}]}', "'right lung'"),
        (
            '{"train": [{"image_path": ["absent.png"], "boxes_xyxy": {"left lung": [1, 2, 3, 4], "right lung": [1, 2, '
            '3, 4]}}]}',
            "absent.png",
        ),
        ('{"train": [{"image_path": ["0.png"], "boxes_xyxy": null}]}', "no image with boxes of both lungs"),
    ],
)
def test_a_folder_of_another_form_is_named(folder, annotation, message, capsys):
    if annotation is None:
        (folder / "annotation.json").unlink()
    else:
        (folder / "annotation.json").write_text(annotation)
    assert main(["lung_boxes", "--data", str(folder)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and str(folder) in line


@pytest.mark.skipif(not (REAL / "covid_cxr").is_dir(), reason="the real X-rays are missing (../shared/real/covid_cxr)")
def test_real_films_and_the_fitted_atlas():
    """The target is 0.6; the result is 0.82 (0.81 on the test images)."""
    images = read_annotated_images(REAL / "covid_cxr")
    assert len(images) == 140
    scores = region_ious(images, atlas_boxes)[:, :2]
    assert scores.mean() > 0.80
    assert scores[[image.group == "test" for image in images]].mean() > 0.78
    assert (scores.mean(1) > 0.5).mean() > 0.98
