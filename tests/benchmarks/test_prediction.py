"""The benchmarks of predictions: grounding of sentences, seconds per report, and the check for frontal images."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.grounding import Grounding, score
from data.sources.phantom.dataset import PhantomSettings, prepare_phantom
from data.sources.phantom.patient import draw_patient
from data.sources.phantom.physics import simulate
from modules.inference.prediction import PredictedSentence, Prediction
from tests.support.tiny_run import write_tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder and the root of its data set."""
    return write_tiny_run(tmp_path_factory.mktemp("run"), lively=True)


def prediction(*sentences):
    predicted = [PredictedSentence(text, regions, 1.0) for text, regions in sentences]
    return Prediction("a", "", predicted, [], {}, (1, 1), [])


def test_a_sentence_is_right_if_it_names_the_region_that_it_attended_to_most():
    predictions = [
        prediction(
            ("the heart is enlarged .", {"cardiac silhouette": 0.6, "spine": 0.4}),
            ("the heart is enlarged .", {"spine": 0.6, "cardiac silhouette": 0.4}),
            ("no change since yesterday .", {"spine": 1.0}),
        ),
        prediction(("the heart is enlarged .", {}), ("the spine is degenerated .", {"spine": 0.9, "svc": 0.1})),
    ]
    assert score(predictions) == Grounding(3, 2, "cardiac silhouette", 2, 2)
    assert score([]) == Grounding(0, 0, "", 0, 0)


def test_grounding_prints_both_shares(run, capsys):
    assert main(["grounding", "--checkpoint", str(run[0]), "--data", str(run[1]), "--split", "train"]) == 0
    printed = capsys.readouterr().out
    assert "split train, 8 studies; graph predicted, beam 2, seed 5" in printed
    assert "attended most to a region that they are about: " in printed and "always '" in printed


def test_grounding_needs_a_graph(tmp_path, capsys):
    run_folder, root = write_tiny_run(tmp_path, "model.graph_in=none", lively=True)
    assert main(["grounding", "--checkpoint", str(run_folder), "--data", str(root)]) == 1
    assert "a model with a graph" in capsys.readouterr().err


def test_predict_prints_a_line_for_each_way(run, tmp_path, capsys):
    images = str(run[1] / "images")
    arguments = ["predict", "--checkpoint", str(run[0]), "--images", images, "--count", "3", "--threads", "1"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "3 images" in lines[0]
    assert [line[:24].strip() for line in lines[2:]] == [
        "loading the model", "first report", "one by one, per image", "as a folder, per image",
    ]
    assert all(float(number) > 0 for line in lines[2:] for number in line[24:].split())
    assert main([*arguments[:4], str(tmp_path)]) == 1


def test_frontal_check_counts_doubts(tmp_path, capsys):
    phantom = tmp_path / "phantom"
    prepare_phantom(phantom, PhantomSettings(studies=10, image_size=64, two_views=True, prevalence=0), workers=1)
    images = sorted((phantom / "images").glob("*.png"))
    (tmp_path / "films/images").mkdir(parents=True)
    views = ["PA" if "lateral" not in image.name else "L" for image in images[:4]]
    for image in images[:4]:
        shutil.copy(image, tmp_path / "films/images")
    entries = [{"image_path": [image.name], "view": view} for image, view in zip(images, views, strict=False)]
    (tmp_path / "films/annotation.json").write_text(json.dumps({"train": entries[:2]}))
    (tmp_path / "films/images_without_notes.json").write_text(json.dumps(entries[2:]))
    capsys.readouterr()  # the output of the preparation
    assert main(["frontal_check", "--films", str(tmp_path / "films"), "--phantom", str(phantom)]) == 0
    counts = [line.rsplit(maxsplit=2) for line in capsys.readouterr().out.splitlines()[1:]]
    assert [(kind.strip(), number) for kind, number, _ in counts] == [
        ("real frontal", "2"), ("real lateral", "2"), ("phantom frontal", "10"), ("phantom lateral", "10"),
    ]
    assert counts[0][2] == counts[2][2] == "0.0%"


def test_frontal_check_counts_each_data_set_of_a_folder(tmp_path, capsys):
    for name in ("jsrt", "nih_cxr14"):
        (tmp_path / name / "images").mkdir(parents=True)
        for number in range(2):
            view = simulate(draw_patient(np.random.default_rng(number)), (), 64, number, lateral=number == 1)
            Image.fromarray(view.image).save(tmp_path / name / "images" / f"{number}.png")
    (tmp_path / "jsrt/annotations.json").write_text(json.dumps([{"image": "0.png"}, {"image": "1.png", "view": "L"}]))
    (tmp_path / "nih_cxr14/labels.csv").write_text("image,view\n0.png,PA\n")
    assert main(["frontal_check", "--films", str(tmp_path)]) == 0
    counts = [line.rsplit(maxsplit=2) for line in capsys.readouterr().out.splitlines()[1:]]
    assert [(kind.strip(), number) for kind, number, _ in counts] == [
        ("jsrt frontal", "1"), ("jsrt lateral", "1"), ("nih_cxr14 frontal", "1"),
    ]


def test_frontal_check_names_what_is_missing(tmp_path, capsys):
    assert main(["frontal_check"]) == 1
    assert main(["frontal_check", "--films", str(tmp_path)]) == 1
    (tmp_path / "annotation.json").write_text('{"train": [{"view": "PA"}]}')
    assert main(["frontal_check", "--films", str(tmp_path)]) == 1
    complaints = capsys.readouterr().err.splitlines()
    assert len(complaints) == 3 and "give --films" in complaints[0] and "does not list images" in complaints[2]
