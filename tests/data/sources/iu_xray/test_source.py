"""IU X-Ray from each of its distributions, and the traps in them. All texts, numbers and pictures are invented."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from data.errors import UserError
from data.ontology import observation_names
from data.prepare import main
from data.records import read_records
from data.sources.iu_xray import source as iu_xray
from data.sources.iu_xray.files import find_files
from data.sources.iu_xray.reports import image_name, parse_open_i, read_kaggle, read_open_i, read_projections
from data.sources.iu_xray.source import IUXray, read_splits, read_texts
from data.sources.r2gen import read_annotation

REAL = Path(__file__).resolve().parents[5] / "shared" / "real" / "iu_xray"
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="the real IU X-Ray files are not beside the checkout")

FINDINGS = {
    1: "The heart is large.",
    9001: "Small left pleural effusion. Heart size normal.",
    9002: "Lungs are clear, compared with XXXX/XXXX x-XXXX.",
    9005: "No pneumothorax.",
    9006: "Low lung volumes.",
}
IMPRESSION = {1: "Cardiomegaly.", 9001: "Effusion.", 9002: "", 9003: "Normal.", 9005: "Normal.", 9006: "No change."}
# By report: the images as Open-i lists them. 9003 has no FINDINGS, 9004 no images, 9005 a single one.
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
# Report 1 has its lateral image first, 9002 two frontal ones before the lateral.
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


@pytest.fixture(autouse=True)
def invented_splits(tmp_path, monkeypatch, request):
    """Split table and labels of the invented studies in place of the shipped ones, except for tests on real data."""
    if "real" in request.node.name:
        return
    files = tmp_path / "shipped"
    files.mkdir()
    (files / "splits.csv").write_text("id,split\n" + "".join(f"{key},{value}\n" for key, value in SPLITS.items()))
    (files / "labels.csv").write_bytes(table([labelled("id", "CXR9001_IM-9201", Fracture="1")]))
    monkeypatch.setattr(iu_xray, "_FILES", files)
    iu_xray._shipped_labels.cache_clear()
    request.addfinalizer(iu_xray._shipped_labels.cache_clear)


def xml(number, images=(), **sections):
    """One of Open-i's XML files, its sections in the order given; None leaves an element empty."""
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


def reports():
    """File name -> content of the collection."""
    return {
        f"{number}.xml": xml(
            number,
            images,
            IMPRESSION=IMPRESSION.get(number),
            INDICATION="Not to be read.",
            FINDINGS=FINDINGS.get(number),
            COMPARISON=None,
        )
        for number, images in IMAGES.items()
    }


def picture(name):
    """[48, 40] uint8, another one for every name."""
    rows, columns = np.mgrid[:48, :40]
    return ((rows * 3 + columns * 2 + sum(name.encode())) % 256).astype(np.uint8)


def png(name):
    """The picture of a name as a PNG."""
    file = io.BytesIO()
    Image.fromarray(picture(name)).save(file, "PNG")
    return file.getvalue()


def dicom(name):
    """The picture of a name as a DICOM file that says it is a lateral view if the projections do."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.1", "1.2.3", "CR"
    dataset.Rows, dataset.Columns = picture(name).shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PhotometricInterpretation = 7, "MONOCHROME2"
    dataset.ViewPosition = "LL" if PROJECTIONS.get(name) == "Lateral" else "PA"
    dataset.PixelData = picture(name).tobytes()
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def write(folder, contents):
    """Write the files `contents` (path -> bytes) below a folder and return it."""
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def pack(path, contents, mode="w:gz"):
    """Write the files `contents` into a tar archive and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def table(rows):
    """A CSV file of dictionaries."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def labelled(column, study, **labels):
    """A row of a label table; `column` holds the study's id or report."""
    return {column: study} | dict.fromkeys(observation_names(), "") | labels


def kaggle_name(name):
    """An image's file name on Kaggle."""
    return re.sub("^CXR(1_)?(?=1_IM)|^CXR", "", name) + ".dcm.png"


