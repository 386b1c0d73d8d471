"""Fingerprints of sources and vocabularies."""

import os
import re

import pytest

from data.errors import UserError
from data.sources import fingerprints
from data.sources.fingerprints import path_fingerprint, vocabulary_fingerprints


def test_a_files_fingerprint_follows_name_size_and_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "_END", 4)
    path = tmp_path / "reports.zip"
    seen = set()
    for content in (b"head----tail", b"Head----tail", b"head----tai!", b"head---tail", b"", b"head"):
        path.write_bytes(content)
        seen.add(path_fingerprint(path))
    assert len(seen) == 6 and all(re.fullmatch("[0-9a-f]{16}", digits) for digits in seen)
    other = tmp_path / "elsewhere" / "reports.zip"
    other.parent.mkdir()
    other.write_bytes(b"head")
    os.utime(other, (0, 0))
    assert path_fingerprint(other) == path_fingerprint(path)
    assert path_fingerprint(other.rename(tmp_path / "others.zip")) != path_fingerprint(path)


def test_a_folders_fingerprint_follows_its_first_levels(tmp_path):
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    seen = [path_fingerprint(tmp_path)]
    for name in ("x", "a/x", "a/b/x"):
        (tmp_path / name).write_bytes(b"1")
        seen.append(path_fingerprint(tmp_path))
    (tmp_path / "a" / "x").write_bytes(b"12")
    seen.append(path_fingerprint(tmp_path))
    assert len(set(seen)) == 5
    (tmp_path / "a" / "b" / "c" / "deep").write_bytes(b"1")
    assert path_fingerprint(tmp_path) == seen[-1]


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(UserError, match=r"Cannot read .*gone \(No such file"):
        path_fingerprint(tmp_path / "gone")


def test_vocabularies_have_fingerprints():
    found = vocabulary_fingerprints()
    assert found.keys() == {"anatomy", "attributes", "observations"} and len(set(found.values())) == 3
