"""The interface for scores by other models, with stand-ins for their packages."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest

from data.errors import UserError
from modules.evaluation.metrics.comparers import RADGRAPH_NAMES, RadEvalComparer, RadGraphComparer, comparer_scores


class StandInF1:
    """Returns values like radgraph's F1RadGraph: the share of common words, its half and its quarter."""

    def __init__(self, reward_level, model_type, model_cache_dir):
        assert (reward_level, model_type) == ("all", "radgraph-xl")
        self.folder = model_cache_dir
        if model_cache_dir.endswith("broken"):
            raise OSError("We couldn't connect to the hub\nto load the encoder")

    def __call__(self, refs, hyps):
        shares = [
            len(set(reference.split()) & set(generated.split())) / max(1, len(set(reference.split())))
            for reference, generated in zip(refs, hyps, strict=True)
        ]
        levels = tuple([share / part for share in shares] for part in (1, 2, 4))
        return tuple(np.mean(level) for level in levels), levels, [], []


@pytest.fixture
def package(monkeypatch):
    module = ModuleType("radgraph")
    module.__spec__ = ModuleSpec("radgraph", loader=None)
    module.F1RadGraph = StandInF1
    monkeypatch.setitem(sys.modules, "radgraph", module)


def write_model(folder):
    (folder / "radgraph-xl").mkdir(parents=True)
    (folder / "radgraph-xl" / "weights.th").write_bytes(b"")
    return folder


def test_scores_are_means_over_the_pairs(package, tmp_path):
    comparer = RadGraphComparer(write_model(tmp_path / "models"))
    part = comparer_scores(comparer, ["a b", "c d"], ["a b", "c x"])
    scores, absent = part.compute(2)
    assert scores == dict(zip(RADGRAPH_NAMES, (0.75, 0.375, 0.1875), strict=True)) and not absent
    assert part.per_study["radgraph_simple"].tolist() == [1, 0.5]
    low, high = part.evaluate(2, resamples=50).intervals["radgraph_simple"]
    assert (low, high) == (0.5, 1)


def test_a_pair_without_a_reference_is_left_out(package, tmp_path):
    comparer = RadGraphComparer(write_model(tmp_path / "models"))
    part = comparer_scores(comparer, ["a b", " "], ["a x", "c"])
    assert part.compute(2)[0]["radgraph_simple"] == 0.5 and np.isnan(part.per_study["radgraph_simple"][1])
    scores, absent = comparer_scores(comparer, ["", ""], ["a", "b"]).compute(2)
    assert set(scores.values()) == {None} and "reference" in absent["radgraph_simple"]


def test_what_is_missing_is_said_in_one_line(package, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"No RadGraph weights at .*weights\.th: unpack radgraph-xl\.tar\.gz"):
        RadGraphComparer(tmp_path)
    with pytest.raises(UserError, match="couldn't connect to the hub") as raised:
        RadGraphComparer(write_model(tmp_path / "broken"))
    assert "\n" not in str(raised.value)
    monkeypatch.setattr("modules.evaluation.metrics.comparers.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install radgraph"):
        RadGraphComparer(tmp_path)


class StandInRadEval:
    """Returns values like RadEval with per_sample=True: one list per metric, None for a pair that it cannot score."""

    def __init__(self, metrics, per_sample, show_progress):
        assert per_sample and not show_progress
        if "unknown" in metrics:
            raise ValueError("Unknown metric 'unknown'. Available: []\nand more")
        self.metrics = metrics

    def __call__(self, refs, hyps):
        assert isinstance(refs, list) and isinstance(hyps, list)
        if "weights" in self.metrics:
            raise OSError("We couldn't connect to the hub\nto load the weights")
        if "whole" in self.metrics:
            return {"whole": 0.5}
        pairs = zip(refs, hyps, strict=True)
        equal = [None if "?" in generated else float(reference == generated) for reference, generated in pairs]
        return {"bleu": equal, "bertscore": [0.25] * len(refs)}


@pytest.fixture
def radeval(monkeypatch):
    module = ModuleType("radeval")
    module.__spec__ = ModuleSpec("radeval", loader=None)
    module.RadEval = StandInRadEval
    monkeypatch.setitem(sys.modules, "radeval", module)


def test_scores_of_radeval_are_means_over_the_pairs(radeval):
    part = comparer_scores(RadEvalComparer(["bleu", "bertscore"]), ["a", "b", "c", ""], ["a", "x", "?", "y"])
    scores, _ = part.compute(4)
    assert scores == {"radeval_bleu": 0.5, "radeval_bertscore": 0.25}
    np.testing.assert_equal(part.per_study["radeval_bleu"], [1, 0, np.nan, np.nan])


def test_what_radeval_lacks_is_said_in_one_line(radeval, monkeypatch):
    with pytest.raises(UserError, match="cannot load unknown \\(Unknown metric 'unknown'") as raised:
        RadEvalComparer(["unknown"])
    assert "\n" not in str(raised.value)
    for metric, message in (("weights", "couldn't connect to the hub"), ("whole", "not return one number per report")):
        with pytest.raises(UserError, match=message) as raised:
            RadEvalComparer([metric]).compare(["a", "b"], ["a", "b"])
        assert "\n" not in str(raised.value)
    monkeypatch.setattr("modules.evaluation.metrics.comparers.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install radeval"):
        RadEvalComparer(["bleu"])
