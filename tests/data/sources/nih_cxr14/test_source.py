"""ChestX-ray14 from made-up originals in its official layout: folders, archives, tables, splits, boxes, counts."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
import yaml
from PIL import Image

from data.errors import UserError
from data.prepare import main
from data.sources.nih_cxr14.files import observations_of, read_boxes
from data.sources.nih_cxr14.source import ChestXray14
from data.sources.patient_splits import draw_position

HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position," \
         "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
FINDINGS = ("No Finding", "Cardiomegaly|Effusion", "Mass", "Hernia", "Infiltration|Pleural_Thickening")
IMAGES = [f"{patient:08d}_{number:03d}.png" for patient in range(1, 11) for number in range(2)]
TEST = IMAGES[16:]


def png(seed: int, mode: str = "L") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, size=(64, 64), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(encoded, "PNG")
    return encoded.getvalue()


def write_tables(folder):
    folder.mkdir(exist_ok=True)
    rows = [
        f"{image},{FINDINGS[number % len(FINDINGS)]},{number % 2},{int(image[:8])},58,M,{('PA', 'AP')[number % 2]},"
        "2682,2749,0.143,0.143,"
        for number, image in enumerate(IMAGES)
    ]
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    boxes = [f"{IMAGES[1]},Infiltrate,16,8,32,16,,,", f"{IMAGES[1]},Mass,0.0,0.0,6.4,6.4,,,",
             f"{IMAGES[2]},Nodule,60,60,10,10,,,"]
    lines = ["Image Index,Finding Label,Bbox [x,y,w,h],,,", *boxes]
    (folder / "BBox_List_2017.csv").write_text("\n".join(lines) + "\n")
    (folder / "train_val_list.txt").write_text("\n".join(IMAGES[:16]) + "\n")
    (folder / "test_list.txt").write_text("\n".join(TEST))


@pytest.fixture
def originals(tmp_path):
    """Twenty images of ten patients, in two folders."""
    folder = tmp_path / "nih"
    write_tables(folder)
    for number, image in enumerate(IMAGES):
        target = folder / f"images_{1 + number // 10:03d}/images"
        target.mkdir(parents=True, exist_ok=True)
        (target / image).write_bytes(png(number, "RGBA" if number == 3 else "L"))
    return folder


def prepared(out):
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    return {record["id"]: record for record in records}, yaml.safe_load((out / "dataset.yaml").read_text())


def prepare(source, out, *options):
    return main(["nih_cxr14", "--source", str(source), "--out", str(out), "--workers", "1", *options])


def test_the_official_layout_is_read(originals, tmp_path, capsys):
    assert prepare(originals, tmp_path / "out") == 0
    records, description = prepared(tmp_path / "out")
    assert len(records) == 20
    assert {name[:-4] for name in TEST} == {name for name, record in records.items() if record["split"] == "test"}
    record = records["00000001_001"]
    assert record["report"] is None and record["graph"] is None and record["views"] == ["AP"]
    assert record["observations"]["Cardiomegaly"] == record["observations"]["Pleural Effusion"] == 1
    assert record["observations"]["No Finding"] == record["observations"]["Edema"] == 0
    assert record["observations"]["Support Devices"] is None
    assert record["finding_boxes"] == [
        {"finding": "Infiltration", "box": [0.25, 0.125, 0.75, 0.375]},
        {"finding": "Mass", "box": [0, 0, 0.1, 0.1]},
    ]
    assert records["00000002_000"]["finding_boxes"][0]["box"] == [0.9375, 0.9375, 1, 1]
    assert "finding_boxes" not in records["00000003_000"]
    assert description["expected"]["images"] == 112_120 and description["expected"]["patients"] == 30_805
    assert description["expected"]["train_val_list"] == 86_524 and description["expected"]["test_list"] == 25_596
    assert description["expected"]["boxes"] == 984 and description["expected"]["images with boxes"] == 880
    assert description["found"] == {"images": 20, "patients": 10, "train_val_list": 16, "test_list": 4, "boxes": 3,
                                    "images with boxes": 2}
    assert "differs: images: 20 instead of 112120" in capsys.readouterr().out


def test_validation_patients_come_from_the_training_list_and_are_whole(originals):
    plans = list(ChestXray14([originals]).plans())
    for plan in plans:
        drawn = "val" if draw_position(plan.entry.patient) < 1 / 8 else "train"
        assert plan.split == ("test" if f"{plan.id}.png" in TEST else drawn)
    by_patient = {}
    for plan in plans:
        by_patient.setdefault(plan.entry.patient, set()).add(plan.split)
    assert all(len(splits) == 1 for splits in by_patient.values())


def test_about_an_eighth_of_the_patients_validates():
    share = np.mean([draw_position(str(patient)) < 1 / 8 for patient in range(1, 28_000)])
    assert share == pytest.approx(1 / 8, abs=0.005)


@pytest.mark.parametrize("kind", ["tar.gz", "tar", "zip"])
def test_archives_give_the_same_as_folders(originals, tmp_path, kind):
    packed = tmp_path / "packed"
    write_tables(packed)
    paths = sorted(originals.glob("images_*/images/*.png"))
    for part in range(2):
        archive = packed / f"images_{part + 1:02d}.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
                for path in paths[part * 10 : part * 10 + 10]:
                    file.write(path, f"images_{part + 1:03d}/images/{path.name}")
        else:
            with tarfile.open(archive, f"w:{kind[4:]}") as file:
                for path in paths[part * 10 : part * 10 + 10]:
                    file.add(path, f"images/{path.name}")
    for source, out in ((originals, "plain"), (packed, "out")):
        assert prepare(source, tmp_path / out) == 0
    assert prepared(tmp_path / "out")[0] == prepared(tmp_path / "plain")[0]
    assert (tmp_path / "out/images/00000.tar").read_bytes() == (tmp_path / "plain/images/00000.tar").read_bytes()
    assert not (tmp_path / ".out.unpacked").exists()


def test_missing_damaged_and_unlisted_images_are_counted(originals, tmp_path):
    (originals / "images_001/images" / IMAGES[0]).unlink()
    (originals / "images_001/images" / IMAGES[1]).write_bytes(png(1)[:200])
    listed = (originals / "train_val_list.txt").read_text().split()
    (originals / "train_val_list.txt").write_text("\n".join(name for name in listed if name != IMAGES[2]))
    assert prepare(originals, tmp_path / "out") == 0
    records, description = prepared(tmp_path / "out")
    assert description["dropped"] == {"damaged image": 1, "in neither list of images": 1, "no image": 1}
    assert len(records) == 17


@pytest.mark.parametrize(("name", "message"), [
    ("Data_Entry_2017_v2020.csv", "no Data_Entry_2017_v2020.csv of ChestX-ray14"),
    ("BBox_List_2017.csv", "no BBox_List_2017.csv"), ("train_val_list.txt", "no train_val_list.txt"),
    ("test_list.txt", "no test_list.txt"),
])
def test_a_missing_table_is_named(originals, tmp_path, capsys, name, message):
    (originals / name).unlink()
    assert prepare(originals, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_missing_images_are_an_error(tmp_path):
    write_tables(tmp_path / "tables")
    with pytest.raises(UserError, match="no images of ChestX-ray14"):
        ChestXray14([tmp_path / "tables"])


def test_the_older_table_is_read_and_the_newer_preferred(originals):
    newer = originals / "Data_Entry_2017_v2020.csv"
    older = originals / "Data_Entry_2017.csv"
    older.write_text("\n".join(newer.read_text().splitlines()[:3]))
    assert len(ChestXray14([originals])) == 20
    newer.unlink()
    assert len(ChestXray14([originals])) == 2


def test_an_unknown_finding_is_named(originals, tmp_path):
    table = originals / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text().replace("Hernia", "Hernie"))
    with pytest.raises(UserError, match="00000002_001.png: unknown finding 'Hernie'; did you mean 'Hernia'"):
        ChestXray14([originals])


def test_an_image_in_both_lists_is_an_error(originals):
    (originals / "test_list.txt").write_text(IMAGES[0])
    with pytest.raises(UserError, match="00000001_000.png is in both"):
        ChestXray14([originals])


@pytest.mark.parametrize("row", ["00000001_000.png,Mass,1,2,3", "00000001_000.png,Mass,1,2,3,x"])
def test_a_malformed_box_is_named(tmp_path, row):
    (tmp_path / "boxes.csv").write_text(f"Image Index,Finding Label,Bbox [x,y,w,h],,,\n{row}\n")
    with pytest.raises(UserError, match="line 2 has no image, finding and four numbers"):
        read_boxes(tmp_path / "boxes.csv")


def test_findings_in_the_terms_of_chexpert():
    assert observations_of(["No Finding"])["No Finding"] == 1
    assert observations_of(["Emphysema"])["No Finding"] == 0
    assert observations_of(["Nodule"])["Lung Lesion"] == observations_of(["Mass"])["Lung Lesion"] == 1
    assert observations_of(["Infiltration"])["Lung Opacity"] == 1
    assert observations_of(["Pleural_Thickening"])["Pleural Other"] == 1
    unknown = {name for name, value in observations_of([]).items() if value is None}
    assert unknown == {"Support Devices", "Fracture", "Enlarged Cardiomediastinum"}
