"""The process pool: order, memory, errors."""

import os
import signal
import time

import pytest

from data.errors import UserError
from data.processes.worker_pool import available_cores, ordered_map


def slow_square(number: int) -> int:
    """Square a number; every fourth call takes longest."""
    time.sleep(0.02 if number % 4 == 0 else 0)
    return number**2


def fail_at_three(number: int) -> int:
    if number == 3:
        raise UserError("three is too many")
    return number


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_order(workers):
    assert list(ordered_map(slow_square, range(30), workers)) == [number**2 for number in range(30)]
    assert list(ordered_map(slow_square, [], workers)) == []


def test_jobs_are_taken_as_results_are():
    taken_jobs = []
    results = ordered_map(slow_square, (taken_jobs.append(number) or number for number in range(1000)), 2)
    for _ in range(5):
        next(results)
    results.close()
    assert len(taken_jobs) <= 15


def test_workers_do_not_hold_what_making_the_jobs_takes():
    data = []

    def jobs():
        data.extend(range(100))
        yield from range(4)

    assert list(ordered_map(lambda number: len(data), jobs(), 2)) == [0] * 4


@pytest.mark.parametrize("workers", [1, 2])
def test_a_users_error_comes_through(workers):
    with pytest.raises(UserError, match="^three is too many$"):
        list(ordered_map(fail_at_three, range(50), workers))


def test_a_killed_worker_is_told_in_one_line():
    with pytest.raises(UserError, match="A worker process was killed.*fewer than --workers 2") as caught:
        list(ordered_map(die_at_three, range(50), 2))
    assert "\n" not in str(caught.value)


def test_there_is_a_core():
    assert available_cores() >= 1
