"""docs/evaluation.md defines every score, and its Python example runs."""

import re
from pathlib import Path

from modules.evaluation.baselines.names import NAMES
from modules.evaluation.metrics.comparers import RADGRAPH_NAMES
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