def projections():
    """`indiana_projections.csv`."""
    return table(
        [
            {"uid": re.match(r"CXR(\d+)", name)[1], "filename": kaggle_name(name), "projection": projection}
            for name, projection in PROJECTIONS.items()
        ]
    )


def kaggle():
    """The files of Kaggle's layout."""
    rows = [
        {"uid": number, "findings": FINDINGS.get(number, ""), "impression": IMPRESSION[number], "MeSH": "normal"}
        for number in IMAGES
        if IMAGES[number]
    ]
    images = {f"images/images_normalized/{kaggle_name(name)}": png(name) for name in ALL_NAMES}
    return {"indiana_reports.csv": table(rows), "indiana_projections.csv": projections(), **images}


def r2gen():
    """The files of R2Gen's layout."""
    annotation = {"train": [], "val": [], "test": []}
    images = {}
    for study_id, split in SPLITS.items():
        number = int(re.match(r"CXR(\d+)", study_id)[1])
        paths = [f"{study_id}/{position}.png" for position in (0, 1)]
        annotation[split].append({"id": study_id, "report": FINDINGS[number], "image_path": paths, "split": split})
        images |= {f"images/{path}": png(name) for path, name in zip(paths, IMAGES[number], strict=False)}
    return {"annotation.json": json.dumps(annotation).encode(), **images}


OPEN_I = {"ecgen-radiology/" + name: content for name, content in reports().items()}


def prepared(source, out, *options):
    """Prepare with the command and return the records by id and dataset.yaml."""
    sources = [argument for path in np.atleast_1d(source) for argument in ("--source", str(path))]
    assert main(["iu_xray", *sources, "--out", str(out), "--image-size", "32", "--workers", "1", *options]) == 0
    lines = (out / "records.jsonl").read_text(encoding="utf-8").splitlines()
    description = yaml.safe_load((out / "dataset.yaml").read_text(encoding="utf-8"))
    return {record["id"]: record for record in map(json.loads, lines)}, description


# Reading


@pytest.mark.parametrize(
    ("file_name", "name"),
    [
        ("CXR9001_IM-9201-1001.png", "CXR9001_IM-9201-1001"),
        ("9001_IM-9201-1001.dcm.png", "CXR9001_IM-9201-1001"),
        ("9001_IM-9201-1001.dcm", "CXR9001_IM-9201-1001"),
        ("CXR9002_IM-9202-0001-0002", "CXR9002_IM-9202-0001-0002"),
        ("1_IM-9101-3001.dcm.png", "CXR1_1_IM-9101-3001"),
        ("CXR1_1_IM-9101-3001.png", "CXR1_1_IM-9101-3001"),
        ("0.png", None),
        ("CXR_IM-1-1.png", None),
        ("CXR9001_IM-٣.png", None),
        ("", None),
    ],
)
def test_names_of_images_are_brought_to_one_form(file_name, name):
    assert image_name(file_name) == name


def test_sections_are_found_by_label_and_empty_ones_stay_empty():
    report = parse_open_i(xml(9001, IMAGES[9001], IMPRESSION=" a\n  b ", FINDINGS="x &\ty"), "9001.xml")
    assert (report.number, report.findings, report.impression) == (9001, "x & y", "a b")
    assert report.images == ("CXR9001_IM-9201-1001", "CXR9001_IM-9201-2001")
    empty = parse_open_i(xml(9004, [], FINDINGS=None), "9004.xml")
    assert (empty.findings, empty.impression, empty.images) == ("", "", ())


