"""The sentences of a generated report: what each says, which regions it looked at, and how sure the model is of it.

Shapes: T tokens written, R regions, A attribute slots a region (padded).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from data.text.tokenizer import Tokenizer

FULL_STOP = "."


@dataclass
class GeneratedSentence:
    """One sentence that a model wrote.

    text             its words and its full stop; the texts of a report's sentences, a space between, are the report
    regions          [R] how much its words looked at the sub-graph of each region: adds up to 1, or all 0 without graph
    log_probability  mean over its tokens, the full stop counted
    confidence       0..1: exp(log_probability) times the certainty of the sub-graph it looked at most (`sentences_of`)
    """

    text: str
    regions: NDArray
    log_probability: float
    confidence: float


def sentences_of(
    token_ids: NDArray, token_log_probs: NDArray, region_attention: NDArray, certainty: NDArray | None,
    tokenizer: Tokenizer,
) -> list[GeneratedSentence]:
    """The sentences of one generated report, in order; none for an empty report.

    token_ids [T] int without BOS, as `models.outputs.Generation` has them; token_log_probs [T];
    region_attention [T, R], zeros without graph; certainty [R] of each region's sub-graph (`subgraph_certainty`), None
    without graph.

    confidence = exp(mean log-probability of the tokens) * certainty of the region with the largest share; a sentence
    that looked at no sub-graph has the first factor alone.
    """
    words = _words(token_ids, tokenizer)
    sentences = []
    for positions in _spans([word for _, word in words]):
        tokens = [words[position][0] for position in positions]
        text = [words[position][1] for position in positions]
        # What the full stop looked at says nothing about the words before it.
        looking = [token for token, word in zip(tokens, text, strict=True) if word != FULL_STOP] or tokens
        regions = region_attention[looking].mean(axis=0)
        log_probability = float(token_log_probs[tokens].mean())
        confidence = float(np.exp(log_probability))
        if certainty is not None and regions.any():
            confidence *= float(certainty[regions.argmax()])
        sentences.append(GeneratedSentence(" ".join(text), regions, log_probability, confidence))
    return sentences


def subgraph_certainty(attribute_probabilities: NDArray, decided: NDArray) -> NDArray:
    """[R] in 0..1: the product of max(p, 1 - p) over the probabilities p of a region's attributes.

    attribute_probabilities [R, A]; decided [R, A] bool: slots that stand for an attribute, of regions where attributes
    were predicted.

    This is the probability that all attributes are decided rightly, if they were independent and p calibrated. The
    probability that the report speaks of the region at all has no part in it: it says little about whether what is said
    is right (docs/evaluation.md).
    """
    certainties = np.maximum(attribute_probabilities, 1 - attribute_probabilities)
    return np.where(decided, certainties, 1.0).prod(axis=1)


def _words(token_ids: NDArray, tokenizer: Tokenizer) -> list[tuple[int, str]]:
    """(position, word) of every token up to EOS that stands for a word."""
    words = []
    for position, token in enumerate(token_ids.tolist()):
        if token == tokenizer.eos_id:
            break
        word = tokenizer.decode([token])
        if word:
            words.append((position, word))
    return words


def _spans(words: list[str]) -> list[range]:
    """The sentences of `words`: each ends with a full stop, to which further ones belong where they follow at once."""
    starts = [
        position for position, word in enumerate(words)
        if position == 0 or (words[position - 1] == FULL_STOP and word != FULL_STOP)
    ]
    return [range(start, end) for start, end in pairwise([*starts, len(words)])]
