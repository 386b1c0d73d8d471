"""Failures, with the stores of several processes in one process; `tests/test_main_train.py` starts real processes."""

import queue
import tempfile

import pytest
import torch.distributed as dist

from data.errors import UserError
from modules.processes import failure_watch
from modules.processes.failure_watch import FailureWatch, describe_failure


@pytest.fixture
def watches(monkeypatch):
    """Three watches with one store; `exits` gets the status of each process that ends at once."""
    monkeypatch.setattr(failure_watch, "_SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(failure_watch, "_SECONDS_TO_LEAVE", 30)
    monkeypatch.setattr(failure_watch, "_SECONDS_TO_BE_COUNTED", 0)
    monkeypatch.setattr(failure_watch, "_write_traceback", lambda error, rank: "")
    store, exits = dist.HashStore(), queue.Queue()
    watches = [FailureWatch(store, rank, 3, exit=exits.put) for rank in range(3)]
    yield watches, exits
    for watch in watches:
        watch.stop()


def test_a_failure_ends_the_others_and_is_one_line(watches, capsys):
    (first, second, third), exits = watches
    second.fail(UserError("Study a: no image"))
    assert [exits.get(timeout=30) for _ in range(2)] == [1, 1]
    assert capsys.readouterr().err == "Rank 1: Study a: no image\n"


def test_only_the_first_failure_is_printed(watches, capsys):
    (first, second, third), exits = watches
    third.leave()
    first.stop()
    second.leave()
    first.fail(ValueError("first"))
    second.fail(ValueError("second"))
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Rank 0: ValueError" in error


def test_who_leaves_is_not_ended_and_not_waited_for(watches, capsys):
    (first, second, third), exits = watches
    first.leave()
    third.leave()
    second.fail(MemoryError())
    assert exits.empty()
    assert "Rank 1: MemoryError" in capsys.readouterr().err


def test_an_interrupt_is_left_to_the_entry_point(watches, capsys):
    (first, second, third), exits = watches
    first.fail(KeyboardInterrupt())
    assert [exits.get(timeout=30) for _ in range(2)] == [1, 1]
    assert capsys.readouterr().err == ""


GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:45678"


@pytest.mark.parametrize("error", [
    RuntimeError(GLOO), RuntimeError("Timed out waiting 1800000ms for recv operation to complete"),
    dist.DistNetworkError("failed to recv, got 0 bytes\nException raised from recvBytes\nframe #0"),
    dist.DistBackendError("NCCL communicator was aborted"), ConnectionResetError("Connection reset by peer"),
])
def test_each_survivor_of_a_dead_process_prints_one_line(watches, capsys, error):
    (first, second, third), exits = watches
    third.leave()
    first.stop()
    second.leave()
    first.fail(error)
    second.fail(error)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for rank, line in enumerate(lines):
        assert line.startswith(f"Rank {rank}: another process ended") and line.endswith("train.resume=true")


def test_a_survivor_that_waits_prints_the_line_too(watches, capsys):
    (first, second, third), exits = watches
    third.leave()
    first.fail(RuntimeError(GLOO))
    assert exits.get(timeout=30) == 1
    lines = sorted(capsys.readouterr().err.splitlines())
    assert [line.split(" ended")[0] for line in lines] == ["Rank 0: another process", "Rank 1: another process"]


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of memory"), ValueError("Connection closed"), OSError("disk")]
)
def test_other_errors_are_not_taken_for_a_dead_process(error):
    assert not failure_watch.lost_connection(error)


def test_line_names_code_and_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    try:
        raise MemoryError("cannot allocate\n8 GiB")
    except MemoryError as error:
        line = describe_failure(error, 3)
    assert line.startswith("Rank 3: MemoryError in tests/modules/processes/test_failure_watch.py, line ")
    assert "(cannot allocate 8 GiB); traceback: " in line and "\n" not in line
    (file,) = tmp_path.iterdir()
    assert line.endswith(str(file)) and "raise MemoryError" in file.read_text()


def test_a_lost_store_is_no_failure(watches):
    class Lost:
        def check(self, keys):
            raise dist.DistNetworkError("connection reset")

    (first, *_), exits = watches
    first._watched = Lost()
    first._thread.join(timeout=30)
    assert not first._thread.is_alive() and exits.empty()