def test_byte_order_mark_is_no_error():
    assert parse_open_i(b"\xef\xbb\xbf" + xml(9001, [], FINDINGS="x"), "9001.xml").findings == "x"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "9001.xml is damaged XML"),
        (xml(9001, [], FINDINGS="x")[:-5], "9001.xml is damaged XML"),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', "9001.xml is damaged XML"),
        (b"<eCitation/>", "9001.xml: 'uId'"),
        (b'<eCitation><uId id="9001"/></eCitation>', "9001.xml: 'uId'"),
        (xml(9001, ["picture"]), "9001.xml: a 'parentImage'"),
        (xml(9001, [], FINDINGS="x" * 2_000_000), "9001.xml is too long"),
    ],
)
def test_a_damaged_report_names_file_and_what_it_lacks(content, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_open_i(content, "9001.xml")
    assert "\n" not in str(caught.value)


def test_folder_and_archive_hold_the_same_reports(tmp_path):
    folder = read_open_i(write(tmp_path, OPEN_I) / "ecgen-radiology")
    assert list(folder.by_number) == sorted(IMAGES) and folder.damaged == []
    assert read_open_i(pack(tmp_path / "NLMCXR_reports.tgz", OPEN_I)) == folder
    assert read_open_i(pack(tmp_path / "reports.tar", OPEN_I, "w")) == folder


def test_damaged_reports_are_left_out_and_listed(tmp_path):
    broken = OPEN_I | {
        "ecgen-radiology/9001.xml": b"<eCitation>",
        "ecgen-radiology/9007.xml": xml(1, [], FINDINGS="Again."),
    }
    found = read_open_i(pack(tmp_path / "NLMCXR_reports.tgz", broken))
    assert 9001 not in found.by_number and found.by_number[1].findings == FINDINGS[1]
    assert len(found.damaged) == 2
    assert "9001.xml is damaged XML" in found.damaged[0] and "report 1 is there twice" in found.damaged[1]


def test_odd_members_of_an_archive_do_no_harm(tmp_path):
    path = tmp_path / "in" / "NLMCXR_reports.tgz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": "é"}) as archive:
        for name, content in {
            "../../9001.xml": OPEN_I["ecgen-radiology/9001.xml"],
            "/" + "long/" * 60 + "9002.xml": OPEN_I["ecgen-radiology/9002.xml"],
            "ecgen-radiology/._9003.xml": b"\0\5\x16\7",
            "ecgen-radiology/readme.txt": b"x",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("9004.xml")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    found = read_open_i(path)
    assert list(found.by_number) == [9001, 9002] and found.damaged == []
    assert sorted(tmp_path.rglob("*.xml")) == []


def test_damaged_archive_is_named(tmp_path):
    path = pack(tmp_path / "NLMCXR_reports.tgz", OPEN_I)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="NLMCXR_reports.tgz is no readable tar archive"):
        read_open_i(path)


def test_tables_of_kaggle(tmp_path):
    write(tmp_path, kaggle())
    found = read_kaggle(tmp_path / "indiana_reports.csv")
    assert list(found.by_number) == [number for number in IMAGES if IMAGES[number]]
    assert found.by_number[9001].findings == FINDINGS[9001] and found.by_number[9003].impression == "Normal."
    views = read_projections(tmp_path / "indiana_projections.csv")
    assert views["CXR1_1_IM-9101-3001"] == "LATERAL" and views["CXR9001_IM-9201-1001"] == "FRONTAL"


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_kaggle, b"uid,findings\n", "table.csv has no column 'impression'"),
        (read_kaggle, b"uid,findings,impression\nx,y,z\n", "table.csv row 1: 'uid'"),
        (read_kaggle, b"uid,findings,impression\n1,\xff,z\n", "table.csv"),
        (read_projections, b"uid,filename\n", "table.csv has no column 'projection'"),
        (read_projections, b"filename,projection\npicture.png,Frontal\n", "table.csv row 1: 'filename'"),
        (read_projections, b"filename,projection\n2_IM-1-1.dcm.png,Oblique\n", "table.csv row 1: 'projection'"),
    ],
)
def test_a_malformed_table_names_row_and_column(tmp_path, read, content, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, {"table.csv": content}) / "table.csv")


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="￾￿"), max_size=20)
labels = st.sampled_from(["FINDINGS", "IMPRESSION", "findings ", "", "OTHER"])


