"""JSON of unknown origin: read, or refused with one line that names where it is."""

import json

import pytest

from data.errors import UserError
from data.storage.parse import parse_json

FIX = "write it again"


@pytest.mark.parametrize("text", ['{"a": [1, null, "\u00e9"]}', "[]", '"\\ud83d\\ude00"'])
def test_content_is_that_of_json(text):
    for given in (text, text.encode()):
        assert parse_json(given, "file", FIX) == json.loads(text)


@pytest.mark.parametrize(("text", "message"), [
    ("", "file is not JSON (Expecting value"),
    ("[" * 100_000 + "]" * 100_000, "file is not JSON (maximum recursion depth exceeded"),
    ('{"a":' * 100_000 + "1" + "}" * 100_000, "file is not JSON (maximum recursion depth exceeded"),
    ("9" * 5000, "file is not JSON (Exceeds the limit"),
    ('{"report": "\\ud800"}', "file is not valid Unicode (a lone surrogate)"),
    ('{"\\uDFFF": 1}', "file is not valid Unicode (a lone surrogate)"),
])
def test_what_cannot_be_used_is_refused(text, message):
    for given in (text, text.encode()):
        with pytest.raises(UserError) as raised:
            parse_json(given, "file", FIX)
        assert str(raised.value).startswith(message) and str(raised.value).endswith(f": {FIX}")
        assert "\n" not in str(raised.value)


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(UserError, match="file is not JSON"):
        parse_json(b'"\xff"', "file", FIX)


def test_constants_can_be_replaced():
    assert parse_json("[NaN, Infinity]", "file", FIX, parse_constant=lambda _: None) == [None, None]
