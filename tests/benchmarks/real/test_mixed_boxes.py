"""A localizer with annotated images mixed in: with a few simulated chests in place of real ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.real.films import read_annotated_images
from benchmarks.real.mixed_boxes import as_films
from data.ontology import FILES, Anatomy
from data.sources.phantom.patient import draw_patient
from data.sources.phantom.physics import simulate


@pytest.fixture
def real(tmp_path):
    """Two images for training and one for validation in the layout of JSRT, and one in that of covid_seg."""
    for name, splits in (("jsrt", ("train", "train", "val")), ("covid_seg", (None,))):
        folder = tmp_path / "real" / name
        (folder / "images").mkdir(parents=True)
        entries = []
        for number, split in enumerate(splits):
            view = simulate(draw_patient(np.random.default_rng([10, number])), (), 64, noise_seed=number)
            Image.fromarray(view.image).save(folder / "images" / f"{number}.png")
            boxes = {region: [64 * corner for corner in view.boxes[region]]
                     for region in ("left lung", "right lung", "cardiac silhouette")}
            if split is None:
                boxes = {region.replace(" ", "_"): boxes[region] for region in ("left lung", "right lung")}
            entries.append({"image": f"{number}.png", "boxes": boxes} | ({"split": split} if split else {}))
        (folder / "annotations.json").write_text(json.dumps(entries))
    return tmp_path / "real"


def test_weights_are_written_and_scored_on_the_validation_split(real, tmp_path, capsys):
    out = tmp_path / "mixed.safetensors"
    options = ["--steps", "2", "--films", "2"]
    assert main(["mixed_boxes", "--data", str(real), "--out", str(out), *options]) == 0
    title, header, shipped, mixed = capsys.readouterr().out.splitlines()
    assert title.startswith("3 images mixed in") and header.split()[:2] == ["number", "lungs"] and out.is_file()
    assert shipped.split()[:2] == ["shipped", "1"] and mixed.split()[:2] == ["mixed", "1"]


def test_regions_without_annotation_are_unknown(real):
    images = [image for name in ("jsrt", "covid_seg") for image in read_annotated_images(real / name)]
    films = as_films(images)
    names = Anatomy.load().names
    assert films.visible.sum(1).tolist() == [3, 3, 3, 2]
    np.testing.assert_allclose(films.boxes[0, names.index("left lung")], images[0].boxes["left lung"], atol=1e-6)
    assert films.pixels.shape[1] == films.pixels.shape[2] and 0 <= films.pixels.min() < films.pixels.max() <= 1


@pytest.mark.parametrize(("options", "message"), [
    (["--steps", "0"], "--steps=0: must be at least 1"), (["--films", "0"], "--films=0: must be at least 1"),
    (["--out", str(Path(FILES) / "x.safetensors")], "are not shipped: choose another folder"),
    (["--data", "absent"], "absent"),
])  # fmt: skip
def test_errors_are_one_line(real, tmp_path, options, message, capsys):
    assert main(["mixed_boxes", "--data", str(real), "--out", str(tmp_path / "x.safetensors"), *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
