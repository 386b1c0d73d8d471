"""Report scores: BLEU-1..4, METEOR, ROUGE-L and CIDEr as the image captioning field computes them (pycocoevalcap)."""

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
from pycocoevalcap.rouge.rouge import Rouge

from modules.evaluation.metrics.text.cider import DocumentFrequencies, cider_scores
from modules.evaluation.metrics.text.meteor import MeteorError, MeteorUnavailable, meteor_of_sums, meteor_statistics
from modules.evaluation.metrics.weighted import Score, ScoreSet, absent, mean_of, of_sums

BLEU_NAMES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")
NAMES = (*BLEU_NAMES, "meteor", "rouge_l", "cider")

_LONGEST = len(BLEU_NAMES)  # of BLEU's n-grams


def nlg_scores(
    references: Sequence[str],
    hypotheses: Sequence[str],
    meteor: bool = True,
    frequencies: DocumentFrequencies | None = None,
) -> ScoreSet:
    """Scores of N hypotheses against one reference each.

    Words are parted by white space; runs of white space count as one. CIDEr is on the captioning field's scale (0 to
    10), with document frequencies of the references or those given; the rest is 0..1. METEOR is absent, with the
    reason, without Java, when its process fails, and with meteor=False.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references for {len(hypotheses)} hypotheses")
    references = [" ".join(text.split()) for text in references]
    hypotheses = [" ".join(text.split()) for text in hypotheses]
    if not references:
        return absent(NAMES, "no study")
    if not any(references):
        return absent(NAMES, "every reference is empty")
    # METEOR works in processes of its own, and by far the longest: the other scores are computed meanwhile.
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(meteor_statistics, references, hypotheses) if meteor else None
        others = _bleu(references, hypotheses) | _rouge(references, hypotheses)
        others |= _cider(references, hypotheses, frequencies)
    return others | _meteor(asked)


def bleu_statistics(reference: str, hypothesis: str) -> list[float]:
    """[10]: matches of 1- to 4-grams, how many of each the hypothesis has, its words, the reference's words."""
    counted = cook_test(hypothesis, cook_refs([reference]))
    return [*counted["correct"], *counted["guess"], counted["testlen"], counted["reflen"][0]]


def bleu_of_sums(sums: NDArray) -> NDArray:
    """[..., 4]: BLEU-1..4 (Papineni et al., ACL 2002) of sums [..., 10] of `bleu_statistics`.

    Guarded against 0 / 0 as pycocoevalcap's, whose numbers these are.
    """
    tiny, small = 1e-15, 1e-9
    correct, guessed = sums[..., :_LONGEST], sums[..., _LONGEST : 2 * _LONGEST]
    lengths = np.arange(1, _LONGEST + 1)
    precision = np.cumprod((correct + tiny) / (guessed + small), axis=-1) ** (1 / lengths)
    shortness = (sums[..., -2] + tiny) / (sums[..., -1] + small)
    with np.errstate(over="ignore"):
        penalty = np.where(shortness < 1, np.exp(1 - 1 / shortness), 1.0)
    return precision * penalty[..., None]


def _bleu(references: Sequence[str], hypotheses: Sequence[str]) -> ScoreSet:
    statistics = np.array([bleu_statistics(*pair) for pair in zip(references, hypotheses, strict=True)])
    scores = {
        name: of_sums(statistics, lambda sums, at=at: bleu_of_sums(sums)[:, at]) for at, name in enumerate(BLEU_NAMES)
    }
    return ScoreSet(scores, per_study={"bleu_4": bleu_of_sums(statistics)[:, -1]})


def _rouge(references: Sequence[str], hypotheses: Sequence[str]) -> ScoreSet:
    """ROUGE-L: F-measure of the longest common subsequence, recall weighed by 1.2 (Lin, 2004)."""
    rouge = Rouge()
    values = np.array([
        float(rouge.calc_score([hypothesis], [reference]))
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ])
    return ScoreSet({"rouge_l": mean_of(values)}, per_study={"rouge_l": values})


def _cider(
    references: Sequence[str], hypotheses: Sequence[str], frequencies: DocumentFrequencies | None
) -> ScoreSet:
    if frequencies is None:
        frequencies = DocumentFrequencies.of(references, "references")
    if frequencies.documents < 2:
        return absent(("cider",), f"CIDEr weighs words by how few {frequencies.source} hold them: it needs two of them")
    if not any(math.log(frequencies.documents / held) for held in frequencies.counts.values()):
        return absent(("cider",), f"CIDEr has nothing to weigh: all {frequencies.source} have the same words")
    values = cider_scores(references, hypotheses, frequencies)
    return ScoreSet({"cider": mean_of(values)}, per_study={"cider": values})


def _meteor(asked: Future | None) -> ScoreSet:
    if asked is None:
        return absent(("meteor",), "switched off for this evaluation")
    try:
        statistics = asked.result()
    except (MeteorUnavailable, MeteorError) as error:
        return absent(("meteor",), str(error))
    score: Score = of_sums(statistics, meteor_of_sums)
    return ScoreSet({"meteor": score}, per_study={"meteor": meteor_of_sums(statistics)})
