"""The sentences of a generated report, with the regions that each attended to and the model's confidence in it.

Shapes: T generated tokens, R regions, A attribute slots per region (padded).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from data.text.tokenizer import Tokenizer

FULL_STOP = "."


@dataclass
class GeneratedSentence:
    """One generated sentence.

    text             its words and its full stop; joined by spaces, the sentences give the report
    regions          [R] share of its attention to the sub-graph of each region: sums to 1, or all 0 without a graph
    log_probability  mean over its tokens, including the full stop
    confidence       0..1, see `split_into_sentences`
    """

    text: str
    regions: NDArray
    log_probability: float
    confidence: float


def split_into_sentences(
    token_ids: NDArray, token_log_probs: NDArray, region_attention: NDArray, certainty: NDArray | None,
    tokenizer: Tokenizer,
) -> list[GeneratedSentence]:
    """Split one generated report into sentences; an empty report has none.

    token_ids         [T] int without BOS, as in `models.outputs.Generation`
    token_log_probs   [T]
    region_attention  [T, R], zeros without a graph
    certainty         [R] of each region's sub-graph (`subgraph_certainty`); None without a graph

    confidence = exp(mean log-probability of the tokens) * certainty of the region with the largest share. If the
    sentence attends to no sub-graph, the second factor is left out.
    """
    words = _decode_words(token_ids, tokenizer)
    sentences = []
    for positions in _sentence_spans([word for _, word in words]):
        tokens = [words[position][0] for position in positions]
        text = [words[position][1] for position in positions]
        # The attention of the full stop says nothing about the words before it.
        content = [token for token, word in zip(tokens, text, strict=True) if word != FULL_STOP] or tokens
        regions = region_attention[content].mean(axis=0)
        log_probability = float(token_log_probs[tokens].mean())
        confidence = float(np.exp(log_probability))
        if certainty is not None and regions.any():
            confidence *= float(certainty[regions.argmax()])
        sentences.append(GeneratedSentence(" ".join(text), regions, log_probability, confidence))
    return sentences


def subgraph_certainty(attribute_probabilities: NDArray, predicted: NDArray) -> NDArray:
    """[R] in 0..1: for each region, the product of max(p, 1 - p) over the probabilities p of its attributes.

    attribute_probabilities [R, A]; predicted [R, A] bool: slots with a predicted attribute, not padding.

    This is the probability that all attributes are right if they are independent and p is calibrated. It does not
    include the probability that the report mentions the region, which says little about whether the sentence is right
    (docs/evaluation.md).
    """
    certainties = np.maximum(attribute_probabilities, 1 - attribute_probabilities)
    return np.where(predicted, certainties, 1.0).prod(axis=1)


def _decode_words(token_ids: NDArray, tokenizer: Tokenizer) -> list[tuple[int, str]]:
    """(position, word) of every token before EOS that stands for a word."""
    words = []
    for position, token in enumerate(token_ids.tolist()):
        if token == tokenizer.eos_id:
            break
        word = tokenizer.decode([token])
        if word:
            words.append((position, word))
    return words


def _sentence_spans(words: list[str]) -> list[range]:
    """The positions of each sentence; a sentence ends after one or more consecutive full stops."""
    starts = [
        position for position, word in enumerate(words)
        if position == 0 or (words[position - 1] == FULL_STOP and word != FULL_STOP)
    ]
    return [range(start, end) for start, end in pairwise([*starts, len(words)])]
