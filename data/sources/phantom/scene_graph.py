"""The scene graphs of phantom studies, in Chest ImaGenome's schema."""

from collections.abc import Sequence

import numpy as np

from data.sources.phantom.findings import FINDING_KINDS
from data.sources.phantom.patient import Patient
from data.sources.phantom.physics import SimulatedView
from data.sources.phantom.reports import Sentence

# Side of the padded image that Chest ImaGenome's coordinates refer to, in pixels.
_FRAME_SIDE = 224
_CORNERS = ("x1", "y1", "x2", "y2")


def build_scene_graph(
    study_id: str, number: int, patient: Patient, view: SimulatedView, sentences: Sequence[Sentence],
    order: int = 1, prior_id: str | None = None, taken: str = "2100-01-01 00:00:00 UTC",
) -> dict:
    """Build the scene graph of a study, without UMLS identifiers.

    order, prior_id, taken   position of the study among its patient's, the previous study, and the time

    Comparisons of the `sentences` are with the previous study; without one, there are none.

    Original coordinates are rounded to a hundredth of a pixel, the others to whole pixels of the padded 224-pixel
    image.
    """
    size = len(view.image)
    return {
        "image_id": study_id,
        "viewpoint": patient.view,
        "patient_id": number - order + 1,
        "study_id": number,
        "gender": patient.sex,
        "age_decile": f"{patient.age // 10 * 10}-{patient.age // 10 * 10 + 10}",
        "reason_for_exam": "",
        "StudyOrder": order,
        "StudyDateTime": taken,
        "objects": [_object(study_id, region, box, size) for region, box in view.boxes.items() if box],
        "attributes": _attribute_entries(study_id, number, sentences),
        "relationships": _relationships(study_id, number, sentences, prior_id) if prior_id else [],
    }


def _object(study_id: str, region: str, box: Sequence[float], size: int) -> dict:
    ratio = _FRAME_SIDE / size
    original = [round(corner * size, 2) for corner in box]
    frame = [round(corner * ratio) for corner in original]
    entry = {"object_id": f"{study_id}_{region}"}
    entry |= dict(zip(_CORNERS, frame, strict=True))
    entry |= {"width": frame[2] - frame[0], "height": frame[3] - frame[1]}
    entry |= {"bbox_name": region, "synsets": [], "name": region.capitalize()}
    entry |= dict(zip((f"original_{corner}" for corner in _CORNERS), original, strict=True))
    return entry | {
        "original_width": round(original[2] - original[0], 2), "original_height": round(original[3] - original[1], 2),
    }


def _attribute_entries(study_id: str, number: int, sentences: Sequence[Sentence]) -> list[dict]:
    """Return one entry per region that the sentences are about; those about no region are filed under "unknown"."""
    entries: dict[str, dict] = {}
    for position, sentence in enumerate(sentences):
        if not sentence.attributes:
            continue
        for region in sentence.regions or ("unknown",):
            entry = entries.setdefault(region, {
                region: True, "bbox_name": region, "synsets": [], "name": region.capitalize(), "attributes": [],
                "attributes_ids": [], "phrases": [], "phrase_IDs": [], "sections": [], "comparison_cues": [],
                "temporal_cues": [], "severity_cues": [], "texture_cues": [], "object_id": f"{study_id}_{region}",
            })
            entry["attributes"].append([*sentence.attributes, _judgement(sentence)])
            entry["attributes_ids"].append([])
            entry["phrases"].append(sentence.text)
            entry["phrase_IDs"].append(f"{number}|{position}")
            entry["sections"].append("finalreport")
            entry["comparison_cues"].append([f"comparison|yes|{sentence.comparison}"] if sentence.comparison else [])
            entry["temporal_cues"].append([])
            entry["severity_cues"].append([f"severity|yes|{sentence.severity}"] if sentence.severity else [])
            entry["texture_cues"].append([a for a in sentence.attributes if a.startswith("texture|")])
    return list(entries.values())


def _judgement(sentence: Sentence) -> str:
    return f"nlp|yes|{'abnormal' if sentence.abnormal else 'normal'}"


def _relationships(study_id: str, number: int, sentences: Sequence[Sentence], prior_id: str) -> list[dict]:
    """Return the comparisons of regions with the study `prior_id`; Chest ImaGenome has no "new" and "resolved"."""
    predicates = {
        "improved": "['Improved']", "worsened": "['Worsened']", "no change": "['No status change']", "new": "['New']",
        "resolved": "['Resolved']",
    }
    relationships = []
    for position, sentence in enumerate(sentences):
        for region in sentence.regions if sentence.comparison else ():
            relationships.append({
                "relationship_id": f"{number}|{position}_{study_id}_{region}",
                "predicate": predicates[sentence.comparison],
                "synsets": [],
                "relationship_names": [f"comparison|yes|{sentence.comparison}"],
                "relationship_contexts": [1.0],
                "phrase": sentence.text,
                "attributes": [*sentence.attributes, _judgement(sentence)],
                "bbox_name": region,
                "subject_id": f"{study_id}_{region}",
                "object_id": f"{prior_id}_{region}",
            })
    return relationships


def add_annotation_noise(scene_graph: dict, noise: float, size: int, rng: np.random.Generator) -> None:
    """Disturb a scene graph, in place, so that it is as unreliable as an automatic annotation.

    Each attribute is dropped with probability `noise`; each phrase gains an invented one with probability `noise / 2`;
    box edges move with a standard deviation of `0.2 * noise` of the box's width or height.
    """
    labels = [kind.label.split("|") for kind in FINDING_KINDS.values()]
    for entry in scene_graph["attributes"]:
        for attributes in entry["attributes"]:
            attributes[:] = [a for a in attributes if a.startswith("nlp|") or rng.random() >= noise]
            if rng.random() < noise / 2:
                category, label = labels[rng.integers(len(labels))]
                attributes.insert(0, f"{category}|yes|{label}")
    for position, entry in enumerate(scene_graph["objects"]):
        x1, y1, x2, y2 = (entry[f"original_{corner}"] for corner in _CORNERS)
        moves = 0.2 * noise * rng.standard_normal(4) * [x2 - x1, y2 - y1, x2 - x1, y2 - y1]
        moved = np.clip((np.array([x1, y1, x2, y2]) + moves) / size, 0, 1)
        if moved[0] < moved[2] and moved[1] < moved[3]:
            study_id, region = scene_graph["image_id"], entry["bbox_name"]
            scene_graph["objects"][position] = _object(study_id, region, moved.tolist(), size)
