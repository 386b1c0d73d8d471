"""BLEU-1..4, METEOR, ROUGE-L and CIDEr, with the values of pycocoevalcap, the package of the captioning literature."""

import math
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
from pycocoevalcap.rouge.rouge import Rouge

from data.processes.worker_pool import ordered_map
from modules.evaluation.metrics.labelers import split_into_chunks
from modules.evaluation.metrics.text.cider import DocumentFrequencies, cider_scores
from modules.evaluation.metrics.text.meteor import (
    MeteorError,
    MeteorUnavailable,
    meteor_from_sums,
    meteor_statistics,
)
from modules.evaluation.metrics.weighted import ScoreSet, absent_scores, mean_score, score_from_sums

BLEU_NAMES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")
NAMES = (*BLEU_NAMES, "meteor", "rouge_l", "cider")

_MAX_LENGTH = len(BLEU_NAMES)  # of BLEU's n-grams, in words

Pair = tuple[str, str]  # reference and hypothesis


def nlg_scores(
    references: Sequence[str],
    hypotheses: Sequence[str],
    meteor: bool = True,
    frequencies: DocumentFrequencies | None = None,
    names: Collection[str] = NAMES,
    workers: int = 1,
) -> ScoreSet:
    """Return the scores of hypotheses, each against one reference: those of `names`, and the rest of BLEU-1..4.

    Words are separated by white space. CIDEr is in 0..10, the other scores in 0..1. `frequencies` are CIDEr's document
    frequencies; None to count them in the references. METEOR is absent, with the reason, if there is no Java, if its
    process fails, and for meteor=False. The scores do not depend on the number of `workers`, the processes used. Raises
    ValueError for lists of different length.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references for {len(hypotheses)} hypotheses")
    references = [" ".join(text.split()) for text in references]
    hypotheses = [" ".join(text.split()) for text in hypotheses]
    if not references:
        return absent_scores(NAMES, "no study").select(names)
    if not any(references):
        return absent_scores(NAMES, "every reference is empty").select(names)
    with ThreadPoolExecutor(1) as pool:
        statistics = None

        def start_meteor() -> None:
            nonlocal statistics
            if meteor and "meteor" in names:
                statistics = pool.submit(meteor_statistics, references, hypotheses, workers=max(2, workers))

        # METEOR takes longest and runs in separate processes: one worker computes the other scores in the meantime.
        # Several use all cores themselves, and must not be forked while another thread runs.
        if workers == 1:
            start_meteor()
        scores = ScoreSet()
        if not set(BLEU_NAMES).isdisjoint(names):
            scores |= _bleu(references, hypotheses, workers)
        if "rouge_l" in names:
            scores |= _rouge(references, hypotheses, workers)
        if "cider" in names:
            scores |= _cider(references, hypotheses, frequencies, workers)
        if workers > 1:
            start_meteor()
    return scores | _meteor(statistics) if "meteor" in names else scores


def bleu_statistics(reference: str, hypothesis: str) -> list[float]:
    """Return [10] counts that BLEU is computed from.

    Matching n-grams (n = 1..4), n-grams of the hypothesis (n = 1..4), words of the hypothesis, words of the reference.
    """
    counted = cook_test(hypothesis, cook_refs([reference]))
    return [*counted["correct"], *counted["guess"], counted["testlen"], counted["reflen"][0]]


def bleu_from_sums(sums: NDArray) -> NDArray:
    """Return BLEU-1..4 [..., 4] (Papineni et al., ACL 2002) from sums [..., 10] of `bleu_statistics`.

    The small constants avoid 0 / 0; they are those of pycocoevalcap, so the values are too.
    """
    tiny, small = 1e-15, 1e-9
    correct, predicted = sums[..., :_MAX_LENGTH], sums[..., _MAX_LENGTH : 2 * _MAX_LENGTH]
    lengths = np.arange(1, _MAX_LENGTH + 1)
    precision = np.cumprod((correct + tiny) / (predicted + small), axis=-1) ** (1 / lengths)
    length_ratio = (sums[..., -2] + tiny) / (sums[..., -1] + small)
    with np.errstate(over="ignore"):
        brevity_penalty = np.where(length_ratio < 1, np.exp(1 - 1 / length_ratio), 1.0)
    return precision * brevity_penalty[..., None]


def _split_pairs(references: Sequence[str], hypotheses: Sequence[str]) -> Iterator[Sequence[Pair]]:
    return split_into_chunks(list(zip(references, hypotheses, strict=True)))


def _bleu_of_pairs(pairs: Sequence[Pair]) -> NDArray:
    return np.array([bleu_statistics(*pair) for pair in pairs])


def _bleu(references: Sequence[str], hypotheses: Sequence[str], workers: int = 1) -> ScoreSet:
    statistics = np.concatenate(list(ordered_map(_bleu_of_pairs, _split_pairs(references, hypotheses), workers)))
    scores = {
        name: score_from_sums(statistics, lambda sums, column=column: bleu_from_sums(sums)[:, column])
        for column, name in enumerate(BLEU_NAMES)
    }
    return ScoreSet(scores, per_study={"bleu_4": bleu_from_sums(statistics)[:, -1]})


def rouge_l_of_pairs(pairs: Sequence[Pair]) -> NDArray:
    """Return ROUGE-L [pairs]: the F-measure of the longest common subsequence with beta 1.2 (Lin, 2004)."""
    rouge = Rouge()
    return np.array([
        float(rouge.calc_score([hypothesis], [reference])) for reference, hypothesis in pairs
    ])


def _rouge(references: Sequence[str], hypotheses: Sequence[str], workers: int = 1) -> ScoreSet:
    values = np.concatenate(list(ordered_map(rouge_l_of_pairs, _split_pairs(references, hypotheses), workers)))
    return ScoreSet({"rouge_l": mean_score(values)}, per_study={"rouge_l": values})


def _cider_of_pairs(pairs: Sequence[Pair], frequencies: DocumentFrequencies) -> NDArray:
    return cider_scores(*zip(*pairs, strict=True), frequencies)


def _cider(
    references: Sequence[str], hypotheses: Sequence[str], frequencies: DocumentFrequencies | None, workers: int = 1
) -> ScoreSet:
    if frequencies is None:
        frequencies = DocumentFrequencies.from_reports(references, "references")
    if frequencies.documents < 2:
        return absent_scores(("cider",), f"CIDEr needs at least two {frequencies.source} for its document frequencies")
    if not any(math.log(frequencies.documents / count) for count in frequencies.counts.values()):
        return absent_scores(("cider",), f"all CIDEr weights are 0, since all {frequencies.source} have the same words")
    score = partial(_cider_of_pairs, frequencies=frequencies)
    values = np.concatenate(list(ordered_map(score, _split_pairs(references, hypotheses), workers)))
    return ScoreSet({"cider": mean_score(values)}, per_study={"cider": values})


def _meteor(pending_statistics: Future | None) -> ScoreSet:
    if pending_statistics is None:
        return absent_scores(("meteor",), "switched off for this evaluation")
    try:
        statistics = pending_statistics.result()
    except (MeteorUnavailable, MeteorError) as error:
        return absent_scores(("meteor",), str(error))
    scores = {"meteor": score_from_sums(statistics, meteor_from_sums)}
    return ScoreSet(scores, per_study={"meteor": meteor_from_sums(statistics)})
