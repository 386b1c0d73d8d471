"""One of two gloo processes of main_test.py, started by `tests/test_main_test.py`.

    python -m tests.support.evaluation.slow_scoring FOLDER ARGUMENT...

Scoring begins when FOLDER/rank_one_has_left exists, and takes longer than collectives may.
"""

import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import main_test

TIMEOUT = timedelta(seconds=4)


def main(folder: Path, arguments: list[str]) -> int:
    """Return the exit status of main_test.py."""
    torch.set_num_threads(1)
    initialise, evaluation_of = dist.init_process_group, main_test.evaluation_of

    def initialise_impatiently(*given, **settings) -> None:
        initialise(*given, **settings)
        dist.barrier()  # the processes start at different times
        dist.distributed_c10d._set_pg_timeout(TIMEOUT)

    def evaluate_slowly(*given, **settings):
        while not (folder / "rank_one_has_left").exists():
            time.sleep(0.1)
        time.sleep(1.5 * TIMEOUT.total_seconds())
        assert not dist.is_initialized()
        main_test.evaluation_of = evaluation_of
        return evaluation_of(*given, **settings)

    dist.init_process_group = initialise_impatiently
    main_test.evaluation_of = evaluate_slowly
    return main_test.main(arguments)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
