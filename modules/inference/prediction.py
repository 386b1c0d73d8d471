"""What a model predicts for one study."""

from dataclasses import dataclass, field

from modules.inference.graph_edits import Box


@dataclass(frozen=True)
class PredictedSentence:
    """A sentence of a report.

    regions     region -> its share of the attention of the sentence's tokens, descending; the shares add up to 1, and
                there are none without a graph
    changes     region -> the change since the previous study that the sentence states; only with a previous study
    confidence  0..1, from the tokens and from the sub-graph they attend to (`modules/evaluation/sentences.py`)
    section     findings or impression, of a model that writes both; "" otherwise
    """

    text: str
    regions: dict[str, float]
    confidence: float
    changes: dict[str, str] = field(default_factory=dict)
    section: str = ""


@dataclass(frozen=True)
class PredictedRegion:
    """A region of the frontal image.

    box                  xyxy in pixels of the original; None if the region is not visible
    probability          that the report mentions the region
    visible_probability  that the image shows the region
    selected             whether it is in the graph that the report was generated from
    abnormal             whether one of its attributes is abnormal
    attributes           attribute -> probability for those in the graph, descending; empty if not selected
    other_attributes     the remaining attributes of a visible region, likewise
    change               since the previous study, as the report was given it; None without one
    prior_box            xyxy in 0..1 of the previous image; None without one
    """

    name: str
    box: Box | None
    probability: float
    visible_probability: float
    selected: bool
    abnormal: bool
    attributes: dict[str, float]
    other_attributes: dict[str, float]
    change: str | None = None
    prior_box: Box | None = None


@dataclass(frozen=True)
class Prediction:
    """The report on one study and what it was generated from.

    report        its sentences joined by spaces
    regions       all 29; none for a model without a graph
    observations  observation -> probability; empty for a model without an observation head
    image_size    (width, height) of the original frontal image
    warnings      reasons to doubt the prediction, one line each
    """

    name: str
    report: str
    sentences: list[PredictedSentence]
    regions: list[PredictedRegion]
    observations: dict[str, float]
    image_size: tuple[int, int]
    warnings: list[str]

    @property
    def sections(self) -> dict[str, str]:
        """The text of each section, in order; empty for a model that writes one section only."""
        texts: dict[str, list[str]] = {}
        for sentence in self.sentences:
            if sentence.section:
                texts.setdefault(sentence.section, []).append(sentence.text)
        return {section: " ".join(sentences) for section, sentences in texts.items()}
