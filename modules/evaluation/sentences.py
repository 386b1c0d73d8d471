"""The sentences of a generated report, with the regions that each attended to and the model's confidence in it.

Shapes: T generated tokens, R regions, A attribute slots per region (padded).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.sections.marked_text import FINDINGS, MARKERS
from data.text.tokenizer import Tokenizer

FULL_STOP = "."
_SECTION_OF = {marker: section for section, marker in MARKERS.items()}


@dataclass
class GeneratedSentence:
    """One generated sentence.

    text             its words and its full stop; joined by spaces, the sentences give the report
    regions          [R] share of its attention to the sub-graph of each region: sums to 1, or all 0 without a graph
    log_probability  mean over its tokens, including the full stop
    confidence       0..1, see `split_into_sentences`
    section          of a report in sections; "" otherwise
    """

    text: str
    regions: NDArray
    log_probability: float
    confidence: float
    section: str = ""


def split_into_sentences(
    token_ids: NDArray, token_log_probs: NDArray, region_attention: NDArray, certainty: NDArray | None,
    tokenizer: Tokenizer,
) -> list[GeneratedSentence]:
    """Split one generated report into sentences, without the markers of sections; an empty report has none.

    token_ids         [T] int without BOS, as in `models.outputs.Generation`
    token_log_probs   [T]
    region_attention  [T, R], zeros without a graph
    certainty         [R] of each region's sub-graph (`subgraph_certainty`); None without a graph

    confidence = exp(mean log-probability of the tokens) * certainty of the region with the largest share. If the
    sentence attends to no sub-graph, the second factor is left out.
    """
    sentences = []
    for section, words in _sentences_of_words(_decode_words(token_ids, tokenizer), tokenizer.marks_sections):
        tokens, text = zip(*words, strict=True)
        tokens = list(tokens)
        # The attention of the full stop says nothing about the words before it.
        content = [token for token, word in zip(tokens, text, strict=True) if word != FULL_STOP] or tokens
        regions = region_attention[content].mean(axis=0)
        log_probability = float(token_log_probs[tokens].mean())
        confidence = float(np.exp(log_probability))
        if certainty is not None and regions.any():
            confidence *= float(certainty[regions.argmax()])
        sentences.append(GeneratedSentence(" ".join(text), regions, log_probability, confidence, section))
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


def _sentences_of_words(
    words: list[tuple[int, str]], in_sections: bool
) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Yield the section and the words of each sentence, which ends after full stops or at a marker of a section."""
    section, sentence = FINDINGS if in_sections else "", []
    for position, word in words:
        starts_section = word in _SECTION_OF
        if sentence and (starts_section or (sentence[-1][1] == FULL_STOP and word != FULL_STOP)):
            yield section, sentence
            sentence = []
        if starts_section:
            section = _SECTION_OF[word]
        else:
            sentence.append((position, word))
    if sentence:
        yield section, sentence
