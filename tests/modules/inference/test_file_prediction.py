"""Which files of a folder are studies."""

import pytest

from modules.inference.file_prediction import find_studies


@pytest.fixture
def folder(tmp_path):
    """Two single images and a pair, among what macOS, Windows and others leave behind."""
    for name in (
        "胸部.png", "b.dcm", "pair/1.png", "pair/2.png", "pair/Thumbs.db", "pair/__MACOSX/._1.png", ".DS_Store",
        "._b.dcm", "__MACOSX/._b.dcm", "__MACOSX/b.dcm", "desktop.ini", "@eaDir/b.dcm", "DICOMDIR",
    ):  # fmt: skip
        path = tmp_path / "xrays" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "xrays"


def test_what_systems_add_is_not_a_study(folder):
    studies = list(find_studies([folder]))
    assert [study.name for study in studies] == ["b.dcm", "pair", "胸部.png"]
    assert [path.name for path in studies[1].images] == ["1.png", "2.png"]


def test_a_listing_of_the_shell_leaves_out_such_folders(folder):
    studies = list(find_studies([folder / "__MACOSX", folder / "pair"]))
    assert [study.name for study in studies] == ["1.png", "2.png"]


def test_a_file_that_is_named_is_read_whatever_its_name(folder):
    assert [study.name for study in find_studies([folder / "DICOMDIR"])] == ["DICOMDIR"]
