"""Parsing JSON of unknown origin."""

import json
from collections.abc import Callable
from typing import Any

from data.errors import reason, wrong_format


def parse_json(
    text: str | bytes, where: str, fix: str, parse_constant: Callable[[str], Any] | None = None
) -> Any:
    """Return the content of JSON `text`.

    where            a file or a line, for messages
    fix              what a user can do about it
    parse_constant   returns the value of NaN and Infinity (default: the float)

    Raises UserError for text that is not JSON, is nested too deep, has an integer of thousands of digits, or escapes
    half of a surrogate pair, which no file or terminal can take.
    """
    try:
        content = json.loads(text, parse_constant=parse_constant)
    except (ValueError, RecursionError) as error:
        raise wrong_format(where, f"JSON ({reason(error)})", fix) from error
    escapes = ("\\ud", "\\uD") if isinstance(text, str) else (b"\\ud", b"\\uD")
    if any(escape in text for escape in escapes):
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError) as error:
            raise wrong_format(where, "valid Unicode (a lone surrogate)", fix) from error
    return content
