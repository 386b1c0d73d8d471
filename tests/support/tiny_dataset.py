"""A prepared data set of a few invented studies, written in milliseconds."""

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

_ROOT = Path(__file__).resolve().parents[2]

_SUBJECTS = ("the heart", "the left lung", "the right lung", "the mediastinum", "the aorta", "the spine", "one angle")
_STATES = ("is clear", "is normal", "looks enlarged", "shows a small effusion", "is stable", "has scars", "is blunted")
_CLOSINGS = ("no pneumothorax", "no acute bone lesion", "findings are unchanged", "lines end in good place")
_FINDINGS = ("anatomicalfinding|yes|pleural effusion", "anatomicalfinding|no|pneumothorax", "nlp|yes|abnormal",
             "nlp|yes|normal", "anatomicalfinding|yes|atelectasis", "device|yes|sternotomy wires")


def write_tiny_dataset(
    root: str | Path, train: int = 8, val: int = 3, test: int = 3, image_size: int = 64, views: int = 1, seed: int = 0
) -> Path:
    """Write a prepared data set to the folder `root` and return it.

    Images are noise with a bright rectangle in the left lung's box. Some regions have no box. In the training split,
    the second study has no graph, the third no observations, the fourth a graph without boxes. With `views=2` every
    other study also has a lateral image.
    """
    root = Path(root)
    (root / "images").mkdir(parents=True)
    generator = np.random.default_rng(seed)
    regions = yaml.safe_load((_ROOT / "files/anatomy.yaml").read_text(encoding="utf-8"))["regions"]
    observations = yaml.safe_load((_ROOT / "files/observations.yaml").read_text(encoding="utf-8"))["observations"]
    counts = {"train": train, "val": val, "test": test}
    with (root / "records.jsonl").open("w", encoding="utf-8") as file:
        for split, count in counts.items():
            for number in range(count):
                record = _record(f"{split}{number}", split, regions, observations, generator)
                if split == "train":
                    _remove_annotation(record, number)
                record["views"] = ["PA", "LATERAL"][: 1 + number % 2] if views == 2 else ["PA"]
                for view in range(len(record["views"])):
                    name = f"images/{record['id']}_{view}.png"
                    _write_image(root / name, image_size, record["graph"], generator)
                    record["images"].append(name)
                file.write(json.dumps(record) + "\n")
    description = {"name": "tiny", "image_size": image_size, "counts": counts, "seed": seed}
    (root / "dataset.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
    return root


def _record(study_id: str, split: str, regions: list[dict], observations: list[str], generator) -> dict:
    """A study without images yet."""
    graph = {}
    for region in regions:
        if generator.random() < 0.05:
            continue
        mentioned = bool(generator.random() < 0.5)
        box = None
        if generator.random() > 0.05:
            box = (np.array(region["box"]) + generator.uniform(-0.04, 0.04, size=4)).clip(0, 1).round(4).tolist()
        drawn = generator.choice(_FINDINGS, size=generator.integers(0, 4), replace=False).tolist() if mentioned else []
        abnormal = bool(mentioned and generator.random() < 0.4)
        graph[region["name"]] = {"box": box, "mentioned": mentioned, "abnormal": abnormal, "attributes": drawn}
    sentences = [f"{generator.choice(_SUBJECTS)} {generator.choice(_STATES)}" for _ in range(2)]
    sentences.append(str(generator.choice(_CLOSINGS)))
    labels = {name: int(generator.choice([1, 0, -1])) for name in observations if generator.random() < 0.6}
    report = ". ".join(sentence.capitalize() for sentence in sentences) + "."
    return {"id": study_id, "split": split, "images": [], "views": [], "report": report, "observations": labels,
            "graph": {"regions": graph}}


def _remove_annotation(record: dict, number: int) -> None:
    """Remove one kind of annotation from some studies of the training split."""
    if number == 1:
        record["graph"] = None
    elif number == 2:
        record["observations"] = None
    elif number == 3:
        for region in record["graph"]["regions"].values():
            region["box"] = None


def _write_image(path: Path, image_size: int, graph: dict | None, generator) -> None:
    """Write dark noise with a bright rectangle in the left lung's box, if the graph has it."""
    pixels = generator.integers(0, 80, size=(image_size, image_size), dtype=np.uint8)
    box = graph and graph["regions"].get("left lung", {}).get("box")
    if box:
        x1, y1, x2, y2 = (round(value * image_size) for value in box)
        pixels[y1:y2, x1:x2] += 150
    Image.fromarray(pixels).save(path)
