"""Builds the rewards of `config.reward`."""

from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.dataset import StudyDataset
from data.errors import unknown_name
from data.mixture.dataset import MixedDataset
from data.sections.marked_text import plain_text
from modules.evaluation.baselines.answers import read_references
from modules.evaluation.metrics.packages.package_options import open_comparers
from modules.evaluation.metrics.text.cider import DocumentFrequencies
from modules.evaluation.rewards.pool import RewardPool
from modules.evaluation.rewards.report_rewards import REWARD_NAMES, ReportRewards
from modules.evaluation.scoring import scoring_workers
from modules.settings.reward import RewardConfig
from modules.settings.weighted_sum import parse_sum

# Training studies, evenly spaced, in whose reports CIDEr counts n-grams.
MOST_DOCUMENTS = 50_000


def build_reward_pool(
    settings: RewardConfig, training: StudyDataset | MixedDataset, apply_protocol: Callable[[str], str]
) -> tuple[RewardPool, dict[str, float]]:
    """Return the pool of `settings.rewards`, with its processes started, and the weight of each reward.

    training         the training split, in whose reports CIDEr counts n-grams; its images are not read
    apply_protocol   complete reference -> what language rewards compare with

    Raises UserError if a reward is unknown, or if a package or its weights are missing.
    """
    weights = parse_sum(settings.rewards, "reward.rewards")
    own = tuple(name for name in weights if name in REWARD_NAMES)
    frequencies = None
    if "cider" in own:
        frequencies = training_frequencies(training, apply_protocol)
    packages = Namespace(
        radgraph=None if settings.radgraph is None else Path(settings.radgraph), radeval=settings.radeval,
        metrics_python=None if settings.metrics_python is None else Path(settings.metrics_python),
    )
    pool = RewardPool(
        ReportRewards(own, frequencies, settings.labels), settings.workers, apply_protocol, open_comparers(packages)
    )
    known = (*REWARD_NAMES, *pool.names[len(own) :])
    for name in weights:
        if name not in known:
            pool.close()
            raise unknown_name("reward", name, known, f"reward.rewards={settings.rewards!r}")
    return pool, weights


def training_frequencies(
    training: StudyDataset | MixedDataset, apply_protocol: Callable[[str], str]
) -> DocumentFrequencies:
    """Count the n-grams of at most `MOST_DOCUMENTS` training reports.

    N-grams of a single report are left out, which is most of them: CIDEr weighs them as it does unknown ones.
    """
    count = min(len(training), MOST_DOCUMENTS)
    indices = np.linspace(0, len(training) - 1, count).round().astype(int).tolist()
    _, references = read_references(training, indices, scoring_workers(count))
    frequencies = DocumentFrequencies.from_reports(
        [plain_text(apply_protocol(reference)) for reference in references], "training reports"
    )
    repeated = Counter({ngram: documents for ngram, documents in frequencies.counts.items() if documents > 1})
    return DocumentFrequencies(frequencies.source, frequencies.documents, repeated)
