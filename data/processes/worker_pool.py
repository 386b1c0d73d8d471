"""A process pool that returns results in order and holds only the pending jobs in memory."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.connection import wait
from typing import Any, TypeVar

from data.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

# Pending jobs per worker: enough to keep the other workers busy while the oldest job is still running.
_JOBS_PER_WORKER = 4


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    """Apply `function` to every job in `workers` processes, and yield the results in the order of the jobs.

    Jobs are taken only as fast as results are consumed, so memory does not grow with their number. With one worker
    everything runs in this process. Otherwise the workers are forked before the first job is taken: they share the
    memory that `function` holds at that time. They end with this process, even if it is killed. Raises what `function`
    raises, and UserError if the system killed a worker.
    """
    if workers == 1:
        yield from map(function, jobs)
        return
    pool = WorkerPool(function, workers)
    pending = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(job))
            if len(pending) == _JOBS_PER_WORKER * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "A worker process was killed, most likely because memory ran out: run the same command again "
            f"with fewer than --workers {workers}; finished work is kept"
        ) from error
    finally:
        pool.close()


class WorkerPool:
    """Processes that apply a function to jobs, for as long as the pool lives.

    They are forked when the pool is made, so they share the memory that `function` holds then, and end with this
    process, even if it is killed.
    """

    def __init__(self, function: Callable[[Job], Result], workers: int, seconds_after_sigterm: float = 0.0):
        """seconds_after_sigterm: how long workers continue after SIGTERM, which a cluster sends to all processes of a
        job: this process may still need their results to stop in an orderly way.
        """
        self._pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("fork"), initializer=_start_worker,
            initargs=(function, seconds_after_sigterm),
        )
        self._pool.submit(os.getpid).result()  # the first submission forks the workers

    def submit(self, job: Job) -> Future[Result]:
        """Return the future result of `job`; it raises BrokenProcessPool if the system killed a worker."""
        return self._pool.submit(_run_job, job)

    def close(self) -> None:
        """End the workers; jobs that have not begun are dropped."""
        self._pool.shutdown(cancel_futures=True)


_function: Callable[[Any], Any]


def _start_worker(function: Callable[[Any], Any], seconds_after_sigterm: float) -> None:
    """Initialise a forked worker."""
    global _function
    _function = function
    # Ctrl-C reaches all processes of the terminal: only the parent handles it, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if seconds_after_sigterm:
        signal.signal(signal.SIGTERM, partial(_exit_later, seconds_after_sigterm))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _exit_later(seconds: float, *_: object) -> None:
    """Exit after `seconds`; the handler of a signal."""
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _end_with_parent() -> None:
    """Exit when the parent ends; otherwise the workers of a killed parent would stay."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _run_job(job: Any) -> Any:
    return _function(job)
