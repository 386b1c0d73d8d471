"""Collecting and writing the results of an evaluation; tests/test_main_test.py tests the files as a whole."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modules.evaluation.results import results_folder, run_folder
from modules.evaluation.results_writer import check_annotated_attributes, dataset_name
from tests.support.evaluation.fake_evaluation import evaluate, open_split
from tests.support.evaluation.fake_model import FakeModel
from tests.support.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "folder", train=4, val=1, test=3, image_size=32)


def test_a_data_set_without_a_name_has_its_folders(root, tmp_path):
    assert dataset_name(root) == "tiny"
    (tmp_path / "dataset.yaml").write_text("counts: {}\n")
    assert dataset_name(tmp_path) == tmp_path.name


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
