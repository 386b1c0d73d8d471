"""Records of an evaluation: one per study, with everything that a score needs, as numpy arrays.

The evaluator makes records, `score_records` reads nothing else. A baseline is scored by replacing the answers in them.
Shapes: R regions, A attribute slots per region (padded), K observations.
"""

from dataclasses import dataclass, field

from numpy.typing import NDArray
from torch import Tensor

from data.batch import Batch, RegionAnnotation
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


@dataclass
class StudyRecord:
    """One study: what the model generated and predicted, and what that is compared with.

    reference         complete cleaned reference report; "" without a report
    scored_reference  the reference as the protocol cuts it
    generated         generated report; "" without a report
    log_probability   mean log-probability of its tokens; None if no model wrote it
    sentences         of the generated report, in order; empty if no model wrote it
    abnormal_slots    [R, A] bool: the attributes of the vocabulary that affirm a finding; None if it does not say
    has_report        the data set has a report of the study; if not, none is generated, and no score of texts counts it
    data_set          name of the folder of its data set, if several are evaluated together
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


@dataclass
class Evaluation(ScoreResults):
    """The scores of a split, and its records in dataset order.

    tuned_thresholds   the model's regions and attributes have the thresholds that `modules/calibrate.py` tuned
    """

    records: list[StudyRecord] = field(kw_only=True)
    tuned_thresholds: bool = field(default=False, kw_only=True)


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
