"""Packing images into tar shards, and reading them."""

import errno
import io
import multiprocessing
import os
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.images import image_store
from data.images.image_store import ShardWriter, encode_image, read_image_bytes


def pack(root, images: list[tuple[str, int, bytes]], name: str = "images/00000.tar") -> list[str]:
    """Write a shard into the data set `root`, and return the references."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shard = ShardWriter(file, name)
        references = [shard.add(*image) for image in images]
        shard.close()
    return references


@pytest.mark.parametrize(
    ("shape", "image_size", "expected"),
    [
        ((300, 200), 100, (150, 100)),
        ((200, 300), 100, (100, 150)),
        ((101, 3000), 100, (100, 2970)),
        ((100, 100), 100, (100, 100)),
        ((60, 50), 100, (60, 50)),
        ((60, 500), 100, (60, 500)),
    ],
)
def test_the_short_side_is_reduced_and_never_enlarged(shape, image_size, expected):
    pixels = np.tile(np.linspace(0, 255, shape[1], dtype=np.uint8), (shape[0], 1))
    with Image.open(io.BytesIO(encode_image(pixels, image_size))) as image:
        assert image.format == "JPEG" and image.mode == "L"
        decoded = np.asarray(image).astype(int)
    assert decoded.shape == expected
    ramp = np.linspace(0, 255, expected[1])
    assert np.abs(decoded - ramp).max() < 6


def test_equal_images_give_equal_bytes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, size=(40, 50), dtype=np.uint8)
    images = [("99000001", 0, encode_image(pixels, 32)), ("99000001", 1, encode_image(pixels.T, 32))]
    assert pack(tmp_path / "one", images) == pack(tmp_path / "two", images)
    first, second = (tmp_path / name / "images/00000.tar" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


@given(contents=st.lists(st.binary(min_size=0, max_size=1500), max_size=6))
def test_what_is_packed_is_read_back(tmp_path_factory, contents):
    root = tmp_path_factory.mktemp("packed")
    references = pack(root, [(f"9900000{position}", 0, content) for position, content in enumerate(contents)])
    for reference, content in zip(references, contents, strict=True):
        assert read_image_bytes(root, reference) == content
    with tarfile.open(root / "images/00000.tar") as tar:
        assert [tar.extractfile(member).read() for member in tar] == contents


def test_members_are_named_as_webdataset_groups_them(tmp_path):
    pack(tmp_path, [("99000001", 0, b"a"), ("99000001", 1, b"b"), ("../a.b c/ü", 0, b"c"), ("9" * 300, 0, b"d")])
    with tarfile.open(tmp_path / "images/00000.tar") as tar:
        names = tar.getnames()
    assert names[:3] == ["99000001.0.jpg", "99000001.1.jpg", "___a_b_c__.0.jpg"]
    assert len(names[3]) < 100


def test_loose_files_are_read_as_they_are(tmp_path):
    (tmp_path / "a@1+2.png").write_bytes(b"loose")
    assert read_image_bytes(tmp_path, "a@1+2.png") == b"loose"


def test_a_shard_that_is_missing_or_cut_is_told(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image_bytes(tmp_path, "images/00000.tar@512+10")
    (reference,) = pack(tmp_path, [("99000001", 0, bytes(2000))])
    path = tmp_path / "images/00000.tar"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(EOFError, match="00000.tar is truncated"):
        read_image_bytes(tmp_path, reference)


def test_no_more_shards_stay_open_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(image_store, "_open_shard", image_store.lru_cache(maxsize=2)(image_store._OpenShard))
    references = [pack(tmp_path, [("99000001", 0, bytes([n]))], f"images/{n}.tar")[0] for n in range(5)]
    descriptors = set()
    for number, reference in enumerate(references * 2):
        assert read_image_bytes(tmp_path, reference) == bytes([number % 5])
        descriptors.add(image_store._open_shard(tmp_path / f"images/{number % 5}.tar", None).descriptor)
    assert len(descriptors) <= 3


def test_forked_processes_read_through_what_the_parent_opened(tmp_path):
    contents = [bytes([number]) * 5000 for number in range(20)]
    references = pack(tmp_path, [(f"990000{number}", 0, content) for number, content in enumerate(contents)])
    assert read_image_bytes(tmp_path, references[0]) == contents[0]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        jobs = [(tmp_path, reference) for reference in references * 20]
        assert pool.starmap(read_image_bytes, jobs) == contents * 20


@pytest.fixture
def waits(monkeypatch):
    """The seconds that reading waits, without waiting."""
    seconds = []
    monkeypatch.setattr(image_store.time, "sleep", seconds.append)
    return seconds


def failing_pread(monkeypatch, failures, code):
    """Let the first `failures` reads fail with the error number `code`; return the descriptors that are read."""
    descriptors = []

    def pread(descriptor, size, offset, read=os.pread):
        descriptors.append(descriptor)
        if len(descriptors) <= failures:
            raise OSError(code, os.strerror(code))
        return read(descriptor, size, offset)

    monkeypatch.setattr(image_store.os, "pread", pread)
    return descriptors


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_errors_that_pass_are_retried_with_the_file_opened_again(tmp_path, monkeypatch, waits, code):
    (reference,) = pack(tmp_path, [("99000001", 0, b"content")])
    opened = []
    open_file = os.open
    monkeypatch.setattr(image_store.os, "open", lambda path, flags: opened.append(path) or open_file(path, flags))
    failing_pread(monkeypatch, 3, code)
    assert read_image_bytes(tmp_path, reference) == b"content"
    assert len(opened) == 4 and waits == sorted(waits) and len(waits) == 3 and sum(waits) < 3


def test_errors_that_stay_are_raised(tmp_path, monkeypatch, waits):
    (reference,) = pack(tmp_path, [("99000001", 0, b"content")])
    reads = failing_pread(monkeypatch, 10, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        read_image_bytes(tmp_path, reference)
    assert len(reads) == 4
    monkeypatch.undo()


def test_other_errors_are_not_retried(tmp_path, monkeypatch):
    monkeypatch.setattr(image_store.time, "sleep", lambda _: pytest.fail("waited for a missing file"))
    with pytest.raises(FileNotFoundError):
        read_image_bytes(tmp_path, "images/absent.png")


def test_staged_shards_are_read_from_the_local_disk(tmp_path, monkeypatch):
    (reference,) = pack(tmp_path / "set", [("99000001", 0, b"content")])
    assert read_image_bytes(tmp_path / "set", reference, tmp_path / "local") == b"content"
    (copy,) = (tmp_path / "local").glob("*.tar")
    assert copy.read_bytes() == (tmp_path / "set/images/00000.tar").read_bytes()
    (tmp_path / "set/images/00000.tar").unlink()  # open already
    assert read_image_bytes(tmp_path / "set", reference, tmp_path / "local") == b"content"
