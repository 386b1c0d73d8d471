"""main_predict.py on folders of real X-rays: what is counted, on invented images."""

import csv

import numpy as np
import pytest
from PIL import Image

from benchmarks.__main__ import main
from tests.support.tiny_run import write_tiny_run

VIEWS = {"0.png": "PA", "1.png": "AP", "2.png": "L", "damaged.png": "PA"}


@pytest.fixture
def films(tmp_path):
    """A list of two frontal images, a lateral one and a damaged file, all noise, in a folder of data sets."""
    folder = tmp_path / "real" / "films"
    (folder / "images").mkdir(parents=True)
    for number, name in enumerate(VIEWS):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("image", "view"), *VIEWS.items()])
    return folder


def predict(tmp_path) -> int:
    checkpoint, _ = write_tiny_run(tmp_path)
    return main(["predict_films", "--checkpoint", str(checkpoint), "--data", str(tmp_path / "real")])


def test_doubted_images_are_counted_by_view(tmp_path, films, capfd):
    assert predict(tmp_path) == 0
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert ["films", "frontal", "3", "3", "3", "100.0%"] in lines
    assert ["films", "lateral", "1", "1", "1", "100.0%"] in lines


def test_an_image_without_a_result_is_an_error_after_the_table(tmp_path, films, capfd):
    (films / "images" / "damaged.png").write_bytes(b"no image")
    assert predict(tmp_path) == 1
    output = capfd.readouterr()
    assert ["films", "frontal", "3", "2", "2", "100.0%"] in [line.split() for line in output.out.splitlines()]
    assert output.err.splitlines()[-1].startswith("error: 1 images have no result, films/damaged.png among them")


def test_a_folder_without_lists_is_an_error(tmp_path, capsys):
    assert main(["predict_films", "--checkpoint", "x", "--data", str(tmp_path)]) == 1
    assert "contains no list of X-rays" in capsys.readouterr().err
