"""Records of an evaluation: one per study, with everything that a score needs, as numpy arrays.

The evaluator makes records, `score_records` reads nothing else. A baseline is scored by replacing the answers in them.
Shapes: R regions, A attribute slots per region (padded), K observations.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from data.batch import Batch, RegionAnnotation
from data.sections.marked_text import MARKERS, mark_sections, plain_text, split_sections
from modules.evaluation.metrics.weighted import ScoreResults
from modules.evaluation.sentences import GeneratedSentence

# Probability above which an observation counts as positive.
OBSERVATION_THRESHOLD = 0.5


@dataclass
class Prediction:
    """What a model predicts from one study; None for the parts that it lacks.

    region_probabilities [R]           that the report mentions the region
    region_selected [R] bool           regions in the graph
    boxes [R, 4]                       xyxy in 0..1
    visible_probabilities [R], visible [R] bool
    attribute_probabilities [R, A]     0 where no attribute is predicted
    attributes [R, A] bool             attributes of the selected regions
    observation_probabilities [K], observations [K] bool
    change [R]          index of the likeliest change since the prior, -1 without one; stated_change [R]: those in the
                        decoder's graph
    """

    region_probabilities: NDArray | None = None
    region_selected: NDArray | None = None
    boxes: NDArray | None = None
    visible_probabilities: NDArray | None = None
    visible: NDArray | None = None
    attribute_probabilities: NDArray | None = None
    attributes: NDArray | None = None
    observation_probabilities: NDArray | None = None
    observations: NDArray | None = None
    change: NDArray | None = None
    stated_change: NDArray | None = None


@dataclass
class Annotation:
    """The labels of one study: fields as in `data.batch.RegionAnnotation` and `Sample`, without a batch axis."""

    boxes: NDArray
    visible: NDArray
    mentioned: NDArray
    abnormal: NDArray
    attributes: NDArray
    graph_known: bool
    boxes_known: bool
    observations: NDArray
    observations_known: NDArray
    visibility_known: NDArray | None = None
    change: NDArray | None = None


@dataclass
class SectionTexts:
    """One section of a report.

    reference         complete cleaned reference; None if the study does not have the section
    scored_reference  the reference as the protocol cuts it; None likewise, and if nothing is left of it
    generated         "" if the model did not write the section
    """

    reference: str | None
    scored_reference: str | None
    generated: str


@dataclass
class StudyRecord:
    """One study: what the model generated and predicted, and what that is compared with.

    The texts of a report in sections are those of the sections that the reference has, joined.

    reference         complete cleaned reference report; "" without a report
    scored_reference  the reference as the protocol cuts it
    generated         generated report; "" without a report
    log_probability   mean log-probability of its tokens; None if no model wrote it
    sentences         of the generated report, in order; empty if no model wrote it
    abnormal_slots    [R, A] bool: the attributes of the vocabulary that affirm a finding; None if it does not say
    has_report        the data set has a report of the study; if not, none is generated, and no score of texts counts it
    prior_shown       the model has seen the patient's previous study
    data_set          name of the folder of its data set, if several are evaluated together
    sections          the sections of its report; empty if the reports have none
    """

    study_id: str
    reference: str
    scored_reference: str
    annotation: Annotation
    generated: str
    log_probability: float | None
    prediction: Prediction
    sentences: list[GeneratedSentence] = field(default_factory=list)
    abnormal_slots: NDArray | None = None
    has_report: bool = True
    data_set: str = ""
    prior_shown: bool = False
    sections: dict[str, SectionTexts] = field(default_factory=dict)

    def with_generated(self, report: str) -> "StudyRecord":
        """Return this study with another generated `report`, which no model wrote; with its markers if it has them."""
        sections = {}
        if self.sections:
            generated = split_sections(report)
            sections = {
                name: replace(texts, generated=generated.get(name, "")) for name, texts in self.sections.items()
            }
            report = plain_text(report, _names_of_reference(sections))
        return replace(self, generated=report, log_probability=None, sentences=[], sections=sections)

    @property
    def marked_reference(self) -> str:
        """The scored reference, with its markers if it has sections."""
        if not self.sections:
            return self.scored_reference
        return mark_sections({name: texts.scored_reference or "" for name, texts in self.sections.items()})


def text_fields(
    reference: str, scored_reference: str, generated: str, sentences: list[GeneratedSentence], in_sections: bool
) -> dict[str, Any]:
    """Return the fields of a `StudyRecord` with the texts of a study, which have markers if they are `in_sections`.

    sentences   of the generated text
    """
    if not in_sections:
        return {
            "reference": reference, "scored_reference": scored_reference, "generated": generated,
            "sentences": sentences,
        }
    of_reference, scored, written = map(split_sections, (reference, scored_reference, generated))
    sections = {
        name: SectionTexts(of_reference.get(name), scored.get(name), written.get(name, "")) for name in MARKERS
    }
    compared = _names_of_reference(sections)
    return {
        "reference": plain_text(reference), "scored_reference": plain_text(scored_reference),
        "generated": plain_text(generated, compared), "sections": sections,
        "sentences": [sentence for sentence in sentences if sentence.section in compared],
    }


def _names_of_reference(sections: dict[str, SectionTexts]) -> list[str]:
    """Return the sections that the reference has, even if the protocol cuts one off."""
    return [name for name, texts in sections.items() if texts.reference is not None]


@dataclass
class Evaluation(ScoreResults):
    """The scores of a split, and its records in dataset order.

    tuned_thresholds   the model's regions and attributes have the thresholds that `modules/calibrate.py` tuned
    sections           the scores of each section by itself; empty if the reports have none
    """

    records: list[StudyRecord] = field(kw_only=True)
    tuned_thresholds: bool = field(default=False, kw_only=True)
    sections: dict[str, ScoreResults] = field(default_factory=dict, kw_only=True)


def annotations_from_batch(batch: Batch) -> list[Annotation]:
    """Return the labels of every study of `batch`."""
    arrays = {name: tensor.cpu().numpy() for name, tensor in vars(batch.regions).items()}
    observations = batch.observations.cpu().numpy() > OBSERVATION_THRESHOLD
    observations_known = batch.observations_known.cpu().numpy()
    return [
        Annotation(
            **{name: array[study] for name, array in arrays.items()},
            observations=observations[study], observations_known=observations_known[study],
        )
        for study in range(len(batch))
    ]


def annotation_of(regions: RegionAnnotation, observations: Tensor, observations_known: Tensor) -> Annotation:
    """Return the labels of one study; arguments as the fields of `data.batch.Sample`."""
    return Annotation(
        **{name: tensor.numpy() for name, tensor in vars(regions).items()},
        observations=observations.numpy() > OBSERVATION_THRESHOLD, observations_known=observations_known.numpy(),
    )
