"""The scores of metrics.json as text."""

import re

import numpy as np
import pytest

from modules.evaluation.metrics.text_scores import TEXT_NAMES
from modules.evaluation.results_writer import compare_graph_sources
from modules.evaluation.score_tables import format_context_table, format_graph_table, format_score_table
from modules.evaluation.scoring import SCORE_GROUPS, SCORE_NAMES

METRICS = {
    "dataset": "tiny", "split": "test", "studies": 3, "graph_source": "predicted", "graph_in": "decoder",
    "annotated_graphs": 2, "box_source": "atlas", "beam_size": 3, "protocol": "r2gen", "seed": 7,
    "scores": dict.fromkeys(SCORE_NAMES, 0.12345) | {"meteor": None}, "absent": {"meteor": "there is no Java"},
    "intervals": dict.fromkeys(SCORE_NAMES, (0.1, 0.15)) | {"meteor": None},
    "baselines": {"blind": dict.fromkeys(SCORE_NAMES, 0.5), "nearest_image": dict.fromkeys(SCORE_NAMES)},
}


def rows_of(table):
    return {line.split()[0]: re.split(r"  +", line)[1:] for line in table.splitlines() if line and line[0] != " "}


def test_the_table_shows_every_score_its_interval_its_baselines_and_what_is_absent():
    table = format_score_table(METRICS)
    lines, rows = table.splitlines(), rows_of(table)
    for text in ("tiny", "test", "graph predicted", "boxes atlas", "protocol r2gen", "beam 3", "seed 7", "3 studies"):
        assert text in lines[0]
    assert "without graph" not in lines[0] and "list" not in lines[0]
    assert format_score_table(METRICS | {"list": "r2gen"}).startswith("tiny (list r2gen), split test, 3 studies;")
    assert set(SCORE_NAMES) <= set(rows)
    assert [line[3:] for line in lines if line.startswith("-- ")] == list(SCORE_GROUPS)
    assert rows["cider"] == ["0.123", "[0.100, 0.150]", "0.500", "-"]
    assert rows["meteor"] == ["-", "0.500", "-"]
    assert lines[-1].endswith("meteor is absent: there is no Java")
    assert "graph predicted (of a model without graph)" in format_score_table(METRICS | {"graph_in": "none"})


def test_graph_sources_are_compared_with_the_first():
    oracle = METRICS | {
        "graph_source": "oracle", "box_source": "oracle_boxes", "scores": dict.fromkeys(SCORE_NAMES, 0.5),
    }
    steps = np.linspace(0, 1, 101)
    gaps = 0.37655 + 0.1 * (steps - 0.5)
    resampled = {"predicted": {"cider": steps}, "oracle": {"cider": steps + gaps, "rouge_l": steps}}
    compared = compare_graph_sources({"predicted": METRICS, "oracle": oracle}, resampled)
    # Both scores vary alike over the resamples, so the interval of their difference is much narrower than theirs.
    assert compared["oracle"]["interval"]["cider"] == pytest.approx((0.329, 0.424), abs=1e-3)
    assert compared["predicted"]["interval"]["cider"] == (0, 0) and compared["oracle"]["interval"]["rouge_l"] is None
    assert compared["oracle"]["difference"]["cider"] == pytest.approx(0.37655)
    assert compared["oracle"]["difference"]["meteor"] is compared["predicted"]["difference"]["meteor"] is None
    assert compared["predicted"]["difference"]["cider"] == 0
    table = format_graph_table(METRICS | {"graph_sources": compared})
    assert "oracle: boxes oracle_boxes; 2 of 3 studies have an annotated graph" in table
    rows = rows_of(table)
    assert rows["score"] == ["predicted", "oracle", "difference", "95 % interval"]
    assert rows["cider"] == ["0.123", "0.500", "+0.377", "[0.329, 0.424]"] and rows["meteor"] == ["-", "0.500", "-"]


@pytest.mark.parametrize(("key", "format_table"), [
    ("graph_sources", format_graph_table), ("contexts", format_context_table),
])
def test_sections_are_compared_below_complete_reports(key, format_table):
    def compared(value, names):
        return {
            "scores": dict.fromkeys(names, value), "difference": dict.fromkeys(names, value - 0.5),
            "interval": dict.fromkeys(names, (-0.5, 0.0)), "box_source": "atlas", "annotated_graphs": 0,
        }

    complete, of_section = (
        {name: compared(value, names) for name, value in (("all", 0.5), ("none", 0.25))}
        for names in (SCORE_NAMES, TEXT_NAMES)
    )
    table = format_table(METRICS | {key: complete, "sections": {"impression": {key: of_section}}})
    whole, _, section = table.partition("The impression alone")
    assert set(SCORE_NAMES) <= set(rows_of(whole))
    assert rows_of(section)["score"] == ["all", "none", "difference", "95 % interval"]
    assert set(TEXT_NAMES) == set(rows_of(section)) - {"score"}
    assert rows_of(section)["cider"] == ["0.500", "0.250", "-0.250", "[-0.500, 0.000]"]
