"""Files of random content: well-formed ones of the kinds that the program reads, damaged up to four times."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from benchmarks.chaos.commands import Inputs
from benchmarks.chaos.damage import DAMAGES, Generator
from benchmarks.chaos.processes import Main
from data import labeler, text_graph
from data.errors import UserError
from data.images.boxes import read_boxes
from data.ontology import Anatomy
from data.records import count_studies
from modules.builders import build_dataset, build_vocabularies
from modules.config import load_config
from modules.training.run_log import read_curves

IMAGES = 8
_FORMATS = (("PNG", "png"), ("JPEG", "jpg"), ("TIFF", "tif"))
# Values that a parser may stumble over.
_ODD = (None, "", "nan", float("inf"), 2**62, -1, 10**400, [], {}, [[[]]] * 3, "\ud800", "${oc.env:HOME}", True, "\0")

Fuzzed = Callable[[Generator, Path, Inputs], tuple[Main, list[str], str]]


def damage_often(content: bytes, generator: Generator) -> bytes:
    """Damage `content` one to four times."""
    for _ in range(int(generator.integers(1, 5))):
        content = DAMAGES[generator.integers(len(DAMAGES))](content, generator)
    return content


def write_fuzzed_images(folder: Path, generator: Generator) -> list[str]:
    """Write images of random sizes, most of them damaged; return their names."""
    names = []
    for number in range(IMAGES):
        kind, suffix = _FORMATS[generator.integers(len(_FORMATS))]
        height, width = generator.integers(1, 80, size=2)
        encoded = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (height, width), dtype=np.uint8)).save(encoded, kind)
        content = encoded.getvalue()
        names.append(f"image{number}.{suffix}")
        (folder / names[-1]).write_bytes(content if generator.random() < 0.2 else damage_often(content, generator))
    return names


def _as_command(read: Callable[[], object]) -> Main:
    """Return a command that reads a file and prints errors as all commands do."""
    def main(arguments: list[str]) -> int:
        try:
            read()
        except UserError as error:
            print(error, file=sys.stderr)
            return 1
        return 0

    return main


def _odd_value(generator: Generator) -> object:
    return _ODD[generator.integers(len(_ODD))]


def _change_value(content: object, generator: Generator, descend: float = 1.0) -> object:
    """Replace a random value at a random depth of nested lists and dictionaries by an odd one.

    descend   probability of a value inside `content` instead of all of it
    """
    if isinstance(content, dict) and content and generator.random() < descend:
        key = list(content)[generator.integers(len(content))]
        return content | {key: _change_value(content[key], generator, 0.6)}
    if isinstance(content, list) and content and generator.random() < descend:
        position = int(generator.integers(len(content)))
        return [*content[:position], _change_value(content[position], generator, 0.6), *content[position + 1 :]]
    return _odd_value(generator)


def _fuzz_json_line(line: bytes, generator: Generator) -> bytes:
    if generator.random() < 0.5:
        return damage_often(line, generator).replace(b"\n", b" ") + b"\n"
    return json.dumps(_change_value(json.loads(line), generator)).encode() + b"\n"


def _config(generator: Generator, folder: Path, inputs: Inputs) -> tuple[Main, list[str], str]:
    """A configuration, as main_train.py reads it."""
    content = (inputs.run / "config.yaml").read_bytes()
    path = folder / "config.yaml"
    if generator.random() < 0.5:
        path.write_bytes(damage_often(content, generator))
    else:
        changed = _change_value(yaml.safe_load(content), generator)
        path.write_bytes(yaml.safe_dump(changed, allow_unicode=False).encode())
    return _as_command(lambda: load_config(path)), [], "config.yaml"


def _records(generator: Generator, folder: Path, inputs: Inputs) -> tuple[Main, list[str], str]:
    """The records of a data set without manifest: each is read, as for a test."""
    root = folder / "data"
    root.mkdir()
    (root / "dataset.yaml").write_text("name: fuzzed\ncounts: {}\n", encoding="utf-8")
    lines = (inputs.data / "records.jsonl").read_bytes().splitlines(keepends=True)
    number = int(generator.integers(len(lines)))
    lines[number] = _fuzz_json_line(lines[number], generator)
    (root / "records.jsonl").write_bytes(b"".join(lines))

    def read() -> None:
        config = load_config(inputs.run / "config.yaml", [f"data.root={root}"])
        vocabularies = build_vocabularies(config)
        for split, studies in count_studies(root).items():
            dataset = build_dataset(config, vocabularies, split) if studies else []
            for index in range(len(dataset)):
                dataset.read_annotation(index)
                dataset.read_reference(index)

    return _as_command(read), [], f"records.jsonl line {number + 1}"


def _boxes(generator: Generator, folder: Path, inputs: Inputs) -> tuple[Main, list[str], str]:
    """A boxes file."""
    line = json.dumps({"id": "a", "boxes": {"spine": [0.1, 0.2, 0.3, 0.4], "left lung": [0, 0, 1, 1]}}).encode()
    path = folder / "boxes.jsonl"
    path.write_bytes(_fuzz_json_line(line, generator))
    return _as_command(lambda: read_boxes(path, "--boxes", Anatomy.load())), [], "boxes.jsonl"


def _log(generator: Generator, folder: Path, inputs: Inputs) -> tuple[Main, list[str], str]:
    """The log of a run, whose curves are drawn."""
    lines = (inputs.run / "log.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "log.jsonl").write_bytes(b"".join(_fuzz_json_line(line, generator) for line in lines))
    return _as_command(lambda: read_curves(folder)), [], "log.jsonl"


def _table(generator: Generator, folder: Path) -> Path:
    content = b"id,report\n1,The heart is enlarged. No effusion.\n2,\"Clear lungs, \"\"stable\"\".\"\n"
    path = folder / "reports.csv"
    path.write_bytes(damage_often(content, generator))
    return path


def _labels(generator: Generator, folder: Path, inputs: Inputs) -> tuple[Main, list[str], str]:
    """A table of reports, as the labeler reads it."""
    return labeler.main, [str(_table(generator, folder)), str(folder / "labels.csv")], "reports.csv"


def _graphs(generator: Generator, folder: Path, inputs: Inputs) -> tuple[Main, list[str], str]:
    """A table of reports, from which graphs are made."""
    return text_graph.main, [str(_table(generator, folder)), str(folder / "graphs.jsonl")], "reports.csv"


FUZZED: dict[str, Fuzzed] = {
    "config": _config, "records": _records, "boxes": _boxes, "log": _log, "labels": _labels, "graphs": _graphs,
}  # fmt: skip
