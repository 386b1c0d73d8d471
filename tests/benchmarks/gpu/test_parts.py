"""Parts run in processes of their own, keep what they published, and end before the deadline."""

import time

import pytest

from benchmarks.gpu.parts import LEAST_SECONDS, Outcome, Part, run_part, run_parts
from tests.support.benchmarks import parts


@pytest.fixture(autouse=True)
def light_processes(monkeypatch):
    """Do not import all benchmarks into the processes."""
    context = "multiprocessing.context.ForkServerContext.set_forkserver_preload"
    monkeypatch.setattr(context, lambda self, names: None, raising=False)


@pytest.mark.parametrize(("measure", "values", "missing"), [
    (parts.succeed, {"first": 1, "second": 2}, None),
    (parts.fail, {"first": 1}, "failed: MemoryError: no memory"),
    (parts.decline, {}, "no GPU"),
    (parts.die, {"first": 1}, "its process died (out of memory?)"),
])
def test_part_keeps_what_it_published_and_says_what_is_missing(measure, values, missing):
    outcome = run_part(Part("one", measure, 1), limit=60)
    assert (outcome.values, outcome.missing) == (values, missing)


def test_part_is_stopped_at_its_limit():
    start = time.monotonic()
    outcome = run_part(Part("one", parts.hang, 1), limit=3)
    assert outcome.missing == "stopped after its 3 s" and time.monotonic() - start < 60


def limits_and_reasons(monkeypatch, seconds: float, used: float) -> tuple[dict[str, float], dict[str, str]]:
    """Run parts of weights 1, 2, 1 that take at most `used` seconds of a clock.

    Return the limits of those that ran, and why the others did not.
    """
    clock, limits, reasons = [0.0], {}, {}

    def run(part: Part, limit: float) -> Outcome:
        limits[part.name] = limit
        clock[0] += min(limit, used)
        return Outcome()

    monkeypatch.setattr("benchmarks.gpu.parts.run_part", run)
    monkeypatch.setattr("benchmarks.gpu.parts.time.monotonic", lambda: clock[0])
    weights = {"a": 1, "b": 2, "c": 1}
    run_parts([Part(name, parts.succeed, weight) for name, weight in weights.items()], seconds,
              lambda name, outcome: outcome.missing and reasons.update({name: outcome.missing}))
    assert clock[0] <= seconds
    assert sorted([*limits, *reasons]) == ["a", "b", "c"]
    return limits, reasons


def test_unused_time_is_left_to_later_parts(monkeypatch):
    # Two seconds are kept to stop a process.
    limits, reasons = limits_and_reasons(monkeypatch, 102, used=10)
    assert limits == {"a": 25, "b": pytest.approx(90 * 2 / 3), "c": 80} and reasons == {}


@pytest.mark.parametrize(("seconds", "skipped"), [
    (0, ["a", "b", "c"]), (6, ["a", "b", "c"]), (8, ["a", "b"]), (20, ["a"]), (23, []),
])
def test_parts_with_too_little_time_are_skipped_with_the_reason(monkeypatch, seconds, skipped):
    limits, reasons = limits_and_reasons(monkeypatch, seconds, used=1000)
    assert reasons == {name: f"no time left of {seconds} s" for name in skipped}
    assert all(limit >= LEAST_SECONDS for limit in limits.values())
