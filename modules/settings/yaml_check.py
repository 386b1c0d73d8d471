"""Checks YAML of unknown origin before it is read: a configuration comes with every checkpoint that is shared."""

import re
from pathlib import Path

import yaml

from data.errors import UserError

# Far more than a configuration needs. The library takes seconds to read a MiB.
_LARGEST, _DEEPEST, _LONGEST_NUMBER = 1 << 17, 20, 100
_NUMBER = re.compile(r"[-+]?[0-9a-fA-FxXoO_:]+")


def check_yaml(text: str, where: str) -> None:
    """Raise UserError, which says `where` it is, for YAML that a configuration must not contain.

    These are interpolations such as ${oc.env:HOME}, which read environment variables of whoever loads the file; aliases
    and deep nesting, which expand to far more than the file; and numbers with hundreds of digits. Raises yaml.YAMLError
    for text that is not YAML.
    """
    if len(text) > _LARGEST:
        raise UserError(f"{where} has {len(text) >> 10} KiB, too many for a configuration: use another file")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise UserError(f"{where} repeats a part by an alias (*{event.anchor[:40]}): write it out")
        if isinstance(event, yaml.ScalarEvent):
            if "${" in event.value:
                line = event.start_mark.line + 1
                raise UserError(f"{where} line {line} has an interpolation (${{...}}): write the value itself")
            if len(event.value) > _LONGEST_NUMBER and _NUMBER.fullmatch(event.value):
                raise UserError(f"{where} has a number of {len(event.value)} digits: write a smaller one")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise UserError(f"{where} is nested more than {_DEEPEST} levels deep: use another file")


def read_text(path: Path) -> str:
    """Return the text of a configuration file, at most a little more than is allowed."""
    with path.open(encoding="utf-8") as file:
        return file.read(_LARGEST + 1)
