"""docs/evaluation.md defines every score, and its Python example runs."""

import re
from pathlib import Path

from modules.evaluation.baselines.names import NAMES
from modules.evaluation.metrics.comparers import RADGRAPH_NAMES
from modules.evaluation.metrics.directions import arrow
from modules.evaluation.metrics.packages.radeval_scores import (
    _SCORES,
    CORPUS,
    INVERSE_MEAN,
    MEAN,
    METRICS,
    describe_score,
)
from modules.evaluation.scoring import SCORE_NAMES
from modules.evaluation.text_protocol import PROTOCOLS

TEXT = (Path(__file__).resolve().parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")


def defined():
    """Return the names in the first column of the document's tables, except that of the lists of studies."""
    without_lists = re.sub(r"^\| `list` \|.*?\n\n", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (`[^|]+`) \| (.+) \|$", without_lists, re.MULTILINE)
    assert all(definition.strip() for _, definition in rows)
    return [name for names, _ in rows for name in re.findall(r"`(\w+)`", names)]


def test_every_score_is_defined_once_and_nothing_else_is():
    names = defined()
    assert len(names) == len(set(names))
    assert set(names) == {*SCORE_NAMES, *RADGRAPH_NAMES, *NAMES, *PROTOCOLS}


def test_the_example_of_a_score_by_another_model_runs():
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict = {}
    exec(block, names)
    assert names["scored"].scores == {"shared_words": 0.75}
    assert names["scored"].intervals["shared_words"] == (0.5, 1)


def test_scores_of_radeval_are_named_with_weights_and_direction_and_level():
    row = r"^\| ([^|`]+) \| `(\w+)` \| ([^|]+) \| ([^|]+) \| (mean|1 / mean|corpus) \|$"
    rows = re.findall(row, TEXT, re.MULTILINE)
    assert {metric for _, metric, *_ in rows} == set(METRICS)
    documented = {}
    for _, _, scores, weights, level in rows:
        assert weights
        documented |= {name: (direction, level) for name, direction in re.findall(r"`(\w+)` (\S)(?:, |$)", scores)}
    levels = {MEAN: "mean", INVERSE_MEAN: "1 / mean", CORPUS: "corpus"}
    known = {name: describe_score(name) for name in _SCORES}
    assert documented == {
        name: (arrow(score.higher_is_better), levels[score.level]) for name, score in known.items()
    }
