"""A trained model as one object: images in, reports with their scene graphs out.

    predictor = Predictor("results/demo")
    prediction, = predictor.predict(["chest.png"])

Load it once: reading a checkpoint takes longer than writing a report. An image goes through the same preparation as
those of a prepared data set (`data/images/network_image.py`), so its report is the one that `main_test.py` would write. For
research only; reports are not fit for patient care.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data.errors import UserError, readable
from data.images.network_image import NetworkImage, Picture, read_network_image
from data.images.transforms import normalise
from data.records import is_frontal_view
from data.text.report_graph import read_report
from data.vocabulary import is_abnormal
from models.outputs import BoxSource, Generation, GraphOverrides, GraphSource, ModelInputs
from modules.builders import box_source_of_new_images, load_model
from modules.checkpoint import load_checkpoint
from modules.evaluation.evaluator import inference
from modules.evaluation.sentences import sentences_of, subgraph_certainty
from modules.runtime import autocast, select_device

Box = tuple[float, float, float, float]

# Below this agreement with an average chest (`data.images.atlas.chest_agreement`) an image is doubted. Chosen on real and
# simulated X-rays (`python -m benchmarks frontal_check`): 2 % of frontal films are doubted in vain, 10 % of real
# lateral ones and 25 % of simulated lateral ones are not.
LEAST_CHEST_AGREEMENT = 0.6


@dataclass(frozen=True)
class PredictedSentence:
    """A sentence of a report.

    regions     share of the attention that its words paid to each region of the graph, by name, descending; adds up to
                1, empty without graph
    confidence  0..1, of its words and of the sub-graphs that they looked at (`modules/evaluation/sentences.py`)
    """

    text: str
    regions: dict[str, float]
    confidence: float


@dataclass(frozen=True)
class PredictedRegion:
    """A region of the frontal image.

    box                  xyxy in pixels of the original; None where the region is not seen
    probability          that the report will speak of it
    visible_probability  that the picture shows it
    selected             whether it is in the graph that the report was written from
    abnormal             whether its attributes say so
    attributes           those of the graph, with their probabilities, descending; empty where not selected
    other_attributes     the rest of those that the region could be given, where it is seen
    """

    name: str
    box: Box | None
    probability: float
    visible_probability: float
    selected: bool
    abnormal: bool
    attributes: dict[str, float]
    other_attributes: dict[str, float]


@dataclass(frozen=True)
class Prediction:
    """What a model says about one study.

    report        its sentences together
    regions       all 29; none for a model without graph
    observations  probability by name; empty for a model without observation head
    image_size    (width, height) of the original frontal image
    warnings      reasons to doubt the prediction, a line each
    """

    name: str
    report: str
    sentences: list[PredictedSentence]
    regions: list[PredictedRegion]
    observations: dict[str, float]
    image_size: tuple[int, int]
    warnings: list[str]


@dataclass(frozen=True)
class GraphEdits:
    """What somebody changes in the predicted graph of a study, regions by name; what is left out is the model's.

    regions     True puts a region into the graph, False takes it out
    only        the report is about these regions alone: they are the graph, and sentences that name none of them are
                left out (a model looks at the whole picture, too)
    attributes  region -> attribute -> whether the region has it
    boxes       xyxy in pixels of the original frontal image; a region with such a box counts as seen
    """

    regions: Mapping[str, bool] = field(default_factory=dict)
    only: frozenset[str] | None = None
    attributes: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    boxes: Mapping[str, Box] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """The pictures of one examination, the frontal one first where that is known."""

    name: str
    pictures: tuple[Picture, ...]


# A single picture, a frontal and a lateral one, or a study with a name.
StudyLike = Picture | tuple[Picture, Picture] | Study


@dataclass(frozen=True)
class ReadStudy:
    """A study that was read, to be predicted once or often.

    pixels      [V, H, H] uint8 as the network sees them, the frontal view first
    frontal     whether the first one is a frontal view, as far as its file says
    image_size  (width, height) of its original
    source      the picture that it comes from
    """

    name: str
    pixels: Tensor
    frontal: bool
    image_size: tuple[int, int]
    source: Picture
    warnings: tuple[str, ...]


class Predictor:
    """Writes reports with the model of a checkpoint.

    vocabularies, config   of the checkpoint
    """

    def __init__(
        self, checkpoint: str | Path, device: str = "auto", batch_size: int | None = None, beam_size: int | None = None,
        window: bool = False,
    ):
        """Load the model.

        checkpoint             folder of a checkpoint, a run folder (its best), or what `modules.export` wrote
        device                 auto (a GPU where there is one), cpu or cuda
        batch_size, beam_size  studies at a time, beams; None: as the checkpoint was tested (`eval`)
        window                 show DICOM files as their own window says, not as prepared data sets do

        Raises UserError for a checkpoint or a device that cannot be used, and for numbers below 1.
        """
        loaded = load_checkpoint(checkpoint)
        self.config, self.vocabularies = loaded.config, loaded.vocabularies
        self.batch_size = self.config.eval.batch_size if batch_size is None else batch_size
        self.beam_size = self.config.eval.beam_size if beam_size is None else beam_size
        for name, value in (("batch_size", self.batch_size), ("beam_size", self.beam_size)):
            if value < 1:
                raise UserError(f"{name} is {value}: must be at least 1")
        self.window = window
        self.device = select_device(device)
        self.model = load_model(loaded, self.config).to(self.device)
        self._box_source = box_source_of_new_images(self.model, self.config)

    def predict(
        self, images: Sequence[StudyLike], edits: Sequence[GraphEdits | None] | None = None
    ) -> list[Prediction]:
        """The predictions for `images`, in their order.

        Raises UserError naming the picture for one that cannot be read, and for edits that name what is not there.
        """
        edits = [None] * len(images) if edits is None else list(edits)
        predictions = []
        for start in range(0, len(images), self.batch_size):
            stop = start + self.batch_size
            studies = [self.read(image, f"image {start + i + 1}") for i, image in enumerate(images[start:stop])]
            predictions += self.predict_read(studies, edits[start:stop])
        return predictions

    def read(self, image: StudyLike, name: str | None = None) -> ReadStudy:
        """`image` ready for `predict_read`; `name` stands for a picture that has neither a name nor a path.

        Raises UserError naming the picture that cannot be read.
        """
        study = _study_of(image, name or "the image")
        if not study.pictures:
            raise UserError(f"{study.name} has no image: give at least one")
        read = []
        for position, picture in enumerate(study.pictures):
            part = study.name if len(study.pictures) == 1 else f"{study.name}, image {position + 1}"
            title = readable(str(picture)) if isinstance(picture, (str, Path)) else part
            read.append((read_network_image(picture, title, self.config.data.image_size, self.window), picture))
        warnings = []
        ordered = _frontal_first(read)
        if ordered[0] is not read[0]:
            warnings.append("the first image is no frontal view: another image of the study was taken for it")
        shown = ordered[: self.config.data.views]
        if len(shown) < len(ordered):
            left_out = len(ordered) - len(shown)
            warnings.append(f"this model looks at {len(shown)} image a study: {left_out} more were left out")
        first, source = shown[0]
        frontal = is_frontal_view(first.view)
        if not frontal:
            warnings.append(f"by its file the image is a {first.view} view: without a frontal one there are no regions")
        elif first.agreement < LEAST_CHEST_AGREEMENT:
            warnings.append("the image does not look like a frontal chest radiograph")
        warnings += [f"the file says: {warning}" for image, _ in shown for warning in image.warnings]
        pixels = torch.stack([image.pixels for image, _ in shown])
        return ReadStudy(study.name, pixels, frontal, first.size, source, tuple(dict.fromkeys(warnings)))

    def predict_read(
        self, studies: Sequence[ReadStudy], edits: Sequence[GraphEdits | None] | None = None
    ) -> list[Prediction]:
        """The predictions for `studies`, all in one batch. Raises UserError for edits that name what is not there."""
        if not studies:
            return []
        edits = [None] * len(studies) if edits is None else list(edits)
        views = pad_sequence([normalise(study.pixels.float().div_(255)) for study in studies], batch_first=True)
        view_counts = torch.tensor([len(study.pixels) for study in studies])
        inputs = ModelInputs(
            images=views.to(self.device),
            view_mask=(torch.arange(views.shape[1]) < view_counts[:, None]).to(self.device),
            frontal=torch.tensor([study.frontal for study in studies], device=self.device),
            overrides=self._overrides(studies, edits),
        )
        with inference(self.model), autocast(self.config.train.precision, self.device):
            generation = self.model.generate(
                inputs, GraphSource.PREDICTED, self._box_source, self.beam_size, self.config.data.max_tokens,
                with_region_attention=True,
            )
        answers = _Answers(generation, self._box_source, len(self.vocabularies.anatomy.names))
        return [
            self._prediction(study, answers, position, edit)
            for position, (study, edit) in enumerate(zip(studies, edits, strict=True))
        ]

    def _overrides(
        self, studies: Sequence[ReadStudy], edits: Sequence[GraphEdits | None]
    ) -> GraphOverrides | None:
        """The edits as the model takes them; None where nobody edits."""
        if not any(edits):
            return None
        if self.model.graph is None:
            raise UserError("This model has no scene graph to edit: it was trained with model.graph_in=none")
        anatomy, attributes = self.vocabularies.anatomy, self.vocabularies.attributes
        shape = (len(studies), len(anatomy.regions))
        boxes, boxes_given = torch.zeros(*shape, 4), torch.zeros(shape, dtype=torch.bool)
        regions = {wanted: torch.zeros(shape, dtype=torch.bool) for wanted in (True, False)}
        slots = {wanted: torch.zeros(*shape, attributes.largest, dtype=torch.bool) for wanted in (True, False)}
        for row, (study, edit) in enumerate(zip(studies, edits, strict=True)):
            if edit is None:
                continue
            if edit.only is not None:
                chosen = [anatomy.index(name) for name in edit.only]
                regions[False][row] = True
                regions[False][row, chosen], regions[True][row, chosen] = False, True
            for name, wanted in edit.regions.items():
                regions[wanted][row, anatomy.index(name)] = True
                regions[not wanted][row, anatomy.index(name)] = False
            for name, box in edit.boxes.items():
                boxes[row, anatomy.index(name)] = _normalised_box(name, box, study.image_size)
                boxes_given[row, anatomy.index(name)] = True
            for name, changes in edit.attributes.items():
                region = anatomy.index(name)
                for attribute, wanted in changes.items():
                    slot = attributes.index(region, attribute)
                    if slot is None:
                        raise UserError(f"'{attribute}' is no attribute that this model can give the region '{name}'")
                    slots[wanted][row, region, slot] = True
        tensors = (boxes, boxes_given, regions[True], regions[False], slots[True], slots[False])
        return GraphOverrides(*(tensor.to(self.device) for tensor in tensors))

    def _prediction(
        self, study: ReadStudy, answers: "_Answers", position: int, edit: GraphEdits | None
    ) -> Prediction:
        warnings = list(study.warnings)
        if edit is not None and not study.frontal:
            warnings.append("there is no graph to change without a frontal view")
        report = self.vocabularies.tokenizer.decode(answers.token_ids[position])
        sentences = self._sentences(answers, position)
        if edit is not None and edit.only is not None:
            sentences = [sentence for sentence in sentences if _names_one_of(sentence.text, edit.only)]
            report = " ".join(sentence.text for sentence in sentences)
            if not sentences:
                warnings.append(f"the model writes nothing about {', '.join(sorted(edit.only))}")
        return Prediction(
            name=study.name,
            report=report,
            sentences=sentences,
            regions=[] if answers.selected is None else [
                self._region(study, answers, position, region) for region in range(len(self.vocabularies.anatomy.names))
            ],
            observations={} if answers.observations is None else {
                name: _number(answers.observations[position, index])
                for index, name in enumerate(self.vocabularies.observations)
            },
            image_size=study.image_size,
            warnings=warnings,
        )

    def _sentences(self, answers: "_Answers", position: int) -> list[PredictedSentence]:
        names = self.vocabularies.anatomy.names
        written = sentences_of(
            answers.token_ids[position], answers.token_log_probs[position], answers.attention[position],
            answers.certainty(position, self.vocabularies.attributes.slots().numpy()), self.vocabularies.tokenizer,
        )
        sentences = []
        for sentence in written:
            shares = {names[region]: _number(sentence.regions[region]) for region in sentence.regions.nonzero()[0]}
            sentences.append(PredictedSentence(sentence.text, _descending(shares), _number(sentence.confidence)))
        return sentences

    def _region(self, study: ReadStudy, answers: "_Answers", position: int, region: int) -> PredictedRegion:
        seen, selected = bool(answers.seen[position, region]), bool(answers.selected[position, region])
        width, height = study.image_size
        box = None
        if seen:
            corners = answers.boxes[position, region] * np.array([width, height, width, height])
            box = tuple(round(float(corner), 1) for corner in corners)
        given: dict[str, float] = {}
        others: dict[str, float] = {}
        if seen:
            for slot, attribute in enumerate(self.vocabularies.attributes.by_region[region]):
                group = given if answers.attributes[position, region, slot] else others
                group[attribute] = _number(answers.attribute_probabilities[position, region, slot])
        return PredictedRegion(
            name=self.vocabularies.anatomy.names[region],
            box=box,
            probability=_number(answers.probabilities[position, region]),
            visible_probability=_number(answers.visible_probabilities[position, region]),
            selected=selected,
            abnormal=any(is_abnormal(attribute) for attribute in given),
            attributes=_descending(given),
            other_attributes=_descending(others),
        )


class _Answers:
    """The model's output for a batch as numpy arrays; those of the graph are there for a model that has one alone.

    token_ids, token_log_probs [B, T], attention [B, T, R], zeros without graph; observations [B, K] or None;
    selected [B, R] or None without graph, with which go seen, probabilities, visible_probabilities [B, R],
    boxes [B, R, 4] in 0..1, attributes, attribute_probabilities [B, R, A]
    """

    def __init__(self, generation: Generation, box_source: BoxSource, regions: int):
        encoded = generation.encoded
        self.token_ids = generation.token_ids.cpu().numpy()
        self.token_log_probs = generation.token_log_probs.float().cpu().numpy()
        self.attention = np.zeros((*self.token_ids.shape, regions))
        if generation.region_attention is not None:
            self.attention = generation.region_attention.float().cpu().numpy()
        self.observations = _probabilities(encoded.observation_logits)
        self.selected = None
        if encoded.graph is not None:
            self.selected = encoded.graph.selected.cpu().numpy()
            self.seen = encoded.attribute_regions.cpu().numpy()
            self.boxes = encoded.graph.boxes.float().cpu().numpy()
            self.attributes = encoded.graph.attributes.cpu().numpy()
            self.probabilities = _probabilities(encoded.region_logits)
            self.attribute_probabilities = _probabilities(encoded.attribute_logits)
            from_localizer = box_source == BoxSource.LOCALIZER
            # The atlas shows every region in every image.
            self.visible_probabilities = (
                _probabilities(encoded.visible_logits) if from_localizer else np.ones_like(self.probabilities)
            )

    def certainty(self, position: int, slots: NDArray) -> NDArray | None:
        """[R]: how sure the model is of each sub-graph of a study; None without graph. slots [R, A]: no padding."""
        if self.selected is None:
            return None
        return subgraph_certainty(self.attribute_probabilities[position], self.seen[position][:, None] & slots)


def _probabilities(logits: Tensor | None) -> NDArray | None:
    return None if logits is None else torch.sigmoid(logits.float()).cpu().numpy()


def _number(value: np.floating) -> float:
    """A probability as a plain number of six decimals."""
    return round(float(value), 6)


def _descending(probabilities: dict[str, float]) -> dict[str, float]:
    """The largest first; equal ones by name."""
    return dict(sorted(probabilities.items(), key=lambda item: (-item[1], item[0])))


def _names_one_of(sentence: str, regions: Iterable[str]) -> bool:
    """Whether `sentence` is about one of `regions`."""
    return any(not set(regions).isdisjoint(part.regions) for part in read_report(sentence))


def _normalised_box(region: str, box: Box, image_size: tuple[int, int]) -> Tensor:
    """[4] in 0..1. Raises UserError for a box of no area inside the image."""
    width, height = image_size
    corners = (torch.tensor(box, dtype=torch.float64) / torch.tensor([width, height, width, height])).clamp(0, 1)
    if not (torch.isfinite(corners).all() and corners[0] < corners[2] and corners[1] < corners[3]):
        x1, y1, x2, y2 = box
        raise UserError(
            f"The box {x1:g},{y1:g},{x2:g},{y2:g} of '{region}' has no area in the image of {width} x {height} pixels: "
            "give x1,y1,x2,y2 with x1 < x2 and y1 < y2"
        )
    return corners.float()


def _study_of(image: StudyLike, name: str) -> Study:
    """`image` as a study: a file is called by its name."""
    if isinstance(image, Study):
        return image
    pictures = image if isinstance(image, tuple) else (image,)
    first = pictures[0]
    return Study(readable(Path(first).name) if isinstance(first, (str, Path)) else name, pictures)


def _frontal_first(read: list[tuple[NetworkImage, Picture]]) -> list[tuple[NetworkImage, Picture]]:
    """The images of a study with a frontal one first: one that is no lateral by its file and looks like a chest.

    The first one stays first where there is no doubt about it, or no better one.
    """

    def doubt(image: NetworkImage) -> int:
        if not is_frontal_view(image.view):
            return 2
        return 0 if image.view or image.agreement >= LEAST_CHEST_AGREEMENT else 1

    best = min(read, key=lambda item: doubt(item[0]))  # of equals the first
    return [best, *(item for item in read if item is not best)]
