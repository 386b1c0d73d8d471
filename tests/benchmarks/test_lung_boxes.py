"""Scoring lung boxes, on simulated X-rays and, if available, on real ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.lung_boxes import lung_ious, read_annotated_images
from data.images.atlas import atlas_boxes
from data.sources.phantom.patient import draw_patient
from data.sources.phantom.physics import simulate
from tests.support.tiny_run import write_tiny_run

REAL = Path(__file__).resolve().parents[3] / "shared" / "real" / "covid_cxr"
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


def rows(printed: str) -> dict[tuple[str, str], list[str]]:
    """The numbers of the table by its first two columns."""
    table = [line for line in printed.splitlines() if line.startswith(("atlas", "fitted", "localizer"))]
    return {(line[:14].strip(), line[15:28].strip()): line[28:].split() for line in table}


def test_the_table(folder, capsys):
    assert main(["lung_boxes", "--data", str(folder)]) == 0
    table = rows(capsys.readouterr().out)
    assert {way for way, _ in table} == {"atlas", "fitted atlas"}
    assert [table["atlas", images][0] for images in ("all", "train and val", "test")] == ["3", "2", "1"]
    fitted = table["fitted atlas", "all"]
    assert float(fitted[1]) == pytest.approx(lung_ious(read_annotated_images(folder), atlas_boxes).mean(), abs=1e-3)
    assert float(fitted[1]) > 0.7 and fitted[4] == "100.0%"


def test_true_boxes_score_1_and_exchanged_sides_0(folder):
    for image in read_annotated_images(folder):
        assert lung_ious([image], lambda _, image=image: image.lungs).tolist() == [[1.0, 1.0]]
        exchanged = dict(zip(LUNGS, reversed([image.lungs[name] for name in LUNGS]), strict=True))
        assert lung_ious([image], lambda _, exchanged=exchanged: exchanged).max() < 0.1


def test_a_localizer_beside_the_atlas(folder, tmp_path, capsys):
    run, _ = write_tiny_run(tmp_path)
    assert main(["lung_boxes", "--data", str(folder), "--checkpoint", str(run)]) == 0
    number, *scores = rows(capsys.readouterr().out)["localizer", "all"]
    assert number == "3" and 0 < float(scores[0]) <= 1


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (None, "annotation.json (No such file or directory)"),
        ("no JSON", "does not have the form"),
        ("[]", "does not have the form"),
        ('{"train": [{"image_path": ["0.png"], "boxes_xyxy": {"left lung": [1, 2, 3, 4]}}]}', "'right lung'"),
        ('{"train": [{"image_path": ["absent.png"], "boxes_xyxy": {"left lung": [1, 2, 3, 4]}}]}', "absent.png"),
        ('{"train": [{"image_path": ["0.png"], "boxes_xyxy": null}]}', "no image with boxes_xyxy"),
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


@pytest.mark.skipif(not REAL.is_dir(), reason="the real X-rays are missing (../shared/real/covid_cxr)")
def test_real_films():
    """The target is 0.6; the result is 0.82 (0.81 on the test images)."""
    images = read_annotated_images(REAL)
    assert len(images) == 140
    scores = lung_ious(images, atlas_boxes)
    assert scores.mean() > 0.80
    assert scores[[image.split == "test" for image in images]].mean() > 0.78
    assert (scores.mean(1) > 0.5).mean() > 0.98
