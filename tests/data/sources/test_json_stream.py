"""Reading JSON files in very small pieces."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.sources import json_stream
from data.sources.json_stream import JsonStream

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(json_stream, "_PIECE", 3)


def walk(stream: JsonStream, content):
    """Read a document of known content, its members and items one by one."""
    if isinstance(content, dict):
        return {key: walk(stream, content[key]) for key in stream.members()}
    if isinstance(content, list):
        return [walk(stream, content[position]) for position in stream.items()]
    return stream.value()


@settings(deadline=None)
@given(content=values, indent=st.sampled_from([None, 2]))
def test_walking_gives_what_the_file_holds(tmp_path_factory, content, indent):
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_text(json.dumps(content, indent=indent), encoding="utf-8")
    with JsonStream(path) as stream:
        assert walk(stream, content) == content
    with JsonStream(path) as stream:
        assert stream.value() == content


@settings(deadline=None)
@given(content=values, cut=st.integers(0, 100), junk=st.sampled_from(["", "}", ",", "\x00", '"']))
def test_damaged_files_give_one_line(tmp_path_factory, content, cut, junk):
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_text(json.dumps({"a": content})[:cut] + junk, encoding="utf-8")
    try:
        with JsonStream(path) as stream:
            for _ in stream.members():
                stream.value()
    except UserError as error:
        assert str(error).startswith(f"{path} is not JSON of the expected form")


def test_other_kinds_than_expected_are_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[1]", encoding="utf-8")
    with JsonStream(path) as stream, pytest.raises(UserError, match="x.json is not JSON of the expected form"):
        next(stream.members())
    path.write_text("[" * 100_000, encoding="utf-8")
    with JsonStream(path) as stream, pytest.raises(UserError, match="expected form"):
        stream.value()
    with pytest.raises(UserError, match="Cannot read .*absent"):
        JsonStream(tmp_path / "absent.json")
