"""What the errors of the predicted graph cost: annotated parts take the place of predicted ones."""

import dataclasses

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.graph_errors import ATTRIBUTES, BOXES, REGIONS, ROWS, SCORES, _with_parts
from data.loaders import evaluation_loader
from models.outputs import BoxSource, GraphSource
from modules.builders import build_dataset, build_evaluator, load_model
from modules.checkpoint import load_checkpoint
from tests.support.tiny_run import write_tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder and the root of its data set."""
    return write_tiny_run(tmp_path_factory.mktemp("run"), lively=True)


@pytest.fixture(scope="module")
def generate(run):
    """Generates the reports of the training split with an evaluator made from that of the run.

    Of the studies whose graph and boxes are annotated, it returns the reports and what the graphs are made of: boxes,
    attributes and selected regions.
    """
    checkpoint = load_checkpoint(run[0])
    config, vocabularies = checkpoint.config, checkpoint.vocabularies
    model = load_model(checkpoint, config)
    evaluator = build_evaluator(config, vocabularies, 2)
    dataset = build_dataset(config, vocabularies, "train")

    def with_evaluator(make):
        graphs = []
        handle = model.graph.encoder.register_forward_pre_hook(lambda _, arguments: graphs.append(arguments[1:4]))
        loader = evaluation_loader(dataset, len(dataset), 0, 0, 1, vocabularies.tokenizer.pad_id, pin_memory=False)
        records = make(evaluator).generate(model, loader, torch.device("cpu"))
        handle.remove()
        ((boxes, attributes, selected),) = graphs
        known = [record.annotation.graph_known and record.annotation.boxes_known for record in records]
        assert sum(known) == 6
        reports = [record.generated for record, is_known in zip(records, known, strict=True) if is_known]
        return reports, {BOXES: boxes[known], ATTRIBUTES: attributes[known], REGIONS: selected[known]}

    return with_evaluator


@pytest.fixture(scope="module")
def oracle(generate):
    return generate(lambda evaluator: dataclasses.replace(
        evaluator, graph_source=GraphSource.ORACLE, box_source=BoxSource.ORACLE_BOXES
    ))


def test_all_parts_make_the_annotated_graph(generate, oracle):
    assert generate(lambda evaluator: _with_parts(evaluator, (BOXES, REGIONS, ATTRIBUTES)))[0] == oracle[0]
    predicted = generate(lambda evaluator: _with_parts(evaluator, ()))[0]
    assert predicted == generate(lambda evaluator: evaluator)[0] != oracle[0]


# The attributes of a region are predicted if it is visible, which a selected region and one with an annotated box are.
@pytest.mark.parametrize(("part", "unaffected"), [(REGIONS, [BOXES]), (ATTRIBUTES, [BOXES, REGIONS]), (BOXES, [])])
def test_one_part_leaves_the_others_as_predicted(generate, oracle, part, unaffected):
    predicted = generate(lambda evaluator: evaluator)[1]
    partly = generate(lambda evaluator: _with_parts(evaluator, (part,)))[1]
    where = oracle[1][REGIONS]  # parts of other regions are not annotated
    assert not torch.equal(predicted[part][where], oracle[1][part][where])
    assert torch.equal(partly[part][where], oracle[1][part][where])
    assert all(torch.equal(partly[other], predicted[other]) for other in unaffected)


def test_the_table_has_a_row_for_each_combination(run, capsys):
    assert main(["graph_errors", "--checkpoint", str(run[0]), "--split", "train", "eval.beam_size=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("annotated"))
    assert "split train, 8 studies; boxes otherwise localizer, beam 1, protocol r2gen, seed 5" in lines[start - 1]
    assert lines[start].split()[1:] == list(SCORES)
    rows = lines[start + 1 :]
    assert [row[:34].strip() for row in rows] == [", ".join(parts) or "nothing" for parts in ROWS]
    assert all(len(row[34:].split()) == len(SCORES) for row in rows)


def test_a_model_without_graph_is_refused(tmp_path, capsys):
    run_folder, _ = write_tiny_run(tmp_path, "model.graph_in=none")
    assert main(["graph_errors", "--checkpoint", str(run_folder)]) == 1
    assert "has no graph to write reports from" in capsys.readouterr().err
