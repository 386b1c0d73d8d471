"""Files of a few bytes or MiB that ask torch.load for gigabytes, and files that torch.save writes."""

import io
import pickle
import random
import struct
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from models.trunks import pickle_bounds, torch_archive
from models.trunks.torch_archive import check_archive, check_torch_file
from models.trunks.weight_files import read_weights

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
START = b"\x80\x02"
COPIES = b"".join([
    START, b"((", *(b"J" + struct.pack("<i", number) for number in range(2000)), b"t\x85q\x00",
    b"cbuiltins\nset\nq\x01", *[b"h\x01h\x00R"] * 600, b"t.",
])
HEX = START + b"c_codecs\nencode\nq\x00X\x01\x00\x00\x00aX\x06\x00\x00\x00latin1\x86R" + \
    b"q\x01h\x00h\x01X\x03\x00\x00\x00hex\x86R" * 20 + b"."
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
HOSTILE = {
    "bytearray": (START + b"cbuiltins\nbytearray\nJ\x00\x00\x00\x05\x85R.", "holds bytearray"),
    "an old name": (START + b"c__builtin__\nbytearray\nJ\x00\x00\x00\x05\x85R.", "holds bytearray"),
    "through another call": (
        START + b"ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\nbytearray\nNJ\x00\x00\x00\x05\x85}tR.",
        "holds torch._tensor._rebuild_from_type_v2",
    ),
    "a class": (START + b"ctorch\nFloatTensor\nJ\x00\x00\x00\x05\x85\x81.", "torch.FloatTensor"),
    "copies": (COPIES, "far more memory"),
    "texts": (HEX, "encodes a text"),
    "nested": (START + b"}" + b")" + b"\x85" * 300 + b"Ns.", "nested too deep"),
    "numpy": (
        START + b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nX\x05\x00\x00\x00V9999\x85R\x85R.", "without a value"
    ),
    "repeated": (
        START + b"}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE
        + b"K\x00(J\x00\x00\x00\x05t(K\x00t\x89ccollections\nOrderedDict\n)RtRs.", "more elements than are stored",
    ),
}


def archive(path: Path, pickled: bytes, name: str = "archive/data.pkl") -> Path:
    """An archive as torch.save writes it."""
    with zipfile.ZipFile(path, "w") as file:
        entries = {name: pickled, "archive/version": b"3\n", "archive/byteorder": b"little", "archive/data/0": bytes(4)}
        for entry, content in entries.items():
            file.writestr(entry, content)
    return path


def without_archive(path: Path, pickled: bytes) -> Path:
    """A file as older versions of PyTorch wrote them."""
    before = b"".join(pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, {}))
    path.write_bytes(before + pickled.replace(b"tQ", b"NtQ") + START + b"].")
    return path


@pytest.mark.parametrize("write", [archive, without_archive])
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_takes_memory_without_end_is_refused_before_it_is_built(kind, write, tmp_path):
    pickled, said = HOSTILE[kind]
    with pytest.raises(ValueError, match=f"w.pt is not a file of weights .*{said}"):
        read_weights(write(tmp_path / "w.pt", pickled))


@pytest.mark.parametrize("place", range(4))
def test_large_pickles_of_older_files_are_refused(place, tmp_path, monkeypatch):
    pickles = [pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, {}, {})]
    pickles[place] = START + b"(" + b"]" * 5000 + b"t."
    (tmp_path / "w.pth").write_bytes(b"".join([*pickles, START, b"]."]))
    monkeypatch.setattr(torch_archive, "LARGEST_PICKLE", 4000)
    with pytest.raises(ValueError, match="its structure has more than"):
        read_weights(tmp_path / "w.pth")
    monkeypatch.setattr(torch_archive, "LARGEST_PICKLE", 4 << 20)
    monkeypatch.setattr(pickle_bounds, "MOST_OPCODES", 4000)
    with pytest.raises(ValueError, match="its structure has too many parts"):
        read_weights(tmp_path / "w.pth")


def test_an_archive_behind_another_pickle_is_not_taken_for_the_file(tmp_path, monkeypatch):
    """torch.load decides by the first bytes, zipfile by the last."""
    path = without_archive(tmp_path / "w.pt", START + b"(" + b"]" * 5000 + b"t.")
    path.write_bytes(path.read_bytes() + archive(tmp_path / "harmless.pt", START + b"}.").read_bytes())
    monkeypatch.setattr(pickle_bounds, "MOST_OPCODES", 4000)
    with pytest.raises(ValueError, match="its structure has too many parts"):
        read_weights(path)
    with path.open("rb") as file, pytest.raises(zipfile.BadZipFile):
        check_archive(file)


