"""Reports for ReXrank's studies: which images are taken, and how an interrupted run resumes."""

from pathlib import Path

import pytest

from data.errors import UserError
from modules.evaluation.display import format_report
from modules.evaluation.formats.rexrank import read_studies
from modules.inference.given_context import GivenContext
from modules.inference.predictor import Predictor
from modules.inference.rexrank.dataset import write_rexrank_input
from modules.inference.rexrank.prediction import Journal, fingerprint, finish_journal, predict_studies, study_images
from tests.support.context.tiny_context import save_context_run
from tests.support.tiny_run import write_tiny_run


@pytest.mark.parametrize("study, views, expected", [
    ({"image_path": ["a.png", "b.png"], "key_image_path": "b.png"}, 1, ["b.png"]),
    ({"image_path": ["a.png", "b.png"], "key_image_path": "b.png"}, 2, ["b.png", "a.png"]),
    ({"image_path": ["a.png", "b.png", "c.png"], "frontal_lateral": ["Lateral", "Frontal", "Frontal"]}, 1, ["b.png"]),
    ({"image_path": ["a.png", "b.png", "c.png"], "frontal_lateral": ["Frontal", "Frontal", "Lateral"]}, 2,
     ["a.png", "c.png"]),
    ({"image_path": ["a.png", "b.png"]}, 2, ["a.png", "b.png"]),
    ({"image_path": "/p10/a.png"}, 2, ["p10/a.png"]),
    ({"key_image_path": "a.png"}, 2, ["a.png"]),
])
def test_the_images_that_a_model_takes(study, views, expected):
    assert study_images(study, Path("root"), views, "study s") == tuple(Path("root") / path for path in expected)


@pytest.mark.parametrize("study, message", [
    ({}, "study s names no image"), ({"image_path": []}, "names no image"), ({"image_path": None}, "names no image"),
    ({"image_path": [1]}, "is not a list of texts"), ({"image_path": {"a": 1}}, "is not a list of texts"),
])
def test_a_study_without_images_is_one_line(study, message):
    with pytest.raises(UserError, match=message):
        study_images(study, Path(), 1, "study s")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A predictor, ReXrank's input of the test split, and the folder of its images."""
    folder = tmp_path_factory.mktemp("rexrank")
    run_folder, root = write_tiny_run(folder, lively=True)
    assert write_rexrank_input(root, "test", folder / "in.json", folder / "images") == 3
    return Predictor(run_folder, "cpu"), read_studies(folder / "in.json"), folder / "images"


def test_every_study_gets_the_report_of_the_predictor(run, tmp_path):
    predictor, studies, images = run
    predicted, failed = predict_studies(predictor, studies, images, tmp_path / "out.json")
    paths = [images / study["key_image_path"] for study in studies.values()]
    expected = [format_report(prediction.report) for prediction in predictor.predict(paths)]
    assert failed == [] and [study.pop("model_prediction") for study in predicted.values()] == expected
    assert predicted == studies


def test_a_model_that_reads_indications_is_given_those_of_the_context(tmp_path):
    run_folder, root = save_context_run(tmp_path)
    write_rexrank_input(root, "test", tmp_path / "in.json", tmp_path / "images")
    predictor, studies = Predictor(run_folder, "cpu"), read_studies(tmp_path / "in.json")
    given = []
    read = predictor.read
    predictor.read = lambda study: given.append(study.context) or read(study)
    predict_studies(predictor, studies, tmp_path / "images", tmp_path / "out.json")
    assert given == [GivenContext("Chronic cough."), GivenContext("Rule out effusion."), GivenContext()]
    broken = {"test0": studies["test0"] | {"context": 3}}
    with pytest.raises(UserError, match="study test0: 'context' is not text"):
        predict_studies(predictor, broken, tmp_path / "images", tmp_path / "out.json")


def test_a_model_without_context_ignores_it(run, tmp_path):
    predictor, studies, images = run
    with_context = {name: study | {"context": "Indication: Fever."} for name, study in studies.items()}
    predicted, _ = predict_studies(predictor, with_context, images, tmp_path / "with.json")
    expected, _ = predict_studies(predictor, studies, images, tmp_path / "without.json")
    assert [study["model_prediction"] for study in predicted.values()] == [
        study["model_prediction"] for study in expected.values()
    ]


def test_an_interrupted_run_resumes_with_the_same_model_only(run, tmp_path, monkeypatch, capsys):
    predictor, studies, images = run
    out, read = tmp_path / "out.json", []
    original = predictor.read

    def read_or_stop(study):
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(study.name)
        return original(study)

    with monkeypatch.context() as patch:
        patch.setattr(predictor, "read", read_or_stop)
        with pytest.raises(KeyboardInterrupt):
            predict_studies(predictor, studies, images, out)
    journal = tmp_path / ".out.json.partial.jsonl"
    with journal.open("a") as file:
        file.write('{"id": "te')  # a crash in the middle of a line
    expected, _ = predict_studies(predictor, studies, images, tmp_path / "other.json")
    with monkeypatch.context() as patch:
        patch.setattr(predictor, "read", lambda study: read.append(study.name) or original(study))
        assert predict_studies(predictor, studies, images, out) == (expected, [])
    assert sorted(read) == sorted(studies) and "Resuming: 2 of 3 studies" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(predictor, "beam_size", 1)
        patch.setattr(predictor, "read", lambda study: read.append(study.name) or original(study))
        predict_studies(predictor, studies, images, out)
    assert len(read) == 2 * len(studies)
    finish_journal(out)
    assert not journal.exists()


def test_a_study_that_cannot_be_read_has_an_empty_report(run, tmp_path, capsys):
    predictor, studies, images = run
    broken = studies | {"test1": studies["test1"] | {"key_image_path": "nowhere.png"}}
    predicted, failed = predict_studies(predictor, broken, images, tmp_path / "out.json")
    assert failed == ["test1"] and predicted["test1"]["model_prediction"] == ""
    assert predicted["test2"]["model_prediction"] and "study test1: " in capsys.readouterr().err


def test_the_fingerprint_is_that_of_the_weights(run, tmp_path):
    predictor, *_ = run
    before = fingerprint(predictor.model)
    other = Predictor(write_tiny_run(tmp_path, "seed=6")[0], "cpu")
    assert fingerprint(predictor.model) == before != fingerprint(other.model)


def test_a_damaged_line_of_the_journal_is_not_used(tmp_path):
    out = tmp_path / "out.json"
    journal = Journal(out, {"model": "a"})
    for name in ("one", "two", "three"):
        journal.add(name, f"clear lungs {name}")
    journal.close()
    path = tmp_path / ".out.json.partial.jsonl"
    path.write_text(path.read_text().replace("lungs two", "lungs twa") + "[" * 9999 + "\n3\n")
    again = Journal(out, {"model": "a"})
    again.close()
    assert again.reports == {"one": "clear lungs one", "three": "clear lungs three"}
    # Resuming rewrites the journal, without the damaged lines.
    assert path.read_text().count("\n") == 3
    other = Journal(out, {"model": "b"})
    other.close()
    assert other.reports == {}


def test_a_journal_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write"):
        Journal(tmp_path / "file" / "out.json", {})
