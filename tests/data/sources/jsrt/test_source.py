"""JSRT from made-up films in its official layout: raw films, clinical tables, SCR's masks and landmarks."""

import io
import json
import zipfile

import numpy as np
import pytest
import yaml
from PIL import Image

from data.errors import UserError
from data.prepare import main
from data.sources.jsrt import files
from data.sources.jsrt.files import landmark_boxes, mask_box, read_film, read_nodules, region_boxes
from data.sources.jsrt.source import Jsrt

SIDE = 64
FILMS = ("JPCLN001", "JPCLN002", "JPCLN003", "JPCNN001", "JPCNN002")
NODULES = "JPCLN001.IMG\t5\t15\t53\tMale\t32\t16\tmalignant\tl.upper lobe(S1+2)\tlung cancer\r\n" \
          "JPCLN002.IMG\t4\t?\t78\tFemale\t20\t20\tbenign\tr.hilar\tpulmonary hematoma\r\n" \
          "JPCLN003.IMG\t4\t30\t63\tFemale\t20\t20\tmalignant\tl.upper lobe\tlung cancer\r\n"
LANDMARKS = "[Label=right lung]\n{ 3 ,\n{ 102.40, 204.8 },\n{ 307.2, 512 },\n{ 204.8, 921.6 }\n}\n" \
            "[Label=heart]\n{ 2 ,\n{ 409.6, 512 },\n{ 716.8, 819.2 }\n}\n" \
            "[Label=left clavicle]\n{ 1 ,\n{ 1, 1 }\n}\n" \
            "[Label=left lung]\n{ 2 ,\n{ 614.4, 204.8 },\n{ 921.6, 921.6 }\n}\n"


@pytest.fixture(autouse=True)
def small_films(monkeypatch):
    monkeypatch.setattr(files, "FILM_SIDE", SIDE)


def film_bytes(seed: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 4096, size=(SIDE, SIDE)).astype(">u2").tobytes()


def mask_bytes(x1, y1, x2, y2) -> bytes:
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[y1:y2, x1:x2] = 255
    encoded = io.BytesIO()
    Image.fromarray(mask).save(encoded, "GIF")
    return encoded.getvalue()


@pytest.fixture
def originals(tmp_path):
    """Five films: three with a nodule; masks of two, landmarks of two."""
    folder = tmp_path / "jsrt"
    contents = {f"All247images/{film}.IMG": film_bytes(number) for number, film in enumerate(FILMS)}
    without = b"JPCNN001.IMG\t47\tFemale\tnon-nodule\r\nJPCNN002.IMG\t20\tMale\tnon-nodule\r\n"
    contents |= {"Clinical/CLNDAT_EN.txt": NODULES.encode(), "Clinical/CNNDAT_EN.TXT": without}
    for film in FILMS[:2]:
        contents |= {f"scr/fold1/masks/left lung/{film}.gif": mask_bytes(60, 20, 90, 80),
                     f"scr/fold1/masks/right lung/{film}.gif": mask_bytes(10, 20, 40, 80),
                     f"scr/fold1/masks/heart/{film}.gif": mask_bytes(40, 50, 70, 80),
                     f"scr/fold1/masks/left clavicle/{film}.gif": mask_bytes(1, 1, 2, 2)}
    contents |= {f"scr/landmarks/{film}.pfs": LANDMARKS.encode() for film in FILMS[1:3]}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def prepare(source, out):
    return main(["jsrt", "--source", str(source), "--out", str(out), "--workers", "1"])


def prepared(out):
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    return {record["id"]: record for record in records}, yaml.safe_load((out / "dataset.yaml").read_text())


def test_the_official_layout_is_read(originals, tmp_path):
    assert prepare(originals, tmp_path / "out") == 0
    records, description = prepared(tmp_path / "out")
    assert sorted(records) == sorted(FILMS)
    record = records["JPCLN001"]
    assert record["report"] is None and record["views"] == ["PA"]
    assert {name: value for name, value in record["observations"].items() if value is not None} == {"Lung Lesion": 1}
    assert records["JPCNN001"]["observations"]["Lung Lesion"] == 0
    assert record["graph"]["complete"] is False
    assert record["graph"]["regions"] == {
        "left lung": {"box": [0.6, 0.2, 0.9, 0.8]}, "right lung": {"box": [0.1, 0.2, 0.4, 0.8]},
        "cardiac silhouette": {"box": [0.4, 0.5, 0.7, 0.8]},
    }
    assert records["JPCLN003"]["graph"]["regions"]["right lung"]["box"] == [0.1, 0.2, 0.3, 0.9]
    assert records["JPCLN002"]["graph"]["regions"] == record["graph"]["regions"]  # masks come before landmarks
    assert records["JPCNN001"]["graph"] is None and description["warnings"] == {"no outlines": 2}
    assert description["expected"]["films"] == 247 and description["expected"]["films with a nodule"] == 154
    assert description["expected"]["films without a nodule"] == 93
    assert description["found"] == {
        "films": 5, "films with a nodule": 3, "films without a nodule": 2, "films with outlines": 3,
        "films in the table with a nodule": 3, "films in the table without": 2,
    }


