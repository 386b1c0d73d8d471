"""Baseline reports that need only the training reports: the best constant one, the most frequent one, random ones."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from data.sections.marked_text import map_sections, split_sections
from modules.evaluation.baselines.names import MOST_FREQUENT, RANDOM
from modules.evaluation.metrics.text.cider import count_ngrams
from modules.evaluation.metrics.text.nlg import bleu_from_sums

_MAX_NGRAM = 4  # of BLEU
# A fixed seed: every model is compared with the same random reports.
_SEED = 0


def best_constant_report(candidates: Sequence[str], references: Sequence[str]) -> tuple[str, float]:
    """Return the candidate with the highest corpus BLEU-4 as the answer to all `references`, and that BLEU-4.

    Equals pycocoevalcap's BLEU-4 of each candidate in turn, the first of equals winning, in time proportional to the
    words of the candidates: the matches of an n-gram with all references are read from one table. Both lists must not
    be empty.
    """
    # matches[n-gram][k - 1]: number of references that contain the n-gram at least k times.
    matches: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    reference_words = 0
    for reference in references:
        reference_words += len(reference.split())
        for ngram, count in count_ngrams(reference).items():
            containing = matches[ngram]
            containing.extend([0] * (count - len(containing)))
            for repeat in range(count):
                containing[repeat] += 1

    best, best_score = "", -1.0
    for candidate in dict.fromkeys(candidates):
        words = len(candidate.split())
        correct = [0] * _MAX_NGRAM
        for ngram, count in count_ngrams(candidate).items():
            if ngram in matches:
                correct[len(ngram) - 1] += sum(matches[ngram][:count])
        guessed = [len(references) * max(0, words - length) for length in range(_MAX_NGRAM)]
        sums = np.array([*correct, *guessed, len(references) * words, reference_words], dtype=np.float64)
        score = bleu_from_sums(sums)[-1]
        if score > best_score:
            best, best_score = candidate, score
    return best, best_score


def best_constant_sections(candidates: Sequence[str], references: Sequence[str]) -> str:
    """Return the `best_constant_report`; of marked reports, that of each section by itself, marked again."""
    of_references = [split_sections(reference) for reference in references]

    def best(section: str, texts: list[str]) -> str:
        compared = [parts[section] for parts in of_references if section in parts] if section else references
        return best_constant_report(texts, compared)[0] if compared else ""

    return map_sections(candidates, best)


def most_frequent_report(reports: Sequence[str]) -> str:
    """Return the most frequent of `reports`, the first of equals. `reports` must not be empty."""
    return Counter(reports).most_common(1)[0][0]


def random_reports(reports: Sequence[str], studies: int) -> list[str]:
    """Draw one of `reports` for each of `studies` studies with replacement; the draw is always the same."""
    drawn = np.random.default_rng(_SEED).integers(len(reports), size=studies)
    return [reports[position] for position in drawn]


def report_baselines(reports: Sequence[str], studies: int) -> dict[str, list[str]]:
    """The baselines that need only training `reports` (not empty): name -> one report per study.

    Of marked reports, the most frequent one is that of each section.
    """
    most_frequent = map_sections(reports, lambda _, texts: most_frequent_report(texts))
    return {MOST_FREQUENT: [most_frequent] * studies, RANDOM: random_reports(reports, studies)}
