"""Large JSON files piece by piece: the whole of one can be ten times as large in memory as on disk."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import UserError

_PIECE = 2**20
_BLANK = re.compile(r"[ \t\n\r]*")
# The empty text stands for the end of what was read.
_WITHIN_NUMBERS = ("", *"0123456789.eE+-")


class JsonStream:
    """Walks through a JSON file from its start to its end.

    `members` and `items` go through an object and a list. Between two of their steps, what stands there must be
    consumed: by `value`, which reads it whole, or by `members` or `items` again.

    All methods raise UserError, naming the file, where it is not what they expect.
    """

    def __init__(self, path: Path):
        """Open the file. Raises UserError where that is not possible."""
        self._path = path
        self._text = ""
        self._position = 0
        self._ended = False
        try:
            self._file = path.open(encoding="utf-8-sig")
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror}") from error

    def __enter__(self) -> "JsonStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def members(self) -> Iterator[str]:
        """The keys of the object that begins here; after each, its value stands next."""
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
        """The positions in the list that begins here; after each, its value stands next."""
        self._take("[")
        if self._next() == "]":
            self._take("]")
            return
        position = 0
        while True:
            yield position
            position += 1
            if self._next() == "]":
                break
            self._take(",")
        self._take("]")

    def value(self) -> Any:
        """The value that stands here."""
        self._next()
        decoder = json.JSONDecoder()
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._position)
                # A number at the end of what was read may go on: "10" as "10.5".
                if self._ended or self._text[end : end + 1] not in _WITHIN_NUMBERS:
                    self._position = end
                    return value
            except (ValueError, RecursionError) as error:
                if self._ended or isinstance(error, RecursionError):
                    raise self._malformed() from error
            self._read(max(_PIECE, len(self._text) - self._position))

    def _next(self) -> str:
        """The character that stands here, after blanks; empty at the end of the file."""
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
        """Add about so many characters to the text, and forget what was consumed."""
        try:
            piece = self._file.read(count)
        except (OSError, UnicodeDecodeError) as error:
            raise self._malformed() from error
        self._ended = not piece
        self._text = self._text[self._position :] + piece
        self._position = 0

    def _malformed(self) -> UserError:
        return UserError(f"{self._path} is not JSON of the expected form: fetch the file again")
