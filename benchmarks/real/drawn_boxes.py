"""Measures whether a model points at what radiologists drew: boxes of eight findings in ChestX-ray14.

    python -m benchmarks drawn_boxes --checkpoint results/demo --data ../shared/real [--limit N] [--out FILE.json]

Every drawn box of FOLDER/nih_cxr14 asks where a finding is that its image is known to have. An answer is right if its
box covers the centre of the drawn one. Answers:

    attribute   the region with the highest probability of an attribute of the finding
    sentence    the region that the first sentence about the finding attends to most; wrong if no sentence is
    frequent    the region that is right most often for the finding in images of other patients
    lung        the left or the right lung, at random: the mean of both
    CAM         the region with the highest mean in the class-activation map of the observation head (Zhou et al. 2016,
                https://arxiv.org/abs/1512.04150)

Regions have the boxes that the model predicts. Larger boxes are right more often, so their mean area is printed too.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import UserError, cannot_read, missing
from data.images.network_input import normalise_views
from data.ontology import FILES, read_yaml
from data.text.report_labels import label_report
from data.text.report_tables import read_table
from modules.evaluation.evaluator import inference
from modules.evaluation.metrics.weighted import ScoreSet, mean_score
from modules.evaluation.results import write_atomically
from modules.inference.prediction import Prediction
from modules.inference.predictor import Predictor

# Finding of ChestX-ray14 -> the observations whose attributes and sentences count as this finding.
FINDINGS = {
    "Atelectasis": ("Atelectasis",), "Cardiomegaly": ("Cardiomegaly",), "Effusion": ("Pleural Effusion",),
    "Infiltration": ("Lung Opacity",), "Mass": ("Lung Lesion",), "Nodule": ("Lung Lesion",),
    "Pneumonia": ("Pneumonia", "Consolidation"), "Pneumothorax": ("Pneumothorax",),
}
ANSWERS = ("attribute", "sentence", "frequent", "lung", "CAM")

Box = Sequence[float]


@dataclass(frozen=True)
class DrawnBox:
    """A box that a radiologist drew: its image, patient, finding, and xyxy in pixels of the image."""

    image: Path
    patient: str
    finding: str
    box: Box


@dataclass(frozen=True)
class Answer:
    """The boxes with which one drawn box is answered, by the names of `ANSWERS`.

    right       share of right answers: 0 or 1, or the mean of both lungs; NaN if the model has no such answer
    area        of the answered box, as a share of the image; NaN without an answer
    in_graph    whether the graph of the model has the finding
    by_region   [R] bool: whether the box of each region is right
    """

    drawn: DrawnBox
    right: dict[str, float]
    area: dict[str, float]
    in_graph: bool
    by_region: NDArray


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `drawn_boxes`."""
    parser = commands.add_parser("drawn_boxes", help="whether graphs and sentences point at drawn boxes")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="contains nih_cxr14: ../shared/real")
    parser.add_argument("--limit", type=int, metavar="N", help="use the first N images (default: all)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also write the numbers")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Answer every drawn box and print the table."""
    drawn = read_drawn_boxes(options.data / "nih_cxr14")
    images = list(dict.fromkeys(each.image for each in drawn))[: options.limit]
    predictor = Predictor(options.checkpoint)
    answers = list(answer_boxes(predictor, [each for each in drawn if each.image in set(images)]))
    table = summarise(answers)
    print(f"{options.checkpoint}: {len(images)} images, {len(answers)} boxes; share of right answers (95 % interval)")
    print(f"{'finding':<14}{'boxes':>6}{'in graph':>10}" + "".join(f"{name:>22}" for name in ANSWERS))
    for finding, row in table.items():
        cells = "".join(f"{_format_cell(row['answers'][name]):>22}" for name in ANSWERS)
        print(f"{finding:<14}{row['boxes']:>6}{row['in_graph']:>10.1%}{cells}")
    areas = "".join(f"{_format_share(table['all']['area'][name]):>22}" for name in ANSWERS)
    print(f"{'mean area':<14}{'':>16}{areas}")
    if options.out is not None:
        content = {"checkpoint": options.checkpoint, "findings": table}
        write_atomically(options.out, [json.dumps(content, indent=1) + "\n"])


def read_drawn_boxes(folder: Path) -> list[DrawnBox]:
    """Read the boxes of the eight findings. Raises UserError if the table or an image is missing or malformed."""
    path = folder / "labels.csv"
    if not path.is_file():
        raise missing("table of ChestX-ray14", path, "give --data the folder that contains nih_cxr14")
    drawn = []
    try:
        for row in read_table(path, ("image", "patient", "boxes")):
            for entry in json.loads(row["boxes"] or "[]"):
                if entry["finding"] in FINDINGS:
                    x1, y1, x2, y2 = map(float, entry["xyxy"])
                    image = folder / "images" / row["image"]
                    drawn.append(DrawnBox(image, row["patient"], entry["finding"], (x1, y1, x2, y2)))
    except (ValueError, KeyError, TypeError) as error:
        raise cannot_read(path, error, "its column boxes lists {finding, xyxy}") from error
    if not drawn:
        raise UserError(f"{path} has no drawn boxes: give a table with some in its column boxes")
    return drawn


def answer_boxes(predictor: Predictor, drawn: Sequence[DrawnBox]) -> Iterator[Answer]:
    """Predict every image once, in batches, and answer its boxes. The answer "frequent" is still missing."""
    if predictor.model.graph is None:
        raise UserError("This model has no scene graph: use one that was trained with model.graph_in other than none")
    by_image: dict[Path, list[DrawnBox]] = {}
    for each in drawn:
        by_image.setdefault(each.image, []).append(each)
    images = list(by_image)
    for start in range(0, len(images), predictor.batch_size):
        batch = images[start : start + predictor.batch_size]
        studies = [predictor.read(image) for image in batch]
        maps = activation_maps(predictor, torch.stack([study.pixels[0] for study in studies]))
        for position, (image, prediction) in enumerate(zip(batch, predictor.predict_read(studies), strict=True)):
            of_image = None
            if maps is not None:
                of_image = dict(zip(predictor.vocabularies.observations, maps[position], strict=True))
            for each in by_image[image]:
                yield answer_box(each, prediction, of_image)


def activation_maps(predictor: Predictor, pixels: torch.Tensor) -> NDArray | None:
    """Return the class-activation maps of images [B, H, H] uint8, [B, K, G, G]; None without an observation head."""
    model = predictor.model
    if model.observation_head is None:
        return None
    views = pixels.unsqueeze(1).to(predictor.device)
    mask = torch.ones(len(views), 1, dtype=torch.bool, device=predictor.device)
    with inference(model):
        grid = model.patch_encoder(normalise_views(views, mask), mask).frontal_grid
        maps = torch.einsum("kc,bcxy->bkxy", model.observation_head.head.weight, grid)
    return maps.float().cpu().numpy()


def answer_box(drawn: DrawnBox, prediction: Prediction, maps: dict[str, NDArray] | None) -> Answer:
    """Answer one drawn box with the prediction for its image and its class-activation maps by observation."""
    width, height = prediction.image_size
    scale = np.array([width, height, width, height])
    boxes = {region.name: np.array(region.box) / scale for region in prediction.regions if region.box is not None}
    centre = (np.array(drawn.box[:2]) + drawn.box[2:]) / 2 / (width, height)
    region, in_graph = most_probable_region(prediction, attributes_of(drawn.finding))
    chosen: dict[str, list[NDArray]] = {
        "attribute": [boxes[region]] if region in boxes else [],
        "sentence": [boxes[name] for name in [attended_region(prediction, drawn.finding)] if name in boxes],
        "lung": [boxes[name] for name in ("left lung", "right lung") if name in boxes],
    }
    if maps is not None:
        activation = sum(maps[name] for name in FINDINGS[drawn.finding])
        chosen["CAM"] = [max(boxes.values(), key=lambda box: mean_inside(activation, box))] if boxes else []
    right = {name: float(np.mean([_covers(box, centre) for box in found] or [0])) for name, found in chosen.items()}
    area = {name: float(np.mean([_area(box) for box in found])) if found else np.nan for name, found in chosen.items()}
    by_region = np.array([entry.name in boxes and _covers(boxes[entry.name], centre) for entry in prediction.regions])
    return Answer(drawn, right, area, in_graph, by_region)


def attributes_of(finding: str) -> set[str]:
    """Return the attributes, as the vocabulary has them, that make the observations of a finding positive."""
    lists = read_yaml(FILES / "observations.yaml")["from_attributes"]
    return {each.replace("|", "|yes|", 1) for observation in FINDINGS[finding] for each in lists[observation]}


def most_probable_region(prediction: Prediction, attributes: set[str]) -> tuple[str | None, bool]:
    """Return the region with the most probable of the `attributes`, and whether the graph has any of them."""
    best, highest, in_graph = None, -1.0, False
    for region in prediction.regions:
        in_graph |= not attributes.isdisjoint(region.attributes)
        for name, probability in (region.attributes | region.other_attributes).items():
            if name in attributes and probability > highest:
                best, highest = region.name, probability
    return best, in_graph


def attended_region(prediction: Prediction, finding: str) -> str | None:
    """Return the region that the first sentence with the finding attends to most; None without such a sentence."""
    for sentence in prediction.sentences:
        labels = label_report(sentence.text)
        if sentence.regions and any(labels.get(name) in (1, -1) for name in FINDINGS[finding]):
            return next(iter(sentence.regions))
    return None


def mean_inside(activation: NDArray, box: NDArray) -> float:
    """Return the mean of a map [G, G] in a box, xyxy in 0..1; cells that are cut count by the part inside."""
    edges = np.arange(len(activation) + 1) / len(activation)
    width, height = (
        (np.minimum(edges[1:], box[axis + 2]) - np.maximum(edges[:-1], box[axis])).clip(min=0) for axis in (0, 1)
    )
    return float(height @ activation @ width / max(height.sum() * width.sum(), 1e-9))


def _covers(box: NDArray, point: NDArray) -> bool:
    return bool((box[:2] <= point).all() and (point <= box[2:]).all())


def _area(box: NDArray) -> float:
    return float((box[2:] - box[:2]).clip(min=0).prod())


def summarise(answers: Sequence[Answer]) -> dict[str, dict]:
    """Return the shares of right answers with intervals, by finding and for all; intervals resample patients."""
    frequent = frequent_answers(answers)
    table = {}
    present = [finding for finding in FINDINGS if any(each.drawn.finding == finding for each in answers)]
    for finding in (*present, "all"):
        chosen = [number for number, each in enumerate(answers) if finding in ("all", each.drawn.finding)]
        units = np.unique([answers[number].drawn.patient for number in chosen], return_inverse=True)[1]
        rows, areas = {}, {}
        for name in ANSWERS:
            values = [frequent[n] if name == "frequent" else answers[n].right.get(name, np.nan) for n in chosen]
            result = ScoreSet({name: mean_score(np.array(values, dtype=float))}).evaluate(len(chosen), units=units)
            rows[name] = {"right": result.scores[name], "interval": result.intervals[name]}
            known = [answers[n].area[name] for n in chosen if not np.isnan(answers[n].area.get(name, np.nan))]
            areas[name] = float(np.mean(known)) if known else None
        table[finding] = {
            "boxes": len(chosen), "in_graph": float(np.mean([answers[n].in_graph for n in chosen])),
            "answers": rows, "area": areas,
        }
    return table


def frequent_answers(answers: Sequence[Answer]) -> NDArray:
    """Return, for each drawn box, whether the region is right that is so most often for other patients, [n] float.

    NaN if no other patient has the finding.
    """
    right = np.array([each.by_region for each in answers], dtype=float)
    findings = np.array([each.drawn.finding for each in answers])
    patients = np.array([each.drawn.patient for each in answers])
    found = np.full(len(answers), np.nan)
    for number in range(len(answers)):
        others = (findings == findings[number]) & (patients != patients[number])
        if others.any():
            found[number] = right[number, right[others].sum(0).argmax()]
    return found


def _format_cell(cell: dict) -> str:
    if cell["right"] is None:
        return "-"
    interval = cell["interval"]
    return f"{cell['right']:.1%}" + ("" if interval is None else f" ({interval[0]:.1%}-{interval[1]:.1%})")


def _format_share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
