"""Reads large JSON files piece by piece: in memory a whole document can be ten times as large as on disk."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import UserError, cannot_read, wrong_format

_PIECE = 2**20
_BLANK = re.compile(r"[ \t\n\r]*")
# The empty text stands for the end of what was read.
_WITHIN_NUMBERS = ("", *"0123456789.eE+-")


class JsonStream:
    """Reads a JSON file from start to end.

    `members` and `items` iterate over an object and a list. Between two steps the current value must be consumed: by
    `value`, which reads it whole, or by another `members` or `items`.

    All methods raise UserError, naming the file, if it does not contain what they expect.
    """

    def __init__(self, path: Path):
        """Open the file. Raises UserError if it cannot be opened."""
        self._path = path
        self._text = ""
        self._position = 0
        self._ended = False
        try:
            self._file = path.open(encoding="utf-8-sig")
        except OSError as error:
            raise cannot_read(path, error) from error

    def __enter__(self) -> "JsonStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def members(self) -> Iterator[str]:
        """Iterate over the object at the current position; after each key, the position is at its value."""
        self._take("{")
        if self._next() == "}":
            self._take("}")
            return
        while True:
            key = self.value()
            if not isinstance(key, str):
                raise self._malformed()
            self._take(":")
            yield key
            if self._next() == "}":
                break
            self._take(",")
        self._take("}")

    def items(self) -> Iterator[int]:
        """Iterate over the list at the current position; after each index, the position is at that item."""
        self._take("[")
        if self._next() == "]":
            self._take("]")
            return
        index = 0
        while True:
            yield index
            index += 1
            if self._next() == "]":
                break
            self._take(",")
        self._take("]")

    def value(self) -> Any:
        """Return the value at the current position."""
        self._next()
        decoder = json.JSONDecoder()
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._position)
                # A number at the end of what was read may continue: "10" as "10.5".
                if self._ended or self._text[end : end + 1] not in _WITHIN_NUMBERS:
                    self._position = end
                    return value
            except (ValueError, RecursionError) as error:
                if self._ended or isinstance(error, RecursionError):
                    raise self._malformed() from error
            self._read(max(_PIECE, len(self._text) - self._position))

    def _next(self) -> str:
        """Skip blanks and return the character at the current position; "" at the end of the file."""
        while True:
            self._position = _BLANK.match(self._text, self._position).end()
            if self._position < len(self._text) or self._ended:
                return self._text[self._position : self._position + 1]
            self._read(_PIECE)

    def _take(self, character: str) -> None:
        if self._next() != character:
            raise self._malformed()
        self._position += 1

    def _read(self, count: int) -> None:
        """Read `count` more characters, and discard what was consumed."""
        try:
            piece = self._file.read(count)
        except (OSError, UnicodeDecodeError) as error:
            raise self._malformed() from error
        self._ended = not piece
        self._text = self._text[self._position :] + piece
        self._position = 0

    def _malformed(self) -> UserError:
        return wrong_format(self._path, "JSON of the expected form", "download the file again")