@given(content=st.binary(max_size=80) | st.text(max_size=40).map(str.encode))
@settings(deadline=None)
def test_any_bytes_give_a_report_or_one_line_that_names_the_file(content):
    for candidate in (content, b"<eCitation>" + content + b"</eCitation>"):
        try:
            parse_open_i(candidate, "9001.xml")
        except UserError as error:
            assert "9001.xml" in str(error) and "\n" not in str(error)


@given(number=st.integers(0, 10**9 - 1), sections=st.dictionaries(labels, texts | st.none(), max_size=4))
@settings(deadline=None)
def test_any_text_comes_back_with_single_spaces(number, sections):
    report = parse_open_i(xml(number, [], **sections), "x.xml")
    expected = [
        " ".join((text or "").split()) for label, text in sections.items() if label.strip() in ("FINDINGS", "findings")
    ]
    assert report.number == number and report.findings == " ".join(filter(None, expected))


# Recognising


def test_all_distributions_in_one_folder_are_recognised(tmp_path):
    write(tmp_path, OPEN_I | kaggle() | r2gen())
    pack(tmp_path / "NLMCXR_png.tgz", {f"NLMCXR_png/{name}.png": png(name) for name in ALL_NAMES})
    assert find_files([tmp_path]).summary() == [
        "Open-i reports: ecgen-radiology",
        "Open-i images, packed: NLMCXR_png.tgz",
        "Kaggle reports: indiana_reports.csv",
        "Kaggle projections: indiana_projections.csv",
        "R2Gen annotation: annotation.json",
        "Kaggle images: 12",
        "R2Gen images: 8",
    ]


def test_sources_without_anything_are_named(tmp_path):
    with pytest.raises(UserError, match="There is no source .*nowhere"):
        find_files([tmp_path / "nowhere"])
    write(tmp_path, {"full/ecgen-radiology/1.xml": b"", "empty/readme.txt": b"x", "empty/0.png": png("x")})
    with pytest.raises(UserError, match=r"empty holds nothing new of IU X-Ray: expected Open-i \(NLMCXR_reports"):
        find_files([tmp_path / "full", tmp_path / "empty"])
    write(tmp_path, {"damaged/NLMCXR_png.tgz": b"\x1f\x8bx"})
    with pytest.raises(UserError, match="Cannot read the archive .*NLMCXR_png.tgz"):
        find_files([tmp_path / "damaged"])


def test_sources_without_texts_are_named(tmp_path):
    write(tmp_path, {f"{name}.png": png(name) for name in ALL_NAMES})
    with pytest.raises(UserError, match="hold no reports of IU X-Ray"):
        IUXray([tmp_path])


def test_annotation_of_another_data_set_is_refused(tmp_path):
    samples = [{"id": "aaaa-bbbb", "report": "x", "image_path": ["p99/x.jpg"]}]
    write(tmp_path, {"annotation.json": json.dumps({"train": samples}).encode()})
    with pytest.raises(UserError, match="'aaaa-bbbb' is no study of IU X-Ray"):
        IUXray([tmp_path])


def test_reports_that_are_no_studies_are_refused(tmp_path):
    write(tmp_path, {"9003.xml": xml(9003, IMAGES[9003], FINDINGS=None)})
    with pytest.raises(UserError, match="holds no study of IU X-Ray"):
        IUXray([tmp_path])


# Preparing


LAYOUTS = {
    "Open-i": OPEN_I | {f"png/{name}.png": png(name) for name in ALL_NAMES},
    "Open-i with projections": OPEN_I
    | {f"png/{name}.png": png(name) for name in ALL_NAMES}
    | {"indiana_projections.csv": projections()},
    "DICOM": OPEN_I | {f"dcm/{kaggle_name(name).removesuffix('.png')}": dicom(name) for name in ALL_NAMES},
    "Kaggle": kaggle(),
    "R2Gen": r2gen(),
}


