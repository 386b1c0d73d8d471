"""The campaign: promises in turn, failures with what repeats them, and a short real run."""

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.chaos import command, promises
from benchmarks.chaos.command import format_tallies, run_campaign
from benchmarks.chaos.disks import NotPossible, small_disk
from benchmarks.chaos.processes import Outcome
from benchmarks.chaos.promises import Broken, check_error, check_lines, check_message


@pytest.fixture
def scripted(monkeypatch):
    """Three promises: one is kept, one broken if a draw is small, one cannot be tried. `drawn` has all draws."""
    drawn = []

    def keep(trial):
        (trial.folder / "file").touch()

    def break_sometimes(trial):
        drawn.append(trial.generator.random())
        if drawn[-1] < 0.5:
            raise Broken(f"drew {drawn[-1]:.6f}")

    def need_more(trial):
        raise NotPossible("not allowed")

    monkeypatch.setattr(command, "PROMISES", {"kept": keep, "broken": break_sometimes, "absent": need_more})
    return drawn


def test_each_promise_is_tried_at_least_once(tmp_path, scripted):
    tallies = run_campaign(None, tmp_path, ["kept", "broken", "absent"], seed=0, minutes=0)
    assert [tally.trials for tally in tallies.values()] == [1, 1, 0]
    assert list(tmp_path.iterdir()) == []
    lines = format_tallies(tallies).splitlines()
    assert lines[0].split() == ["promise", "trials", "failures", "seconds"]
    assert lines[3].split() == ["absent", "0", "0", "not", "allowed"]


def test_a_failure_is_repeated_by_its_number(tmp_path, scripted):
    tallies = run_campaign(None, tmp_path, ["kept", "broken"], seed=3, minutes=0.002)
    broken = tallies["broken"]
    assert broken.trials > 2 and 0 < len(broken.failures) < broken.trials
    for number, message in broken.failures.items():
        again = run_campaign(None, tmp_path, ["broken"], seed=3, minutes=0, trial=number)["broken"]
        assert again.failures == {number: message} and again.trials == 1


@pytest.mark.parametrize(("check", "outcome", "message"), [
    (check_error, Outcome(1, ["Traceback (most recent call last):", "ValueError"], 0), "status 1: Traceback"),
    (check_error, Outcome(0, ["an error"], 0), "status 0"),
    (check_error, Outcome(None, [], 0), "it hangs"),
    (check_error, Outcome(-11, [], 0), "status -11"),
    (check_error, Outcome(1, [], 0), "an error of 0 lines"),
    (check_error, Outcome(1, list("abcd"), 0), "an error of 4 lines"),
])
def test_what_is_no_short_error_is_a_failure(check, outcome, message):
    with pytest.raises(Broken, match=message):
        check(outcome, "it")


def test_progress_counts_as_no_line_of_an_error():
    check_error(Outcome(1, ["epoch 1, step 1/2: loss 1", "x is a run folder: using its best", "no space"], 0), "it")
    check_lines(Outcome(130, [], 0), "it", least=0)
    check_message(Outcome(0, [], 0), "it", statuses=(0,))


def test_a_small_disk_is_full(tmp_path):
    try:
        with small_disk(tmp_path / "disk", 1 << 20, 8192) as (disk, filler):
            with pytest.raises(OSError, match="No space left"):
                (disk / "file").write_bytes(bytes(1 << 16))
            filler.unlink()
            (disk / "file").write_bytes(bytes(1 << 16))
        assert list((tmp_path / "disk").iterdir()) == []
    except NotPossible as reason:
        pytest.skip(str(reason))


def test_a_short_campaign_finds_nothing(tmp_path, capsys):
    """With real commands: a trial each of the promises that take a second."""
    names = ["damaged parts", "corrupted last", "fuzzed file"]
    file = tmp_path / "chaos.json"
    assert main(["chaos", "--minutes", "0", "--only", *names, "--json", str(file)]) == 0, capsys.readouterr()
    assert {name: tally["trials"] for name, tally in json.loads(file.read_text())["promises"].items()} == dict.fromkeys(
        names, 1
    )


def test_a_campaign_with_failures_ends_with_status_1(monkeypatch, capsys):
    def break_always(trial):
        raise Broken("it broke")

    monkeypatch.setattr(command, "Reference", lambda folder: None)
    monkeypatch.setitem(promises.PROMISES, "kill", break_always)
    assert main(["chaos", "--minutes", "0", "--only", "kill", "--seed", "4"]) == 1
    printed = capsys.readouterr()
    assert "kill, trial 0: it broke" in printed.out
    assert printed.err == "error: 1 trials failed: repeat one with --seed 4 --only NAME --trial N\n"
