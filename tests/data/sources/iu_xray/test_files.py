"""Finding the files of IU X-Ray in the sources."""

import pytest

from data.errors import UserError
from data.sources.iu_xray.files import find_files
from tests.support.sources.iu_fixture import (
    ALL_NAMES,
    OPEN_I,
    kaggle_files,
    png_image,
    r2gen_files,
    write_archive,
    write_files,
)


def test_all_distributions_in_one_folder_are_recognised(tmp_path):
    write_files(tmp_path, OPEN_I | kaggle_files() | r2gen_files())
    write_archive(tmp_path / "NLMCXR_png.tgz", {f"NLMCXR_png/{name}.png": png_image(name) for name in ALL_NAMES})
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
    with pytest.raises(UserError, match="No source at .*nowhere"):
        find_files([tmp_path / "nowhere"])
    write_files(tmp_path, {"full/ecgen-radiology/1.xml": b"", "empty/readme.txt": b"x", "empty/0.png": png_image("x")})
    with pytest.raises(UserError, match=r"empty has no new files of IU X-Ray: expected Open-i \(NLMCXR_reports"):
        find_files([tmp_path / "full", tmp_path / "empty"])
    write_files(tmp_path, {"damaged/NLMCXR_png.tgz": b"\x1f\x8bx"})
    with pytest.raises(UserError, match="Cannot read the archive .*NLMCXR_png.tgz"):
        find_files([tmp_path / "damaged"])
