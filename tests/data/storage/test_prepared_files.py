"""The manifest of a prepared data set: a damaged file is named, and data sets without a manifest are read as before."""

import json
import random
import re

import pytest

from data.errors import UserError
from data.prepare import main
from data.records import read_records
from data.sources import boxes as boxes_module
from data.sources.boxes import replace_boxes
from data.sources.phantom.dataset import PhantomSettings, prepare_phantom
from data.sources.preparation import prepare
from data.storage import prepared_files
from data.storage.prepared_files import check_sample, write_manifest
from tests.support.sources.toy_source import SIDE, ToySource, folder_content
from tests.support.tiny_dataset import write_tiny_dataset


@pytest.fixture
def root(tmp_path):
    prepare(ToySource(8), tmp_path / "toy", SIDE, 1)
    return tmp_path / "toy"


FILES = ("records.jsonl", "images/00000.tar", "dataset.yaml", "manifest.json")
DAMAGED = r"{name}( is damaged \(.*\)| \(No such file or directory\)).*verify .* --accept$"


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_missing_file_is_refused_at_the_start(root, name):
    path = root / name
    content = path.read_bytes()
    for size in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        if name == "manifest.json" and size == len(content) - 1:  # the line end
            continue
        with pytest.raises(UserError, match=DAMAGED.format(name=re.escape(name))) as caught:
            read_records(root, "train")
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match=name if name != "manifest.json" else "it has no manifest.json"):
        read_records(root, "train")


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found(root, name, capsys):
    path = root / name
    content = path.read_bytes()
    generator = random.Random(0)
    for position in generator.sample(range(len(content)), 20):
        changed = bytearray(content)
        changed[position] ^= 1 << generator.randrange(8)
        path.write_bytes(changed)
        if name == "manifest.json" and json_without_version(changed) == json_without_version(content):
            continue
        assert main(["verify", str(root)]) == 1
        assert capsys.readouterr().err.count("\n") <= 5
        if name != "manifest.json":
            with pytest.raises(UserError, match=DAMAGED.format(name=re.escape(name))):
                check_sample(root)
    path.write_bytes(content)
    assert main(["verify", str(root)]) == 0
    assert "all 3 files are those of the manifest" in capsys.readouterr().out


def json_without_version(content):
    """The lists of a manifest; None if it is not JSON."""
    try:
        return json.loads(content)["files"]
    except (ValueError, KeyError, TypeError):
        return None


def test_a_sample_has_at_least_one_file_and_at_most_its_budget(root, monkeypatch):
    seen = []
    monkeypatch.setattr(prepared_files, "_check_content", lambda root, name, entries: seen.append(name))
    for seed in range(8):
        check_sample(root, random.Random(seed), budget=1)
    assert len(seen) == 8 and set(seen) == {"records.jsonl", "images/00000.tar", "dataset.yaml"}
    check_sample(root)
    assert len(seen) == 11


def test_all_damaged_files_are_listed(root, capsys):
    for name in FILES[:3]:
        (root / name).write_bytes((root / name).read_bytes().replace(b"a", b"b"))
    assert main(["verify", str(root)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [name for name in FILES for line in errors if name in line.split(" is damaged")[0]] == list(FILES[:3])


def test_a_change_of_ones_own_is_accepted(root, capsys):
    path = root / "records.jsonl"
    path.write_bytes(path.read_bytes().replace(b"is clear", b"is dense!"))
    assert main(["verify", str(root)]) == 1
    assert f"python -m data.prepare verify {root} --accept" in capsys.readouterr().err
    assert main(["verify", str(root), "--accept"]) == 0 == main(["verify", str(root)])
    assert read_records(root, "train")[0]["report"] == "Number 0 is dense!."


def test_a_data_set_without_manifest_is_read_and_not_verified(tmp_path, capsys):
    root = write_tiny_dataset(tmp_path / "tiny", train=2, val=1, test=1, image_size=8)
    check_sample(root)
    assert len(read_records(root, "train")) == 2
    assert main(["verify", str(root)]) == 1
    assert "has no manifest.json, so there is nothing to compare it with" in capsys.readouterr().err
    assert main(["verify", str(root), "--accept"]) == 0
    (root / "images/train0_0.png").write_bytes(b"")
    with pytest.raises(UserError, match="train0_0.png is damaged .0 bytes instead of"):
        read_records(root, "train")


def test_a_folder_that_is_no_data_set_gets_no_manifest(tmp_path, capsys):
    assert main(["verify", str(tmp_path), "--accept"]) == 1
    assert "No prepared data set at" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
def test_a_manifest_reaches_no_other_file(root, name):
    content = json.loads((root / "manifest.json").read_text())
    content["files"][name] = {"size": 1, "sha256": ""}
    (root / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="it lists a file outside the data set"):
        read_records(root, "train")


def test_a_phantom_data_set_lists_its_images(tmp_path):
    prepare_phantom(tmp_path / "phantom", PhantomSettings(studies=10, image_size=32), workers=1)
    image = tmp_path / "phantom/images/phantom-000003.png"
    image.write_bytes(image.read_bytes()[:-1])
    with pytest.raises(UserError, match="phantom-000003.png is damaged"):
        read_records(tmp_path / "phantom", "train")


class _Killed(BaseException):
    """Simulates the end of the process."""


def given_boxes(number):
    """Boxes of one study."""
    boxes = boxes_module.np.full((29, 4), boxes_module.np.nan, dtype="float32")
    boxes[:, :] = [0.1, 0.1, 0.5, 0.5 + number / 10]
    return {"99000000": boxes}


@pytest.mark.parametrize("moment", range(1, 5))
def test_new_boxes_replaced_halfway_leave_a_readable_data_set(root, monkeypatch, moment):
    origin = {"source": "file", "fingerprint": "0"}
    path_class = type(root)
    replace, renames = path_class.replace, []

    def ending(path, target):
        renames.append(target)
        if len(renames) == moment:
            raise _Killed
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(path_class, "replace", ending)
        with pytest.raises(_Killed):
            replace_boxes(root, given_boxes(0), origin, "a test")
    assert len(read_records(root, "train")) > 0
    check_sample(root)
    assert replace_boxes(root, given_boxes(1), origin, "a test") == 1
    assert main(["verify", str(root)]) == 0
    assert read_records(root, "train")[0]["graph"]["regions"]["spine"]["box"] == [0.1, 0.1, 0.5, 0.6]


def test_damaged_records_get_no_new_boxes(root):
    path = root / "records.jsonl"
    path.write_bytes(path.read_bytes().replace(b"is clear", b"is dense"))
    before = folder_content(root)
    with pytest.raises(UserError, match="records.jsonl is damaged"):
        replace_boxes(root, given_boxes(0), {"source": "file", "fingerprint": "0"}, "a test")
    assert folder_content(root) == before


def test_a_manifest_can_be_written_again(root):
    before = (root / "manifest.json").read_bytes()
    assert write_manifest(root) == 3
    assert (root / "manifest.json").read_bytes() == before