@pytest.mark.parametrize(
    ("layout", "views"),
    [
        ("Open-i", "from order"),
        ("Open-i with projections", "from projections"),
        ("DICOM", "from DICOM, else from order"),
        ("Kaggle", "from projections"),
        ("R2Gen", "from order"),
    ],
)
def test_every_layout_gives_the_same_studies(tmp_path, layout, views):
    records, description = prepared(write(tmp_path / "source", LAYOUTS[layout]), tmp_path / "out")
    assert {key: record["split"] for key, record in records.items()} == SPLITS
    assert {key: record["report"] for key, record in records.items()} == {
        key: FINDINGS[int(re.match(r"CXR(\d+)", key)[1])] for key in SPLITS
    }
    assert description["views"] == views and description["dropped"] == {} and description["warnings"] == {}
    assert description["counts"] == {"train": 2, "val": 1, "test": 1}
    expected = {
        "Open-i": ["FRONTAL", "LATERAL", "UNKNOWN"],
        "DICOM": ["PA", "LL", "PA"],
        "R2Gen": ["FRONTAL", "LATERAL"],
    }.get(layout, ["FRONTAL", "LATERAL", "FRONTAL"])
    assert records["CXR9002_IM-9202-0001"]["views"] == expected
    assert all(record["views"] == expected[:2] for key, record in records.items() if key != "CXR9002_IM-9202-0001")


def test_the_frontal_image_comes_first(tmp_path):
    source = IUXray([write(tmp_path, LAYOUTS["Open-i with projections"])], image_size=32)
    study = {plan.id: source.build(plan) for plan in source.plans()}
    for study_id, names in (
        ("CXR1_1_IM-9101", ["CXR1_1_IM-9101-4001", "CXR1_1_IM-9101-3001"]),
        ("CXR9002_IM-9202-0001", [f"CXR9002_IM-9202-0001-000{number}" for number in (1, 3, 2)]),
    ):
        for image, name in zip(study[study_id].images, names, strict=True):
            np.testing.assert_array_equal(image.pixels, picture(name))


def test_packed_images_are_prepared_as_loose_ones(tmp_path):
    loose, _ = prepared(write(tmp_path / "loose", LAYOUTS["Open-i"]), tmp_path / "from_loose")
    images = {f"NLMCXR_png/{name}.png": png(name) for name in reversed(ALL_NAMES)}
    packed = [pack(tmp_path / "packed" / "NLMCXR_reports.tgz", OPEN_I), pack(tmp_path / "NLMCXR_png.tgz", images)]
    before = {path: path.read_bytes() for path in packed}
    records, _ = prepared(packed, tmp_path / "from_packed")
    assert records == loose
    plain = [packed[0], pack(tmp_path / "images.tar", images, "w")]
    assert prepared(plain, tmp_path / "from_plain")[0] == loose
    assert {path: path.read_bytes() for path in packed} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_damaged_archive_of_images_is_named(tmp_path, capsys):
    archive = pack(tmp_path / "NLMCXR_png.tgz", {f"{name}.png": png(name) for name in ALL_NAMES * 8})
    archive.write_bytes(archive.read_bytes()[:-300])
    sources = ["--source", str(write(tmp_path / "xml", OPEN_I)), "--source", str(archive)]
    assert main(["iu_xray", *sources, "--out", str(tmp_path / "out"), "--workers", "1"]) == 1
    assert re.search("Cannot read the archive .*NLMCXR_png.tgz", capsys.readouterr().err)


def test_missing_and_damaged_images_are_left_out_and_counted(tmp_path, capsys):
    layout = dict(LAYOUTS["Open-i"])
    del layout["png/CXR1_1_IM-9101-3001.png"]
    layout["png/CXR9001_IM-9201-2001.png"] = b"\x89PNG\r\n"
    for name in IMAGES[9002]:
        del layout[f"png/{name}.png"]
    layout |= {f"png/{name}.png": b"" for name in IMAGES[9006]}
    records, description = prepared(write(tmp_path / "source", layout), tmp_path / "out")
    assert {key: record["views"] for key, record in records.items()} == {
        "CXR1_1_IM-9101": ["LATERAL"],
        "CXR9001_IM-9201": ["FRONTAL"],
    }
    assert description["dropped"] == {"images damaged": 1, "no image": 1}
    assert description["warnings"] == {"image damaged": 1, "image missing": 1}
    output = capsys.readouterr().out
    assert "differs: test: 0 instead of 590" in output and "differs: reports: 7 instead of 3955" in output
    assert not any(text in output for text in FINDINGS.values())


