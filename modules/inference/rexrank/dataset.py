"""Writes a split of a prepared data set as ReXrank's input: the JSON file and the images."""

import io
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from data.errors import cannot_read, cannot_write
from data.images.image_store import read_image_bytes
from data.records import is_frontal_view, read_records
from modules.evaluation.formats.rexrank import Studies, write_context, write_studies
from modules.evaluation.formats.sections import join_sections, split_sections
from modules.evaluation.results import write_bytes_atomically
from modules.inference.prediction_files import file_stem


def write_rexrank_input(root: Path, split: str, json_file: Path, images: Path) -> int:
    """Write the studies of a split and their images; return the number of studies.

    root        the prepared data set
    json_file   ReXrank's JSON, without generated reports
    images      the folder of the images: STUDY/0.png, STUDY/1.png, ... An image that is already there is kept

    A report without headings is the findings. The context has the indication alone. Raises UserError if the data set
    cannot be read, or a file cannot be written.
    """
    studies: Studies = {}
    taken: set[str] = set()
    for record in tqdm(read_records(root, split), unit="study", disable=None):
        folder = file_stem(record["id"], taken)
        paths = [f"{folder}/{position}.png" for position in range(len(record["images"]))]
        for path, reference in zip(paths, record["images"], strict=True):
            if not (images / path).is_file():
                _write_png(images / path, root, reference)
        frontal = [is_frontal_view(view) for view in record["views"]]
        sections = split_sections(record["report"])
        impression = sections.impression or record.get("impression") or ""
        studies[record["id"]] = {
            "key_image_path": paths[frontal.index(True) if True in frontal else 0],
            "image_path": paths,
            "report": join_sections(sections.findings, impression),
            "section_findings": sections.findings or None,
            "section_impression": impression or None,
            "split": split,
            "frontal_lateral": ["Frontal" if each else "Lateral" for each in frontal],
            "context": write_context(record.get("indication")),
        }
    write_studies(json_file, studies)
    return len(studies)


def _write_png(path: Path, root: Path, reference: str) -> None:
    try:
        content = read_image_bytes(root, reference)
        encoded = io.BytesIO()
        with Image.open(io.BytesIO(content)) as image:
            image.save(encoded, "PNG")
    except (OSError, EOFError, ValueError) as error:
        raise cannot_read(f"the image {reference} of {root}", error, "prepare the data set again") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    write_bytes_atomically(path, [encoded.getvalue()])
