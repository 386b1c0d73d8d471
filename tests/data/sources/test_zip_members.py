"""Reading members of zip archives by their offset."""

import zipfile
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.sources.zip_members import list_members, read_member

FILES = {"a.txt": b"", "deep/er/b.txt": b"text " * 1000, "c.json": bytes(range(256))}


def write(path, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.mkdir("deep")
        for name, content in FILES.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_as_they_were_written(tmp_path, method):
    path = write(tmp_path / "a.zip", method)
    assert {member.name: read_member(path, member) for member in list_members(path)} == FILES


def test_what_is_no_archive_is_refused_by_name(tmp_path):
    for content in (b"", b"no archive", write(tmp_path / "a.zip").read_bytes()[:-30]):
        (tmp_path / "b.zip").write_bytes(content)
        with pytest.raises(UserError, match="Cannot read the archive .*b.zip"):
            list(list_members(tmp_path / "b.zip"))
    with pytest.raises(UserError, match="Cannot read the archive .*absent.zip"):
        list(list_members(tmp_path / "absent.zip"))


def test_other_compression_is_refused_by_name(tmp_path):
    path = write(tmp_path / "a.zip", zipfile.ZIP_LZMA)
    with pytest.raises(UserError, match=r"Cannot read deep/er/b.txt in .*a.zip \(compression method 14\)"):
        read_member(path, list(list_members(path))[1])


@settings(deadline=None)
@given(position=st.integers(0, 10**6), value=st.integers(0, 255))
def test_damage_is_noticed(tmp_path_factory, position, value):
    path = write(tmp_path_factory.mktemp("zip") / "a.zip")
    members = list(list_members(path))
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content)
    for member in members:
        try:
            assert read_member(path, member) == FILES[member.name]
        except UserError as error:
            assert str(error).startswith(f"Cannot read {member.name} in {path} (")


def test_a_huge_member_is_refused_before_it_is_read(tmp_path):
    member = next(list_members(write(tmp_path / "x.zip")))
    with pytest.raises(UserError, match=r"Cannot read a.txt in .*x\.zip \(it has 1099511627776 bytes\)"):
        read_member(tmp_path / "x.zip", replace(member, size=1 << 40))