def test_the_graph_is_the_texts_with_boxes_where_there_is_a_frontal_image(tmp_path):
    layout = dict(LAYOUTS["Open-i"])
    del layout["png/CXR9001_IM-9201-1001.png"]
    records, _ = prepared(write(tmp_path / "source", layout), tmp_path / "out")
    whole, lateral = records["CXR1_1_IM-9101"]["graph"], records["CXR9001_IM-9201"]["graph"]
    assert whole["box_source"] == "atlas" and len(whole["regions"]) == 29
    assert all(region["box"] for region in whole["regions"].values())
    assert [name for name, region in whole["regions"].items() if region["mentioned"]] == ["cardiac silhouette"]
    assert lateral["regions"]["left lung"]["mentioned"]
    assert not any(region["box"] for region in lateral["regions"].values())


def test_labels_come_from_findings_and_impression_together(tmp_path):
    records, _ = prepared(write(tmp_path / "source", LAYOUTS["Kaggle"]), tmp_path / "out")
    # The heart is called large in one section and by its diagnosis in the other.
    assert records["CXR1_1_IM-9101"]["observations"]["Cardiomegaly"] == 1
    assert records["CXR9001_IM-9201"]["observations"]["Pleural Effusion"] == 1


def test_shipped_labels_stand_in_where_the_impression_is_not_at_hand(tmp_path):
    records, _ = prepared(write(tmp_path / "source", LAYOUTS["R2Gen"]), tmp_path / "out")
    assert records["CXR9001_IM-9201"]["observations"] == {"Fracture": 1}
    assert "Fracture" not in records["CXR9006_IM-9206"]["observations"]


@pytest.mark.parametrize(
    ("column", "of_9001", "of_9002"),
    [
        ("id", "CXR9001_IM-9201", "CXR9002_IM-9202"),
        ("Report Impression", f"{FINDINGS[9001]} {IMPRESSION[9001]}", FINDINGS[9002]),
        ("Reports", FINDINGS[9001], FINDINGS[9002]),
    ],
    ids=["id", "findings and impression", "findings"],
)
def test_given_labels_replace_our_own(tmp_path, column, of_9001, of_9002):
    rows = [labelled(column, of_9001, Edema="-1"), labelled(column, of_9002, Edema="1")]
    write(tmp_path, {"labels.csv": table(rows)})
    records, description = prepared(
        write(tmp_path / "source", LAYOUTS["Open-i"]), tmp_path / "out", "--labels", str(tmp_path / "labels.csv")
    )
    assert {key: record["observations"] for key, record in records.items()} == {
        "CXR1_1_IM-9101": None,
        "CXR9001_IM-9201": {"Edema": -1},
        "CXR9002_IM-9202-0001": {"Edema": 1},
        "CXR9006_IM-9206": None,
    }
    assert description["labels"] != "our labeler"


