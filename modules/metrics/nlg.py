"""Report scores: BLEU-1..4, METEOR, ROUGE-L and CIDEr as the image captioning field computes them (pycocoevalcap)."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from modules.metrics.meteor import MeteorError, MeteorUnavailable, meteor_scores

NAMES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider", "distinct_reports")


def nlg_scores(
    references: Sequence[str], hypotheses: Sequence[str], meteor: bool = True
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Scores of N hypotheses against one reference each, and why those that are None are absent.

    Words are parted by white space; runs of white space count as one. CIDEr is on the captioning field's scale (0 to
    10), the rest is 0..1. `distinct_reports` is the number of different hypotheses / N. METEOR is absent, with the
    reason, without Java, when its process fails, and with meteor=False.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references for {len(hypotheses)} hypotheses")
    scores: dict[str, float | None] = dict.fromkeys(NAMES)
    if not references:
        return scores, dict.fromkeys(NAMES, "no study")
    absent: dict[str, str] = {}
    references = [" ".join(text.split()) for text in references]
    hypotheses = [" ".join(text.split()) for text in hypotheses]

    # METEOR works in processes of its own, and by far the longest: the other scores are computed meanwhile.
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(meteor_scores, references, hypotheses) if meteor else None
        scores |= _scores_of_this_process(references, hypotheses, absent)
    if asked is None:
        absent["meteor"] = "switched off for this evaluation"
        return scores, absent
    try:
        scores["meteor"], _ = asked.result()
    except (MeteorUnavailable, MeteorError) as error:
        absent["meteor"] = str(error)
    return scores, absent


def _scores_of_this_process(
    references: list[str], hypotheses: list[str], absent: dict[str, str]
) -> dict[str, float | None]:
    """All scores but METEOR; `absent` gets the reasons for those that are left out."""
    scores: dict[str, float | None] = {}
    reference_lists = {study: [text] for study, text in enumerate(references)}
    hypothesis_lists = {study: [text] for study, text in enumerate(hypotheses)}
    bleu, _ = Bleu(4).compute_score(reference_lists, hypothesis_lists, verbose=0)
    for length, value in enumerate(bleu, start=1):
        scores[f"bleu_{length}"] = float(value)
    scores["rouge_l"] = float(Rouge().compute_score(reference_lists, hypothesis_lists)[0])
    scores["distinct_reports"] = len(set(hypotheses)) / len(hypotheses)

    if len(references) < 2:
        absent["cider"] = "CIDEr weighs words by how few references hold them: it needs two studies"
    elif not any(references):
        absent["cider"] = "every reference is empty"
    else:
        scores["cider"] = float(Cider().compute_score(reference_lists, hypothesis_lists)[0])
    return scores
