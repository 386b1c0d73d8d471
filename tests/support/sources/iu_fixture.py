"""IU X-Ray downloads in every layout, with made-up texts, numbers and images."""

import csv
import io
import json
import re
import tarfile
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pydicom
import pytest
import yaml
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from data.ontology import observation_names
from data.prepare import main

REAL = Path(__file__).resolve().parents[4] / "shared" / "real" / "iu_xray"
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="the real IU X-Ray files are not beside the checkout")

FINDINGS = {
    1: "The heart is large.",
    9001: "Small left pleural effusion. Heart size normal.",
    9002: "Lungs are clear, compared with XXXX/XXXX x-XXXX.",
    9005: "No pneumothorax.",
    9006: "Low lung volumes.",
}
INDICATION = "Fever, invented."
IMPRESSION = {1: "Cardiomegaly.", 9001: "Effusion.", 9002: "", 9003: "Normal.", 9005: "Normal.", 9006: "No change."}
# Images of each report, as listed by Open-i. 9003 has no FINDINGS, 9004 has no images, 9005 has only one.
IMAGES = {
    1: ["CXR1_1_IM-9101-3001", "CXR1_1_IM-9101-4001"],
    9001: ["CXR9001_IM-9201-1001", "CXR9001_IM-9201-2001"],
    9002: ["CXR9002_IM-9202-0001-0001", "CXR9002_IM-9202-0001-0002", "CXR9002_IM-9202-0001-0003"],
    9003: ["CXR9003_IM-9203-1001", "CXR9003_IM-9203-2001"],
    9004: [],
    9005: ["CXR9005_IM-9205-1001"],
    9006: ["CXR9006_IM-9206-1001", "CXR9006_IM-9206-2001"],
}
SPLITS = {
    "CXR1_1_IM-9101": "train",
    "CXR9001_IM-9201": "val",
    "CXR9002_IM-9202-0001": "train",
    "CXR9006_IM-9206": "test",
}
# In report 1 the lateral image is first; 9002 has two frontal images before the lateral one.
PROJECTIONS = {
    "CXR1_1_IM-9101-3001": "Lateral",
    "CXR1_1_IM-9101-4001": "Frontal",
    "CXR9001_IM-9201-1001": "Frontal",
    "CXR9001_IM-9201-2001": "Lateral",
    "CXR9002_IM-9202-0001-0001": "Frontal",
    "CXR9002_IM-9202-0001-0002": "Frontal",
    "CXR9002_IM-9202-0001-0003": "Lateral",
    "CXR9006_IM-9206-1001": "Frontal",
    "CXR9006_IM-9206-2001": "Lateral",
}
ALL_NAMES = [name for names in IMAGES.values() for name in names]


def report_xml(number, images=(), **sections):
    """Return one of Open-i's XML files, with the sections in this order; None gives an empty element."""
    texts = "".join(
        f"<AbstractText Label={quoteattr(label)}>{escape(text)}</AbstractText>"
        if text is not None
        else f"<AbstractText Label={quoteattr(label)}/>"
        for label, text in sections.items()
    )
    parents = "".join(f"<parentImage id={quoteattr(image)}><caption>Xray</caption></parentImage>" for image in images)
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<eCitation><uId id="CXR{number}"/><MedlineCitation><Article>'
        f"<Abstract>{texts}</Abstract></Article></MedlineCitation>{parents}</eCitation>"
    ).encode()


def xml_files():
    """Return file name -> content of all XML files."""
    return {
        f"{number}.xml": report_xml(
            number,
            images,
            IMPRESSION=IMPRESSION.get(number),
            INDICATION=INDICATION,
            FINDINGS=FINDINGS.get(number),
            COMPARISON="None.",
        )
        for number, images in IMAGES.items()
    }


def make_pixels(name):
    """Return pixels [48, 40] uint8 that depend on the name."""
    rows, columns = np.mgrid[:48, :40]
    return ((rows * 3 + columns * 2 + sum(name.encode())) % 256).astype(np.uint8)


