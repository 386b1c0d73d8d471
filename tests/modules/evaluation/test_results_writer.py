"""Collecting and writing the results of an evaluation; tests/test_main_test.py tests the files as a whole."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.loaders import evaluation_loader
from modules.config import load_config
from modules.evaluation import results_writer
from modules.evaluation.results import results_folder, run_folder
from modules.evaluation.results_writer import (
    build_metrics,
    check_annotated_attributes,
    dataset_name,
    list_name,
    write_results,
)
from tests.support.evaluation.fake_evaluation import CPU, evaluate, make_evaluator, open_split
from tests.support.evaluation.fake_model import FakeModel
from tests.support.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "folder", train=4, val=1, test=3, image_size=32)


def test_a_data_set_without_a_name_has_its_folders(root, tmp_path):
    assert dataset_name(root) == "tiny"
    (tmp_path / "dataset.yaml").write_text("counts: {}\n")
    assert dataset_name(tmp_path) == tmp_path.name


def test_the_list_of_a_data_set_is_named_if_it_has_one(root, tmp_path):
    assert list_name(root) is None
    (tmp_path / "dataset.yaml").write_text("name: mimic_cxr\nlist: r2gen, frontal images only\n")
    assert list_name(tmp_path) == "r2gen, frontal images only"


def test_annotated_graphs_without_attributes_of_the_vocabulary_give_a_warning(root):
    dataset = open_split(root)
    vocabulary = dataset.vocabularies.attributes
    records = evaluate(dataset, FakeModel(dataset.vocabularies, ["no edema ."]), resamples=0).records
    assert check_annotated_attributes(records, vocabulary) is None
    without_attributes = [
        replace(record, annotation=replace(
            record.annotation, attributes=np.zeros_like(record.annotation.attributes)
        ))
        for record in records
    ]
    assert "none of the checkpoint's attributes" in check_annotated_attributes(without_attributes, vocabulary)
    unannotated = [
        replace(record, annotation=replace(record.annotation, graph_known=False)) for record in without_attributes
    ]
    assert check_annotated_attributes(unannotated, vocabulary) is None


def test_results_of_another_data_set_have_a_folder_in_the_run_folder():
    run = Path("results/demo")
    assert run_folder(run / "best") == run_folder(run / "last") == run_folder(run) == run
    assert results_folder(run / "best", Path("data/iu_xray"), Path("other/iu_xray")) == run
    assert results_folder(run / "best", Path("data/iu_xray"), Path("data/mimic_cxr")) == run / "on_mimic_cxr"


def test_the_page_shows_the_images_of_its_studies_although_one_was_skipped(root, tmp_path, monkeypatch):
    copy = shutil.copytree(root, tmp_path / "copy")
    (copy / "images/test0_0.png").write_bytes(b"not an image")
    dataset, evaluator = open_split(copy), make_evaluator(open_split(root))
    loader = evaluation_loader(dataset, 2, 0, 0, 1, dataset.vocabularies.tokenizer.pad_id, False, most_skipped=1)
    evaluation = evaluator.evaluate(
        FakeModel(dataset.vocabularies, ["no edema ."]), loader, CPU, meteor=False, resamples=0
    )
    metrics = build_metrics(evaluator, evaluation, {}, load_config(None), "test", tmp_path / "run", copy)
    assert metrics["studies"] == 2 and metrics["skipped"].keys() == {"test0"}
    assert metrics["higher_is_better"].keys() == metrics["scores"].keys()
    better = [metrics["higher_is_better"][name] for name in ("bleu_4", "most_frequent_share", "generated_words_mean")]
    assert better == [True, False, None]
    shown = []
    monkeypatch.setattr(results_writer, "write_report_page", lambda path, metrics, cases, *rest: shown.extend(cases))
    write_results(tmp_path / "out", {"predicted": metrics}, [evaluation], dataset, dict)
    assert len(shown) == 2
    for case in shown:
        number = int(case.record.study_id.removeprefix("test"))
        np.testing.assert_array_equal(case.image, dataset[number].images[0].numpy())
