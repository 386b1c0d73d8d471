"""Files of torch.save that ask for far more memory than their size suggests."""

import io
import zipfile
from pathlib import Path

import pytest
import torch

from data.errors import UserError
from models.trunks import torch_archive
from modules.saving.torch_files import load_dictionary


def load(path: Path) -> dict:
    with path.open("rb") as file:
        return load_dictionary(file, path, "use another file")


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def rezipped(content: bytes, **options) -> bytes:
    """An archive of torch.save, packed again."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w", **options) as archive:
        for entry in source.infolist():
            archive.writestr(entry.filename, source.read(entry))
    return target.getvalue()


def test_tensors_numbers_and_texts_come_back(tmp_path):
    content = {"a": torch.arange(3), "b": [1, "x", None, 0.5], "c": {"d": torch.ones(2, dtype=torch.bfloat16)}}
    (tmp_path / "w.pt").write_bytes(saved(content))
    loaded = load(tmp_path / "w.pt")
    assert torch.equal(loaded["a"], content["a"]) and loaded["b"] == content["b"]


def test_compressed_archives_are_refused_before_they_are_unpacked(tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(rezipped(saved({"a": torch.zeros(1 << 18)}), compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(UserError, match=r"w.pt is damaged \(ValueError: .* is compressed\): use another file"):
        load(path)


def test_a_large_structure_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_archive, "LARGEST_PICKLE", 5000)
    path = tmp_path / "w.pt"
    path.write_bytes(saved({"a": [{} for _ in range(9000)]}))
    with pytest.raises(UserError, match="w.pt is damaged .*data.pkl has"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x80\2}q\0.", b"not a pickle", saved({})[:-30]])
def test_what_torch_save_did_not_write_is_damaged(tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(UserError, match="w.pt is damaged") as error:
        load(tmp_path / "w.pt")
    assert "\n" not in str(error.value)


def test_a_list_is_not_a_dictionary(tmp_path):
    (tmp_path / "w.pt").write_bytes(saved([torch.zeros(1)]))
    with pytest.raises(UserError, match="w.pt is not a dictionary but a list: use another file"):
        load(tmp_path / "w.pt")


def test_a_checkpoint_cannot_call_what_takes_memory_without_end(tmp_path):
    content = rezipped(saved({}))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next(entry.filename for entry in archive.infolist() if entry.filename.endswith("data.pkl"))
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr(name, b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x05\x85R.")
    with pytest.raises(UserError, match="contains pickled code .it calls .*bytearray., which was not executed"):
        load(tmp_path / "w.pt")
