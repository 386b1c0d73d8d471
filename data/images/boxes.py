"""Boxes from elsewhere for the graphs of a prepared data set: from a file, or from a trained region localizer."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from data.errors import UserError
from data.ontology import Anatomy
from data.records import MALFORMED_GRAPH, is_frontal
from data.sources.fingerprints import path_fingerprint

_ROOT = Path(__file__).resolve().parents[2]


def describe_boxes(boxes: Path) -> dict:
    """What dataset.yaml says of the file or the folder `boxes`; raises UserError where it is missing or no checkpoint.

    A run folder stands for its best checkpoint, as everywhere.
    """
    if not boxes.is_dir():
        return {"source": _box_source(boxes), "fingerprint": path_fingerprint(boxes)}
    checkpoint = boxes / "best" if (boxes / "best").is_dir() else boxes
    return {"source": _box_source(boxes), "fingerprint": path_fingerprint(checkpoint / "weights.pt")}


def _box_source(boxes: Path) -> str:
    """What a graph says of boxes from there."""
    return "localizer" if boxes.is_dir() else "file"


def replace_boxes(dataset: Path, boxes: Path, found: Path) -> int:
    """Replace the boxes in the graphs of the prepared data set in the folder `dataset`.

    `boxes` is a file of the form of `DataConfig.boxes_file`, or the folder of a checkpoint: then its localizer looks
    at the packed images first, and leaves what it finds in the file `found`, if that is not there already. A graph
    gets exactly the boxes given for its study; regions without one have none. Studies without a graph, without a
    frontal image or without an entry in the file stay as they are.

    Returns how many graphs have new boxes. Raises UserError for a malformed file, one that holds none of
    the studies, and where the localizer fails.
    """
    if boxes.is_dir() and not found.exists():
        _localize(dataset, boxes, found)
    anatomy = Anatomy.load()
    given = read_boxes(found if boxes.is_dir() else boxes, "--boxes", anatomy)
    records = dataset / "records.jsonl"
    temporary = dataset / "records.jsonl.partial"
    changed = 0
    with records.open("rb") as file, temporary.open("wb") as output:
        for line in file:
            record = json.loads(line)
            if record["graph"] is not None and record["id"] in given and is_frontal(record):
                record["graph"] = _with_boxes(record["graph"], given[record["id"]], anatomy, _box_source(boxes))
                changed += 1
            output.write(json.dumps(record).encode() + b"\n")
    if not changed:
        temporary.unlink()
        raise UserError(f"--boxes {boxes} has no boxes for any graph of this data set: give those of its studies")
    temporary.replace(records)
    return changed


def read_boxes(path: Path, option: str, anatomy: Anatomy) -> dict[str, np.ndarray]:
    """Study id -> boxes of a file of JSON lines {"id": study, "boxes": {region: [x1, y1, x2, y2]}}.

    Boxes are float32 [R, 4], xyxy in 0..1 as given, NaN for regions without one: of hundreds of thousands of studies
    they take 0.2 GiB. Raises UserError, naming the file as given in `option`, where it is missing or malformed.
    """
    studies = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                boxes = np.full((len(anatomy.regions), 4), np.nan, dtype=np.float32)
                try:
                    entry = json.loads(line)
                    for name, (x1, y1, x2, y2) in entry["boxes"].items():
                        boxes[anatomy.index(name)] = x1, y1, x2, y2
                    studies[entry["id"]] = boxes
                except (*MALFORMED_GRAPH, RecursionError) as error:
                    raise UserError(
                        f"{option}={path} line {number} ({error}) is not of the form "
                        '{"id": study, "boxes": {region: [x1, y1, x2, y2]}}'
                    ) from error
    except OSError as error:
        raise UserError(f"Cannot read the boxes of {option}={path}: {error.strerror}") from error
    return studies


def _localize(dataset: Path, checkpoint: Path, found: Path) -> None:
    """Let the localizer of a checkpoint look at the images. A process of its own: data knows nothing of models."""
    command = [
        sys.executable,
        "-m",
        "modules.region_boxes",
        "--checkpoint",
        str(checkpoint.resolve()),
        "--data",
        str(dataset.resolve()),
        "--out",
        str(found.resolve()),
    ]
    status = subprocess.run(command, cwd=_ROOT, check=False).returncode
    if status != 0:
        raise UserError(
            f"The localizer of --boxes {checkpoint} failed with status {status}, see above: "
            "mend that and run the same command again; the packed images are kept"
        )


def _with_boxes(graph: dict, boxes: np.ndarray, anatomy: Anatomy, source: str) -> dict:
    """A graph with these boxes [R, 4] and no others."""
    regions = {name: region | {"box": None} for name, region in graph["regions"].items()}
    for name, corners in zip(anatomy.names, boxes.clip(0, 1).tolist(), strict=True):
        x1, y1, x2, y2 = (round(corner, 5) for corner in corners)
        if x1 < x2 and y1 < y2:
            region = regions.setdefault(name, {"box": None, "mentioned": False, "abnormal": False, "attributes": []})
            region["box"] = [x1, y1, x2, y2]
    return {"box_source": source, "regions": regions}
