"""The error that a user can mend."""


class UserError(Exception):
    """Something that the user gave or lacks: a missing file, a wrong key, a damaged image.

    Its text is one line that says what is wrong, where, and how to mend it. Entry points print that line and exit 1.
    """


def readable(name: str) -> str:
    """`name`, which can hold anything, fit for one line of output: what cannot be printed becomes U+FFFD."""
    return "".join(character if character.isprintable() else "\ufffd" for character in name)
