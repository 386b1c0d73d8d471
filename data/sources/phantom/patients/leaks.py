"""What can be known about phantom studies without their images: from the indication alone, from the prior alone.

A model that reads these texts must score higher than they do before its score says anything about images.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data.ontology import observation_names
from data.text.words import normalise_words

# Laplace smoothing of word counts, and a word's least number of studies.
_SMOOTHING, _MIN_STUDIES = 1.0, 3


def score_without_images(records: Sequence[dict]) -> dict[str, float | None]:
    """Return micro F1 over the 14 observations of the test studies, by what predicts them; None if nothing can.

    "indication"       naive Bayes on the words of the indication, with thresholds of the training studies
    "previous report"  the observations of the prior, over the studies that have one
    """
    train = [record for record in records if record["split"] == "train"]
    test = [record for record in records if record["split"] == "test"]
    by_id = {record["id"]: record for record in records}
    followed = [record for record in test if record["prior"] is not None]
    return {
        "indication": _score_indication(train, test) if train and test else None,
        "previous report": _micro_f1(
            _labels([by_id[record["prior"]] for record in followed]), _labels(followed)
        ) if followed else None,
    }


def _score_indication(train: Sequence[dict], test: Sequence[dict]) -> float:
    texts = [set(normalise_words(record["indication"] or "")) for record in train]
    counts: dict[str, int] = {}
    for text in texts:
        for word in text:
            counts[word] = counts.get(word, 0) + 1
    words = {word: position for position, word in enumerate(sorted(w for w, n in counts.items() if n >= _MIN_STUDIES))}
    known, labels = _bags(texts, words), _labels(train)
    scores = _log_odds(known, labels, known)
    thresholds = [_best_threshold(scores[:, column], labels[:, column]) for column in range(labels.shape[1])]
    found = _log_odds(known, labels, _bags([set(normalise_words(r["indication"] or "")) for r in test], words))
    return _micro_f1(found > thresholds, _labels(test))


def _bags(texts: Sequence[set[str]], words: dict[str, int]) -> NDArray:
    """Return [studies, words] bool."""
    bags = np.zeros((len(texts), len(words)), dtype=bool)
    for row, text in zip(bags, texts, strict=True):
        row[[words[word] for word in text if word in words]] = True
    return bags


def _labels(records: Sequence[dict]) -> NDArray:
    """Return [studies, 14] bool."""
    return np.array(
        [[record["observations"].get(name) == 1 for name in observation_names()] for record in records]
    ).reshape(len(records), -1)


def _log_odds(bags: NDArray, labels: NDArray, asked: NDArray) -> NDArray:
    """Return the log-odds of each label for the words `asked` [studies, words], by Bernoulli naive Bayes."""
    odds = []
    for label in labels.T:
        log_rates = []
        for rows in (bags[label], bags[~label]):
            rate = (rows.sum(0) + _SMOOTHING) / (len(rows) + 2 * _SMOOTHING)
            prior = np.log((len(rows) + _SMOOTHING) / (len(bags) + 2 * _SMOOTHING))
            log_rates.append(asked @ np.log(rate) + ~asked @ np.log1p(-rate) + prior)
        odds.append(log_rates[0] - log_rates[1])
    return np.stack(odds, 1)


def _best_threshold(scores: NDArray, labels: NDArray) -> float:
    """Return the score above which positives give the highest F1; infinity if no label is positive."""
    if not labels.any():
        return np.inf
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    f1 = 2 * np.cumsum(labels[order]) / (np.arange(1, len(scores) + 1) + labels.sum())
    is_last_of_equal = np.append(ranked[1:] != ranked[:-1], True)
    return float(np.nextafter(ranked[np.argmax(np.where(is_last_of_equal, f1, -1))], -np.inf))


def _micro_f1(predicted: NDArray, labels: NDArray) -> float:
    positives = int(predicted.sum()) + int(labels.sum())
    return 2 * int((predicted & labels).sum()) / positives if positives else 0.0