def png_image(name):
    """Return the image of a name as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(make_pixels(name)).save(file, "PNG")
    return file.getvalue()


def dicom_image(name):
    """Return the image of a name as a DICOM file, with the view that the projections state."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.1", "1.2.3", "CR"
    dataset.Rows, dataset.Columns = make_pixels(name).shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PhotometricInterpretation = 7, "MONOCHROME2"
    dataset.ViewPosition = "LL" if PROJECTIONS.get(name) == "Lateral" else "PA"
    dataset.PixelData = make_pixels(name).tobytes()
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def write_files(folder, contents):
    """Write the files `contents` (path -> bytes) below a folder and return it."""
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_archive(path, contents, mode="w:gz"):
    """Write the files `contents` into a tar archive and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def csv_table(rows):
    """Return a CSV file with these rows, given as dictionaries."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def label_row(column, study, **labels):
    """Return a row of a label table; `column` contains the study's id or report."""
    return {column: study} | dict.fromkeys(observation_names(), "") | labels


def kaggle_name(name):
    """Return the file name of an image on Kaggle."""
    return re.sub("^CXR(1_)?(?=1_IM)|^CXR", "", name) + ".dcm.png"


def projections_table():
    """Return `indiana_projections.csv`."""
    return csv_table(
        [
            {"uid": re.match(r"CXR(\d+)", name)[1], "filename": kaggle_name(name), "projection": projection}
            for name, projection in PROJECTIONS.items()
        ]
    )


def kaggle_files():
    """Return path -> content of Kaggle's layout."""
    rows = [
        {"uid": number, "findings": FINDINGS.get(number, ""), "impression": IMPRESSION[number], "MeSH": "normal",
         "indication": INDICATION, "comparison": "None."}
        for number in IMAGES
        if IMAGES[number]
    ]
    images = {f"images/images_normalized/{kaggle_name(name)}": png_image(name) for name in ALL_NAMES}
    return {"indiana_reports.csv": csv_table(rows), "indiana_projections.csv": projections_table(), **images}


def r2gen_files():
    """Return path -> content of R2Gen's layout."""
    annotation = {"train": [], "val": [], "test": []}
    images = {}
    for study_id, split in SPLITS.items():
        number = int(re.match(r"CXR(\d+)", study_id)[1])
        paths = [f"{study_id}/{position}.png" for position in (0, 1)]
        annotation[split].append({"id": study_id, "report": FINDINGS[number], "image_path": paths, "split": split})
        images |= {f"images/{path}": png_image(name) for path, name in zip(paths, IMAGES[number], strict=False)}
    return {"annotation.json": json.dumps(annotation).encode(), **images}


OPEN_I = {"ecgen-radiology/" + name: content for name, content in xml_files().items()}
LAYOUTS = {
    "Open-i": OPEN_I | {f"png/{name}.png": png_image(name) for name in ALL_NAMES},
    "Open-i with projections": OPEN_I
    | {f"png/{name}.png": png_image(name) for name in ALL_NAMES}
    | {"indiana_projections.csv": projections_table()},
    "DICOM": OPEN_I | {f"dcm/{kaggle_name(name).removesuffix('.png')}": dicom_image(name) for name in ALL_NAMES},
    "Kaggle": kaggle_files(),
    "R2Gen": r2gen_files(),
}


def prepare_iu(source, out, *options):
    """Run the command; return the records by id, and dataset.yaml."""
    sources = [argument for path in np.atleast_1d(source) for argument in ("--source", str(path))]
    assert main(["iu_xray", *sources, "--out", str(out), "--image-size", "32", "--workers", "1", *options]) == 0
    lines = (out / "records.jsonl").read_text(encoding="utf-8").splitlines()
    description = yaml.safe_load((out / "dataset.yaml").read_text(encoding="utf-8"))
    return {record["id"]: record for record in map(json.loads, lines)}, description