def test_archives_give_the_same_as_folders(originals, tmp_path):
    with zipfile.ZipFile(tmp_path / "jsrt.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in originals.rglob("*.*"):
            archive.write(path, path.relative_to(originals))
    for source, out in ((originals, "plain"), (tmp_path / "jsrt.zip", "out")):
        assert prepare(source, tmp_path / out) == 0
    assert prepared(tmp_path / "out")[0] == prepared(tmp_path / "plain")[0]


def test_a_raw_film_is_inverted_and_scaled():
    values = np.full((SIDE, SIDE), 1000, dtype=">u2")
    values[0, 0], values[0, 1] = 0, 4000  # the clearest and the blackest point of the film
    pixels = read_film(values.tobytes(), "film")
    assert pixels.dtype == np.uint8 and pixels[0, 0] == 255 and pixels[0, 1] == 0 and pixels[1, 1] == 191


@pytest.mark.parametrize(("content", "message"), [
    (b"\0" * 100, "100 bytes instead of 8192"),
    (np.full((SIDE, SIDE), 4096, dtype=">u2").tobytes(), "the value 4096, more than 12 bits"),
])
def test_a_damaged_film_says_why(content, message):
    with pytest.raises(UserError, match=message):
        read_film(content, "JPCLN001")


def test_damaged_files_are_counted(originals, tmp_path):
    (originals / "All247images/JPCNN002.IMG").write_bytes(b"short")
    (originals / "scr/fold1/masks/heart/JPCLN001.gif").write_bytes(b"GIF89a")
    (originals / "scr/landmarks/JPCLN003.pfs").write_bytes(b"nothing")
    assert prepare(originals, tmp_path / "out") == 0
    records, description = prepared(tmp_path / "out")
    assert description["dropped"] == {"damaged film": 1}
    assert description["warnings"] == {"damaged landmarks": 1, "damaged mask": 1, "no outlines": 2}
    assert set(records["JPCLN001"]["graph"]["regions"]) == {"left lung", "right lung"}


def test_the_nodule_is_a_box_of_its_diameter(monkeypatch):
    monkeypatch.setattr(files, "FILM_SIDE", 2048)
    nodules = read_nodules(NODULES.replace("\t32\t16\t", "\t1024\t512\t").encode(), "table")
    assert sorted(nodules) == ["JPCLN001", "JPCLN003"]  # the size of the second is unknown
    x1, y1, x2, y2 = nodules["JPCLN001"].box()
    assert (x1 + x2) / 2 == pytest.approx(0.5) and (y1 + y2) / 2 == pytest.approx(0.25)
    assert (x2 - x1) * 2048 * 0.175 == pytest.approx(15, abs=0.1) and y2 - y1 == pytest.approx(x2 - x1)


def test_left_and_right_follow_the_image_whatever_the_files_say():
    swapped = {"left lung": [0.1, 0.2, 0.4, 0.8], "right lung": [0.6, 0.2, 0.9, 0.8], "heart": [0.4, 0.5, 0.7, 0.8]}
    regions = region_boxes(swapped)
    assert regions["right lung"]["box"] == [0.1, 0.2, 0.4, 0.8] and regions["left lung"]["box"][0] == 0.6


def test_landmarks_give_the_boxes_around_the_outlines():
    boxes = landmark_boxes(LANDMARKS.encode(), "points")
    assert boxes == {
        "right lung": [0.1, 0.2, 0.3, 0.9], "heart": [0.4, 0.5, 0.7, 0.8], "left lung": [0.6, 0.2, 0.9, 0.9],
    }


def test_an_empty_mask_is_damaged():
    with pytest.raises(UserError, match="the mask is empty"):
        mask_box(mask_bytes(0, 0, 0, 0), "JPCLN001")


def test_a_wrong_table_is_named(originals, tmp_path, capsys):
    (originals / "Clinical/CLNDAT_EN.txt").write_text("image,size\n")
    assert prepare(originals, tmp_path / "out") == 1
    assert "CLNDAT_EN.txt line 1 does not begin with the name of a film" in capsys.readouterr().err


def test_no_films_are_an_error(tmp_path):
    with pytest.raises(UserError, match="no films of JSRT"):
        Jsrt([tmp_path])
