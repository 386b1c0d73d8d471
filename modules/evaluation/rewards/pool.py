"""Computes rewards in processes beside training, so that the device does not wait for them."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError
from data.processes.worker_pool import WorkerPool
from data.sections.marked_text import plain_text
from modules.evaluation.metrics.comparers import ComparedScore, ReportComparer
from modules.evaluation.rewards.report_rewards import ReportRewards, RewardedStudy

# Training stops soon after SIGTERM, once it has the rewards of its last step.
_SECONDS_AFTER_SIGTERM = 60.0
# A pair that shows which scores a comparer has.
_TRIAL = "the heart is mildly enlarged . there is a small left pleural effusion ."


class RewardPool:
    """Computes `rewards` in `workers` processes, and the scores of `comparers` in theirs.

    names   of all rewards, those of comparers included
    """

    def __init__(
        self, rewards: ReportRewards, workers: int, apply_protocol: Callable[[str], str],
        comparers: AbstractContextManager[Sequence[ReportComparer]] | None = None,
    ):
        """apply_protocol: complete reference -> what language rewards compare with; comparers are open until `close`.

        Raises UserError if a comparer cannot be loaded or fails on a pair of reports.
        """
        self._apply_protocol = apply_protocol
        self.names = rewards.names
        with ExitStack() as stack:
            self._workers = WorkerPool(rewards, workers, _SECONDS_AFTER_SIGTERM)
            stack.callback(self._workers.close)
            self._comparers = [
                (comparer, stack.enter_context(ThreadPoolExecutor(1)))
                for comparer in stack.enter_context(comparers or nullcontext(()))
            ]
            for comparer, _ in self._comparers:
                self.names += tuple(
                    name for name, score in comparer.compare([_TRIAL], [_TRIAL]).items() if score.per_report is not None
                )
            self._opened = stack.pop_all()

    def submit(
        self, references: Sequence[str], observations: NDArray, observations_known: NDArray,
        reports: Sequence[Sequence[str]],
    ) -> "PendingRewards":
        """Start to compute the rewards of `reports`, equally many for each study.

        references                        complete, not empty; with their markers if they have sections
        observations, observations_known  [studies, 14] bool, the data set's labels and which of them are known
        """
        scored = [plain_text(self._apply_protocol(reference)) for reference in references]
        references = [plain_text(reference) for reference in references]
        studies = zip(references, scored, observations, observations_known, reports, strict=True)
        with _workers_alive():
            by_study = [
                self._workers.submit(RewardedStudy(reference, scored_reference, labels, known, tuple(texts)))
                for reference, scored_reference, labels, known, texts in studies
            ]
        flat = [text for texts in reports for text in texts]
        repeated = [reference for reference, texts in zip(references, reports, strict=True) for _ in texts]
        compared = [thread.submit(comparer.compare, repeated, flat) for comparer, thread in self._comparers]
        return PendingRewards(by_study, compared, self.names)

    def close(self) -> None:
        """End the processes, threads and comparers."""
        self._opened.close()


class PendingRewards:
    """The rewards of a `RewardPool.submit`."""

    def __init__(
        self, by_study: list[Future[dict[str, NDArray]]], compared: list[Future[dict[str, ComparedScore]]],
        names: tuple[str, ...],
    ):
        self._by_study = by_study
        self._compared = compared
        self._names = names

    def result(self) -> dict[str, NDArray]:
        """Wait for the rewards, and return them and `STATISTICS` by name: [studies, reports] float64 each.

        A comparer's reward is 0 for a pair that it has no number for. Raises UserError if the system killed a process
        or a comparer failed.
        """
        with _workers_alive():
            by_study = [future.result() for future in self._by_study]
        rewards = {name: np.stack([of_study[name] for of_study in by_study]) for name in by_study[0]}
        for future in self._compared:
            for name, score in future.result().items():
                if name in self._names:
                    rewards[name] = np.nan_to_num(score.per_report).reshape(len(by_study), -1)
        return rewards


@contextmanager
def _workers_alive() -> Iterator[None]:
    """Re-raise the error of a pool that has lost a process as UserError."""
    try:
        yield
    except BrokenProcessPool as error:
        raise UserError(
            "A process that computes rewards was killed, most likely because memory ran out: resume with the same "
            "command, train.resume=true and fewer reward.workers"
        ) from error
