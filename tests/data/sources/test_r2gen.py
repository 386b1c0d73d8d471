"""Annotation files in R2Gen's layout, valid and malformed."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.sources.r2gen import R2GenSample, read_annotation

IU = {
    "train": [
        {
            "id": "CXR9001_IM-0001",
            "report": "Heart size normal.",
            "split": "train",
            "image_path": ["CXR9001_IM-0001/0.png", "CXR9001_IM-0001/1.png"],
        },
    ],
    "val": [],
    "test": [{"id": "CXR9002_IM-0002", "report": "", "image_path": ["CXR9002_IM-0002/0.png"], "complete": False}],
}
MIMIC = {
    "train": [
        {
            "id": "aaaaaaaa-bbbbbbbb",
            "study_id": 99000001,
            "subject_id": 99100001,
            "report": " FINDINGS:\n clear. ",
            "image_path": ["p99/p99100001/s99000001/aaaaaaaa-bbbbbbbb.jpg"],
            "split": "train",
        },
    ],
    "validate": [{"id": 7, "report": "x", "image_path": "p99/7.jpg"}],
}


@pytest.fixture
def write(tmp_path):
    """A function that writes a document, or bytes, to an annotation file."""

    def written(document):
        path = tmp_path / "annotation.json"
        path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
        return path

    return written


def test_one_sample_a_study(write):
    assert read_annotation(write(IU)) == [
        R2GenSample(
            "CXR9001_IM-0001", "train", "Heart size normal.", ("CXR9001_IM-0001/0.png", "CXR9001_IM-0001/1.png")
        ),
        R2GenSample("CXR9002_IM-0002", "test", "", ("CXR9002_IM-0002/0.png",)),
    ]


def test_one_sample_an_image(write):
    first, second = read_annotation(write(MIMIC))
    assert (first.study_id, first.subject_id, first.report) == ("99000001", "99100001", " FINDINGS:\n clear. ")
    assert first.images == ("p99/p99100001/s99000001/aaaaaaaa-bbbbbbbb.jpg",)
    assert (second.id, second.split, second.images, second.study_id) == ("7", "val", ("p99/7.jpg",), "")


def test_splits_come_in_one_order_whatever_the_file_has(write):
    shuffled = {split: IU[split] for split in ("test", "train")}
    assert [sample.split for sample in read_annotation(write(shuffled))] == ["train", "test"]


def test_byte_order_mark_is_no_error(write):
    assert len(read_annotation(write(b"\xef\xbb\xbf" + json.dumps(IU).encode()))) == 2


@pytest.mark.parametrize("report", [None, float("nan"), "nan", " None ", "null", "N/A", "", " \n"])
def test_a_missing_report_is_empty(write, report):
    first, _ = read_annotation(write({"train": [IU["train"][0] | {"report": report}], "test": IU["test"]}))
    assert first.report == ""


def changed(**values):
    """Return the IU annotation with changed values in its first sample; None removes the key."""
    sample = {key: value for key, value in (IU["train"][0] | values).items() if value is not None}
    return {"train": [IU["test"][0], sample]}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"{", "annotation.json is not JSON"),
        (b"\xff\xfe", "annotation.json is not JSON"),
        (b"[" * 100_000, "annotation.json is not JSON"),
        ([], "not a JSON object with the keys train, val and test"),
        ({"dev": []}, "unknown split 'dev'; choose one of train, val, test"),
        ({"train": {}}, "'train' is not a list of samples"),
        ({"train": [IU["train"][0], 3]}, r"annotation.json train\[1\] is not a JSON object"),
        (changed(id=None), r"train\[1\] has no key 'id'"),
        (changed(report=None), r"train\[1\] has no key 'report'"),
        (changed(image_path=None), r"train\[1\] has no key 'image_path'"),
        (changed(report=1.5), r"train\[1\]: 'report' is not a string"),
        (changed(report=["x"]), r"train\[1\]: 'report' is not a string"),
        (changed(id=1.5), r"train\[1\]: 'id' is not a string or an integer"),
        (changed(id=" "), r"train\[1\]: 'id' is empty"),
        (changed(study_id=True), r"train\[1\]: 'study_id' is not a string or an integer"),
        (changed(image_path=[1]), r"train\[1\]: 'image_path' is not a list of paths"),
        (changed(image_path=["/etc/x.png"]), r"train\[1\]: 'image_path' leads out of the folder of images"),
        (changed(image_path=["a/../../x.png"]), r"train\[1\]: 'image_path' leads out"),
        (changed(image_path=["..\\x.png"]), r"train\[1\]: 'image_path' leads out"),
        (changed(id="CXR9002_IM-0002"), r"train\[1\]: the id CXR9002_IM-0002 occurs twice"),
    ],
)
def test_an_error_names_file_sample_and_key(write, document, message):
    with pytest.raises(UserError, match=message) as caught:
        read_annotation(write(document))
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="Cannot read .*annotation.json"):
        read_annotation(tmp_path / "annotation.json")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "report", "image_path", "split", "study_id", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)
split_names = st.sampled_from(["train", "val", "valid", "test"])
annotations = st.dictionaries(split_names, st.lists(anything, max_size=3) | anything)


@given(document=annotations | anything)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_document_gives_samples_or_one_line_that_names_the_file(write, document):
    path = write(document)
    try:
        samples = read_annotation(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert all(sample.id and sample.split in ("train", "val", "test") for sample in samples)


@given(content=st.binary(max_size=64))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_samples_or_one_line_that_names_the_file(write, content):
    path = write(content)
    try:
        read_annotation(path)
    except UserError as error:
        assert str(path) in str(error)
