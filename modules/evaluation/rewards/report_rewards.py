"""Rewards of generated reports: how good each is by itself, for training on the scores of sampled reports.

Every reward is the per-study number of a score of the evaluation, so that training and evaluation mean the same by a
name. A report without words has no language reward. `length` has no such score:

    bleu_4         BLEU-4 of the report alone
    rouge_l        ROUGE-L
    cider          CIDEr-D in 0..10, with the document frequencies of the training reports
    observations   F1 of the 14 observations that the rules read from the report: against those of the reference, or
                   against the data set's known labels (0 for a study without any); 1 if both have none
    triples        F1 of the region-attribute triples, against those of the reference; 1 if both have none
    length         words of the shorter text / words of the longer one
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data.text.report_labels import label_report
from modules.evaluation.metrics.labelers import positive_mask
from modules.evaluation.metrics.multilabel import example_values, label_counts
from modules.evaluation.metrics.text.cider import DocumentFrequencies, cider_scores
from modules.evaluation.metrics.text.diversity import count_repeated_sentences
from modules.evaluation.metrics.text.nlg import bleu_from_sums, bleu_statistics, rouge_l_of_pairs
from modules.evaluation.metrics.triples import Triple, extract_triples

REFERENCE, DATA_SET = "reference", "data_set"
WORDS, REPEATED = "words", "repeated_sentences"
# What is watched beside the rewards: number of words, and share of sentences that the report has had before.
STATISTICS = (WORDS, REPEATED)
# Parsed texts that a process remembers: references return in every epoch, and samples often are the same.
_REMEMBERED = 1 << 14


@dataclass(frozen=True)
class RewardedStudy:
    """A study with generated reports.

    reference           complete cleaned reference: labels and triples are read from it
    scored_reference    the part of it that language rewards and length compare with
    observations        [14] bool, the data set's labels
    observations_known  [14] bool: the data set has this label
    reports             generated ones
    """

    reference: str
    scored_reference: str
    observations: NDArray
    observations_known: NDArray
    reports: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """What language rewards compare: the scored reference with each report."""
        return [(self.scored_reference, report) for report in self.reports]


@dataclass(frozen=True)
class ReportRewards:
    """Computes rewards of reports, each by itself.

    names        of the rewards
    frequencies  CIDEr's document frequencies; None without `cider`
    labels       what `observations` are compared with: REFERENCE or DATA_SET
    """

    names: tuple[str, ...]
    frequencies: DocumentFrequencies | None = None
    labels: str = REFERENCE

    def __call__(self, study: RewardedStudy) -> dict[str, NDArray]:
        """Return the rewards, and `STATISTICS`, of the study's reports by name: [reports] float64 each."""
        rewards = {name: _REWARDS[name](self, study) for name in self.names}
        repeated = [count_repeated_sentences(report) for report in study.reports]
        rewards[WORDS] = np.array([len(report.split()) for report in study.reports], dtype=np.float64)
        rewards[REPEATED] = np.array([count / max(sentences, 1) for count, sentences in repeated])
        return rewards

    def _bleu_4(self, study: RewardedStudy) -> NDArray:
        return bleu_from_sums(np.array([bleu_statistics(*pair) for pair in study.pairs]))[:, -1]

    def _cider(self, study: RewardedStudy) -> NDArray:
        return cider_scores(*zip(*study.pairs, strict=True), self.frequencies)

    def _rouge_l(self, study: RewardedStudy) -> NDArray:
        return rouge_l_of_pairs(study.pairs)

    def _observations(self, study: RewardedStudy) -> NDArray:
        labels = positive_mask([_labels(report) for report in study.reports], uncertain=True)
        truth, known = study.observations.astype(bool), study.observations_known
        if self.labels == REFERENCE:
            truth, known = positive_mask([_labels(study.reference)], uncertain=True)[0], np.ones(len(truth), dtype=bool)
        counts = label_counts(labels, np.broadcast_to(truth, labels.shape), np.broadcast_to(known, labels.shape))
        return example_values(counts)["f1"] * known.any()

    def _triples(self, study: RewardedStudy) -> NDArray:
        reference = _triples(study.reference)
        counts = [
            [len(reference & triples), len(triples), len(reference)] for triples in map(_triples, study.reports)
        ]
        return example_values(np.array(counts, dtype=np.float64)[:, None])["f1"]

    def _length(self, study: RewardedStudy) -> NDArray:
        words = np.array([len(report.split()) for report in study.reports], dtype=np.float64)
        reference = len(study.scored_reference.split())
        return np.minimum(words, reference) / np.maximum(words, reference)


_REWARDS: dict[str, Callable[[ReportRewards, RewardedStudy], NDArray]] = {
    "bleu_4": ReportRewards._bleu_4, "rouge_l": ReportRewards._rouge_l, "cider": ReportRewards._cider,
    "observations": ReportRewards._observations, "triples": ReportRewards._triples, "length": ReportRewards._length,
}
REWARD_NAMES = tuple(_REWARDS)


@lru_cache(_REMEMBERED)
def _labels(text: str) -> dict[str, int]:
    return label_report(text)


@lru_cache(_REMEMBERED)
def _triples(text: str) -> frozenset[Triple]:
    return extract_triples([text])[0]