def test_a_second_run_changes_nothing(tmp_path, capsys):
    source, out = write(tmp_path / "source", LAYOUTS["Kaggle"]), tmp_path / "out"
    prepared(source, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    prepared(source, out)
    assert "holds this data set already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_sources_without_images_end_with_one_line(tmp_path, capsys):
    command = ["iu_xray", "--source", str(write(tmp_path / "source", OPEN_I)), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "no images of IU X-Ray" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


# Reports only


def test_reports_alone_need_no_images(tmp_path, capsys):
    command = [
        "iu_xray",
        "--source",
        str(write(tmp_path / "source", OPEN_I)),
        "--out",
        str(tmp_path / "out"),
        "--reports-only",
    ]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "4 reports (2 train, 1 val, 1 test)" in output and "differs: train: 2 instead of 2069" in output
    assert not any(text in output for text in FINDINGS.values())
    with (tmp_path / "out/reports.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == list(SPLITS)
    assert rows[1] == {
        "id": "CXR9001_IM-9201",
        "split": "val",
        "report": FINDINGS[9001],
        "findings": FINDINGS[9001],
        "impression": IMPRESSION[9001],
    }
    assert yaml.safe_load((tmp_path / "out/dataset.yaml").read_text())["counts"] == {"train": 2, "val": 1, "test": 1}
    assert main(command) == 0
    assert "holds these reports already" in capsys.readouterr().out
    (tmp_path / "source/ecgen-radiology/9006.xml").unlink()
    assert main(command) == 1
    assert "holds something else: delete it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("source/out", [], "lies in the source"),
        ("source.file/out", [], "Cannot write"),
        ("out", ["--labels", "x.csv"], "takes neither --labels nor --boxes"),
    ],
)
def test_reports_alone_end_with_one_line_where_they_cannot_be_written(tmp_path, capsys, out, options, message):
    write(tmp_path, {"source.file": b""} | {f"source/{name}": content for name, content in OPEN_I.items()})
    command = ["iu_xray", "--source", str(tmp_path / "source"), "--out", str(tmp_path / out), "--reports-only"]
    assert main([*command, *options]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


# The real collection


def rule_of_r2gen(reports_by_number):
    """The ids that R2Gen's rule gives, with the report: two images at least, and FINDINGS."""
    return {
        report.images[0].rpartition("-")[0]: report.findings
        for report in reports_by_number.values()
        if len(report.images) >= 2 and report.findings
    }


@needs_real_data
def test_real_annotation_is_regenerated_from_the_xml_alone():
    found = read_open_i(REAL / "NLMCXR_reports.tgz")
    assert len(found.by_number) == 3955 and found.damaged == []
    texts = read_texts(find_files([REAL / "NLMCXR_reports.tgz"]))
    assert texts.found == texts.expected == {"reports": 3955}
    samples = read_annotation(REAL / "annotation.json")
    assert {study.id: (study.split, study.findings, study.copies) for study in texts.studies} == {
        sample.id: (
            sample.split,
            " ".join(sample.report.split()),
            tuple(path.removesuffix(".png") for path in sample.images),
        )
        for sample in samples
    }
    splits = [study.split for study in texts.studies]
    assert [splits.count(split) for split in ("train", "val", "test")] == [2069, 296, 590]
    assert rule_of_r2gen(found.by_number) == {study.id: study.findings for study in texts.studies}


@needs_real_data
def test_real_split_table_is_the_annotations():
    assert dict(read_splits()) == {sample.id: sample.split for sample in read_annotation(REAL / "annotation.json")}


@needs_real_data
def test_real_tables_of_kaggle_hold_the_same_texts(tmp_path):
    for name in ("indiana_reports.csv", "indiana_projections.csv"):
        (tmp_path / name).symlink_to(REAL / name)
    texts = read_texts(find_files([tmp_path]))
    assert texts.found == texts.expected == {"reports": 3851}
    from_xml = read_texts(find_files([REAL / "NLMCXR_reports.tgz"]))
    assert [(study.id, study.split, study.findings, study.impression) for study in texts.studies] == [
        (study.id, study.split, study.findings, study.impression) for study in from_xml.studies
    ]
    views = read_projections(REAL / "indiana_projections.csv")
    assert len(views) == 7466 and list(views.values()).count("FRONTAL") == 3818


@needs_real_data
@pytest.mark.parametrize("sources", [[REAL / "r2gen_sample"], [REAL / "r2gen_sample", REAL / "NLMCXR_reports.tgz"]])
def test_real_images_are_prepared(tmp_path, sources):
    records, description = prepared(sources, tmp_path / "out")
    assert description["counts"] == {"train": 4, "val": 0, "test": 0} and description["images"] == 7
    assert records["CXR25_IM-1024"]["views"] == ["FRONTAL"]
    assert records["CXR7_IM-2263"]["views"] == ["FRONTAL", "LATERAL"]
    assert len(read_records(tmp_path / "out", "train")) == 4
    assert all(record["observations"] is not None for record in records.values())
