"""Files in folders, tar and zip archives."""

import gzip
import random
import tarfile
import zipfile

import pytest

from data.errors import UserError
from data.sources.iu_xray.reports import read_open_i
from data.sources.packed_files import is_archive, list_archive, list_paths

CONTENTS = {"a/one.png": b"1" * 5000, "a/b/two.png": b"22", ".hidden": b"x"}


def write_archive(path):
    folder = path.parent / "contents"
    for name, content in CONTENTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in CONTENTS:
                archive.write(folder / name, name)
    else:
        with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
            for name in CONTENTS:
                archive.add(folder / name, name)
    return path


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.tar.gz", "x.zip"])
def test_members_are_read_in_any_order(tmp_path, name):
    archive = write_archive(tmp_path / name)
    assert is_archive(archive) and not is_archive(tmp_path / "x.png")
    files = dict(list_archive(archive, tmp_path / "scratch"))
    assert {path: file.read() for path, file in reversed(files.items())} == {
        path: content for path, content in CONTENTS.items() if path != ".hidden"
    }
    assert (tmp_path / "scratch").exists() == (name in ("x.tgz", "x.tar.gz"))
    assert dict(list_archive(archive, tmp_path / "scratch")) == files


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.zip"])
def test_a_damaged_archive_is_named(tmp_path, name):
    archive = write_archive(tmp_path / name)
    archive.write_bytes(archive.read_bytes()[:40])
    with pytest.raises(UserError, match=f"Cannot read the archive .*{name}"):
        list(list_archive(archive, tmp_path / "scratch"))


def test_folders_are_listed_in_a_stable_order_without_hidden_files(tmp_path):
    write_archive(tmp_path / "x.zip")
    paths = list(list_paths([tmp_path / "contents", tmp_path / "x.zip"]))
    assert [path.name for path in paths] == ["one.png", "two.png", "x.zip"]
    assert [path.read_bytes() for path in paths[:2]] == [CONTENTS["a/one.png"], CONTENTS["a/b/two.png"]]
    with pytest.raises(UserError, match="No source at"):
        list(list_paths([tmp_path / "nowhere"]))


def write_huge_name(path, kind, compressed=False):
    """Write an archive that announces a name or an extended header of 6 GiB, without its bytes."""
    member = tarfile.TarInfo("name")
    member.type, member.size = kind, 6 << 30
    ordinary = tarfile.TarInfo("1.xml")
    ordinary.size = 512
    content = ordinary.tobuf() + b"x" * 512 + member.tobuf(tarfile.GNU_FORMAT) + random.Random(0).randbytes(1 << 16)
    path.write_bytes(gzip.compress(content) if compressed else content)
    return path


@pytest.mark.parametrize("kind", [
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_huge_name_is_refused_before_it_is_read(tmp_path, kind, compressed):
    archive = write_huge_name(tmp_path / ("x.tgz" if compressed else "x.tar"), kind, compressed)
    message = r"Cannot read the archive .*x\.t.* \(the name of a member has 6442450944 bytes\)"
    with pytest.raises(UserError, match=message):
        list(list_archive(archive, tmp_path / "scratch"))
    with pytest.raises(UserError, match=message):
        read_open_i(archive)


def test_an_archive_that_fills_the_disk_is_refused(tmp_path):
    archive = tmp_path / "x.tgz"
    archive.write_bytes(gzip.compress(bytes(1 << 24)))
    with pytest.raises(UserError, match="it unpacks to more than 100 times its size"):
        list(list_archive(archive, tmp_path / "scratch"))
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_huge_member_is_refused_before_it_is_read(tmp_path):
    archive = tmp_path / "x.tar"
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as file:
        member = tarfile.TarInfo("a.png")
        member.size = 1 << 33
        file.fileobj.write(member.tobuf(tarfile.GNU_FORMAT))
        file.fileobj.truncate(1 << 34)
    (_, packed), = list_archive(archive, tmp_path / "scratch")
    with pytest.raises(UserError, match="a member has 8589934592 bytes"):
        packed.content()
