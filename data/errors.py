"""Errors that the user can fix, and helpers that word the recurring kinds alike.

Every message is one line: what happened, where, and what to do.

    raise cannot_read(path, error, "prepare the data set again") from error
    raise unknown_name("split", split, SPLITS)
"""

from collections.abc import Sequence
from difflib import get_close_matches

# Longer lists of choices are not printed: the message suggests the closest one instead.
_MAX_LISTED = 20
_MAX_REASON_LENGTH = 160
# Number of items that `truncate_list` prints.
_LISTED_ITEMS = 5


class UserError(Exception):
    """An error that the user can fix: a missing file, an unknown key, a damaged image.

    The message is one line that says what is wrong, where, and how to fix it. Entry points print it and exit with
    status 1.
    """


def missing(what: str, path: object, fix: str) -> UserError:
    """`what` ("data set", "checkpoint") does not exist at `path`."""
    return UserError(f"No {what} at {path}: {fix}")


def cannot_read(what: object, error: Exception, fix: str | None = None) -> UserError:
    """Reading `what` (a path or a description) failed with `error`."""
    return UserError(f"Cannot read {what} ({reason(error)})" + (f": {fix}" if fix else ""))


def cannot_write(what: object, error: Exception, fix: str = "free space, or choose another folder") -> UserError:
    """Writing `what` (a path or a description) failed with `error`."""
    return UserError(f"Cannot write {what} ({reason(error)}): {fix}")


def damaged(what: object, why: str, fix: str) -> UserError:
    """`what` exists but cannot be used, because of `why`."""
    return UserError(f"{what} is damaged ({why}): {fix}")


def wrong_format(what: object, expected: str, fix: str) -> UserError:
    """`what` exists but is not `expected` ("a JSON object", "a prepared data set")."""
    return UserError(f"{what} is not {expected}: {fix}")


def wrong_value(name: str, value: object, rule: str) -> UserError:
    """The `value` of the setting or option `name` violates `rule` ("must be at least 1")."""
    return UserError(f"{name}={value}: {rule}")


def unknown_name(kind: str, name: str, choices: Sequence[str], where: str | None = None) -> UserError:
    """`name` is not one of the `choices`; `kind` says what is chosen, in the singular ("split", "region")."""
    close = get_close_matches(str(name), choices, n=1)
    if close:
        advice = f"did you mean '{close[0]}'?"
    elif len(choices) <= _MAX_LISTED:
        advice = f"choose one of {', '.join(choices)}"
    else:
        advice = f"it is not one of the {len(choices)} known names"
    prefix = f"{where}: unknown" if where else "Unknown"
    return UserError(f"{prefix} {kind} '{readable(str(name))}'; {advice}")


def reason(error: Exception) -> str:
    """The cause of `error` as one printable line, without the path, which messages name themselves."""
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    return readable(text)[:_MAX_REASON_LENGTH] or type(error).__name__


def readable(text: str) -> str:
    """`text` with every unprintable character replaced by U+FFFD, so that it stays on one line."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def truncate_list(items: Sequence[str], separator: str) -> str:
    """Join the first few of `items`, and the number of the others."""
    more = [f"and {len(items) - _LISTED_ITEMS} more"] if len(items) > _LISTED_ITEMS else []
    return separator.join([*items[:_LISTED_ITEMS], *more])