def test_every_name_under_which_torch_finds_the_structure_is_checked(tmp_path):
    """torch.load ignores case, and ends names at a null byte."""
    with pytest.raises(ValueError, match="holds bytearray"):
        read_weights(archive(tmp_path / "w.pt", HOSTILE["bytearray"][0], "archive/DATA.PKL"))
    path = archive(tmp_path / "w.pt", START + b"}.", "archive/data.pkl")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/Data.pkl", HOSTILE["bytearray"][0])
    with pytest.raises(ValueError, match="it has 2 structures"):
        read_weights(path)
    content = archive(tmp_path / "w.pt", START + b"}.").read_bytes()
    path.write_bytes(content.replace(b"archive/version", b"archive\0version"))
    with pytest.raises(ValueError, match="name of archive is malformed"):
        read_weights(path)


def test_a_directory_elsewhere_is_refused(tmp_path):
    """zipfile corrects the place of a directory; torch.load takes the one that is stated."""
    path = archive(tmp_path / "w.pt", START + b"}.")
    content = path.read_bytes()
    for other in (content[:-6] + struct.pack("<L", 5) + content[-2:], content[:-2] + b"\3\0abc", content[:4] + content):
        path.write_bytes(other)
        with pytest.raises(ValueError, match="is not a file of weights"):
            read_weights(path)


def test_a_dictionary_that_contains_itself_ends(tmp_path):
    pickled = START + b"}q\x00X\x05\x00\x00\x00modelh\x00s."
    with pytest.raises(ValueError, match="contains no weights"):
        read_weights(archive(tmp_path / "w.pt", pickled))


def test_parts_that_a_module_shares_are_read_once(tmp_path):
    """A module of 60 levels, each with two references to the next."""
    module = nn.Linear(2, 1)
    for _ in range(60):
        module = nn.Sequential(module, module)
    torch.save(module, tmp_path / "module.pt")
    assert len(read_weights(tmp_path / "module.pt", [nn.Sequential, nn.Linear])) == 2
    for broken in ({"_modules": 3}, {"_parameters": None}):
        part = nn.Linear(2, 1)
        part.__dict__.update(broken)
        torch.save(part, tmp_path / "module.pt")
        with pytest.raises(ValueError, match="its module is malformed"):
            read_weights(tmp_path / "module.pt", [nn.Linear])


@pytest.mark.parametrize("is_archive", [True, False])
def test_what_training_programs_save_passes(is_archive, tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    content = {
        "state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "rng": torch.get_rng_state(),
        "python": random.getstate(), "milestones": Counter({3: 1}), "half": torch.ones(3, dtype=torch.bfloat16),
        "view": torch.arange(12.0).view(3, 4)[1:, ::2], "empty": torch.zeros(0, 5), "number": torch.tensor(1),
        "parameter": nn.Parameter(torch.ones(2)), "size": torch.Size([2]), "names": OrderedDict(a=[{1, 2}, ("b", 2.5)]),
        "sparse": torch.eye(3).to_sparse(), "none": None,
    }
    if is_archive:
        content["float8"] = torch.ones(2).to(torch.float8_e4m3fn)
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=is_archive)
    with (tmp_path / "w.pt").open("rb") as file:
        check_torch_file(file)
        assert file.tell() == 0
    assert read_weights(tmp_path / "w.pt").keys() == model.state_dict().keys()


@pytest.mark.parametrize("pickled", [
    START + b"N", START + b"NQ.", START + b"}h\x07.", START + b"R.", START + b"ctorch\nFloatStorage\n)R.", b"", b"\x80",
    START + b"(X\x07\x00\x00\x00storageN" + b"N" * 4 + b"tQ.", START + b")})R.", START + b"}]Ns.",
])
@pytest.mark.parametrize("write", [archive, without_archive])
def test_malformed_pickles_are_no_weights(pickled, write, tmp_path):
    with pytest.raises(ValueError, match="w.pt is not a file of weights"):
        read_weights(write(tmp_path / "w.pt", pickled))


def test_a_large_archive_has_its_directory_at_the_end(tmp_path, monkeypatch):
    """With more than 4 GiB, another record states where it is; zipfile writes that record from its limit on."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    path = archive(tmp_path / "w.pt", START + b"}.")
    with path.open("rb") as file:
        check_archive(file)
    content = bytearray(path.read_bytes())
    content[-34:-26] = struct.pack("<Q", 0)  # where the other record would be
    with pytest.raises((ValueError, zipfile.BadZipFile)):
        check_archive(_opened(tmp_path / "moved.pt", bytes(content)))


def _opened(path: Path, content: bytes) -> io.BufferedReader:
    path.write_bytes(content)
    return path.open("rb")
