"""One of two gloo processes that train until one of them fails, started by `tests/test_main_train.py`.

    python -m tests.support.training.failing_process RANK WHERE OVERRIDE...

WHERE: step (MemoryError in the second training step of rank RANK), kill (the process is killed there), data (UserError
while it builds its data sets) or save (ValueError while rank zero saves).
"""

import os
import signal
import sys
from collections.abc import Callable

import main_train
from data.errors import UserError
from modules import builders
from modules.training import run_folder, trainer


def main() -> int:
    """Arrange for the failure, then train as `main_train.py` does."""
    failing_rank, where, *overrides = sys.argv[1:]
    if os.environ["RANK"] == failing_rank:
        if where == "step":
            fail_at_call(trainer.Trainer, "train_step", 2, MemoryError("cannot allocate\n8 GiB"))
        elif where == "kill":
            fail_at_call(trainer.Trainer, "train_step", 2, lambda: os.kill(os.getpid(), signal.SIGKILL))
        elif where == "data":
            fail_at_call(builders, "build_dataset", 1, UserError("Study a: no image"))
        elif where == "save":
            fail_at_call(run_folder, "save_checkpoint", 1, ValueError("no such thing"))
    return main_train.main(overrides)


def fail_at_call(owner: object, name: str, number: int, failure: Exception | Callable) -> None:
    """Replace the function `name` of `owner` by one that raises or calls `failure` in its call with this number."""
    function, calls = getattr(owner, name), 0

    def failing(*arguments, **keywords):
        nonlocal calls
        calls += 1
        if calls == number:
            if isinstance(failure, Exception):
                raise failure
            failure()
        return function(*arguments, **keywords)

    setattr(owner, name, failing)


if __name__ == "__main__":
    sys.exit(main())
