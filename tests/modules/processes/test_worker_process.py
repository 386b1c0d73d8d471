"""Functions in a process that a time limit ends and replaces. The processes load nothing, so they start quickly."""

import os
import signal
import threading
import time
from functools import partial

import pytest

from data.errors import UserError
from modules.processes.worker_process import WorkerError, WorkerProcess

LONG = 3600.0


def build(error=None):
    """The object of the worker: a list. Raises `error` if given."""
    if error is not None:
        raise error
    return [os.getpid()]


def append(numbers, number):
    numbers.append(number)
    return numbers


def fail(numbers, error):
    raise error


def hang(numbers):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(LONG)


def die(numbers):
    os._exit(1)


@pytest.fixture
def make_worker():
    workers = []

    def make(*arguments, **options):
        workers.append(WorkerProcess(*arguments, **({"seconds": 60, "seconds_to_wait": 60} | options)))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()


def test_calls_run_in_another_process_that_keeps_its_object(make_worker):
    worker = make_worker(build)
    (process, one) = worker.call(append, 1)
    assert process != os.getpid()
    assert worker.call(append, 2) == [process, one, 2]


def test_errors_arrive(make_worker):
    worker = make_worker(build)
    with pytest.raises(UserError, match="^one line$"):
        worker.call(fail, UserError("one line"))
    with pytest.raises(WorkerError, match="KeyError: 'secret'"):
        worker.call(fail, KeyError("secret"))
    assert worker.call(append, 1)[1:] == [1]


def test_an_object_that_cannot_be_built_is_an_error():
    with pytest.raises(UserError, match="^no model$"):
        WorkerProcess(partial(build, UserError("no model")), seconds=60, seconds_to_wait=60)


def test_a_process_that_takes_too_long_is_ended_and_replaced(make_worker):
    worker = make_worker(build, seconds=0.3)
    first = worker._process
    with pytest.raises(UserError, match="more than 0.3 seconds"):
        worker.call(hang)
    assert not first.is_alive()
    assert worker.call(append, 1)[1:] == [1]


def test_a_process_that_dies_is_replaced(make_worker):
    worker = make_worker(build)
    with pytest.raises(UserError, match="its process ended"):
        worker.call(die)
    assert worker.call(append, 1)[1:] == [1]


def test_a_process_that_died_between_calls_is_replaced(make_worker):
    worker = make_worker(build)
    worker._process.kill()
    worker._process.join()
    assert worker.call(append, 1)[1:] == [1]


def test_calls_wait_for_their_turn_and_not_forever(make_worker):
    worker = make_worker(build, seconds=5, seconds_to_wait=0.1)
    thread = threading.Thread(target=lambda: pytest.raises(UserError, worker.call, hang))
    thread.start()
    while not worker._turn.locked():
        time.sleep(0.01)
    with pytest.raises(UserError, match="busy for more than 0.1 seconds"):
        worker.call(append, 1)
    worker.close()  # ends the call that hangs
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_closing_ends_the_process(make_worker):
    worker = make_worker(build)
    worker.close()
    assert not worker._process.is_alive()
