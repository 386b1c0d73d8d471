"""The interface of rewards, as training uses it; `modules/evaluation/rewards/pool.py` implements it."""

from collections.abc import Sequence
from typing import Protocol

from numpy.typing import NDArray


class PendingRewards(Protocol):
    """Rewards that other processes compute."""

    def result(self) -> dict[str, NDArray]:
        """Wait for the rewards, and return them by name, [studies, reports] each.

        Beside the rewards, that is what is logged of every report: `words` and `repeated_sentences`.
        """


class RewardScorer(Protocol):
    """Computes rewards of generated reports, each by itself.

    names   of the rewards
    """

    names: tuple[str, ...]

    def submit(
        self, references: Sequence[str], observations: NDArray, observations_known: NDArray,
        reports: Sequence[Sequence[str]],
    ) -> PendingRewards:
        """Start to compute the rewards of `reports`, equally many for each study.

        references                        complete, not empty
        observations, observations_known  [studies, 14] bool, the data set's labels and which of them are known
        """

    def close(self) -> None:
        """End the processes."""
