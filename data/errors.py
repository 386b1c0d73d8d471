"""Errors that the user can fix, and their usual wordings.

Every message is one line: what happened, where, and what to do. The functions below build the recurring kinds, so that
they read alike everywhere:

    raise cannot_read(path, error, "prepare the data set again") from error
    raise unknown_name("split", split, SPLITS)
"""

from collections.abc import Sequence
from difflib import get_close_matches

# Longer lists of choices are not printed in full: the closest one is suggested instead.
_MOST_LISTED = 20


class UserError(Exception):
    """An error that the user can fix: a missing file, an unknown key, a damaged image.

    The message is one line that says what is wrong, where, and how to fix it. Entry points print it and exit with
    status 1.
    """


def missing(what: str, path: object, fix: str) -> UserError:
    """There is nothing at `path`, where `what` is expected ("data set", "checkpoint")."""
    return UserError(f"No {what} at {path}: {fix}")


def cannot_read(what: object, error: Exception, fix: str | None = None) -> UserError:
    """Reading `what` (a path, or words that name it) failed with `error`."""
    return UserError(f"Cannot read {what} ({reason(error)})" + (f": {fix}" if fix else ""))


def cannot_write(what: object, error: Exception, fix: str = "free space, or choose another folder") -> UserError:
    """Writing `what` (a path, or words that name it) failed with `error`."""
    return UserError(f"Cannot write {what} ({reason(error)}): {fix}")


def damaged(what: object, why: str, fix: str) -> UserError:
    """`what` exists and cannot be used, because of `why`."""
    return UserError(f"{what} is damaged ({why}): {fix}")


def wrong_format(what: object, expected: str, fix: str) -> UserError:
    """`what` exists and is something else than `expected` ("a JSON object", "a prepared data set")."""
    return UserError(f"{what} is not {expected}: {fix}")


def wrong_value(name: str, value: object, rule: str) -> UserError:
    """The setting or option `name` has a `value` that breaks `rule` ("must be at least 1")."""
    return UserError(f"{name}={value}: {rule}")


def unknown_name(kind: str, name: str, known: Sequence[str], where: str | None = None) -> UserError:
    """`name` is not one of the `known` names of this `kind` (singular: "split", "region")."""
    prefix = f"{where}: " if where else ""
    close = get_close_matches(str(name), known, n=1)
    if close:
        advice = f"did you mean '{close[0]}'?"
    elif len(known) <= _MOST_LISTED:
        advice = f"choose one of {', '.join(known)}"
    else:
        advice = f"it is not one of the {len(known)} known names"
    return UserError(f"{prefix}unknown {kind} '{readable(str(name))}'; {advice}")


def reason(error: Exception) -> str:
    """The cause that `error` states, in one line and without the path, which messages name themselves."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]


def readable(name: str) -> str:
    """`name`, which may contain anything, as one printable line: unprintable characters become U+FFFD."""
    return "".join(character if character.isprintable() else "\ufffd" for character in name)
