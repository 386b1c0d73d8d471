"""Work shared out to processes: results in order, and no more of it in memory than is under way."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from data.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

# Jobs under way for each worker: enough that the others need not wait while the oldest is still being done.
_JOBS_PER_WORKER = 4


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    """`function` of every job, in the order of the jobs, done by `workers` processes.

    Jobs are taken only as fast as results are, so that their number does not matter. With one worker everything
    happens in this process. Otherwise workers are forked before the first job is taken: they share the memory of what
    `function` holds by then, and end with this process, however it ends. Raises what `function` raises, and UserError
    where the system killed a worker.
    """
    if workers == 1:
        yield from map(function, jobs)
        return
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("fork"), initializer=_start_worker, initargs=(function,)
    )
    pending = deque()
    try:
        # The first job starts the workers. Were it one of `jobs`, they would also hold what making those takes.
        pool.submit(os.getpid).result()
        for job in jobs:
            pending.append(pool.submit(_do, job))
            if len(pending) == _JOBS_PER_WORKER * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "A worker process was killed, most likely because memory ran out: run the same command again "
            f"with less than --workers {workers}; what was finished is kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_function: Callable[[Any], Any]


def _start_worker(function: Callable[[Any], Any]) -> None:
    """Set up a forked process."""
    global _function
    _function = function
    # Ctrl-C reaches all processes of the terminal: the parent alone answers, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process as soon as its parent has ended; otherwise the workers of a killed parent would stay."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _do(job: Any) -> Any:
    return _function(job)
