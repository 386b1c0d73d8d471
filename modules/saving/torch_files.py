"""Reading dictionaries that torch.save wrote, without executing code from them and within bounded memory."""

import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from data.errors import UserError, damaged, readable, wrong_format
from models.trunks.torch_archive import LARGEST_PICKLE, PICKLE_NAME, check_archive

# Calls that only rebuild tensors and containers.
_HARMLESS = re.compile(r"(?:torch|collections)\b.*")
_MOST_OPCODES = 100_000


def load_dictionary(file: BinaryIO, path: Path, fix: str) -> dict[str, Any]:
    """Load a dictionary from the open `file` at `path`.

    Raises UserError, naming the path, if the file is damaged, would take more memory than its size suggests, contains
    pickled code or is not a dictionary. fix: what to do, for the message.
    """
    try:
        check_archive(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives raise many types of errors
        called = _pickled_code(file, error)
        if called is not None:
            raise UserError(
                f"{path} contains pickled code (it calls {readable(called)[:80]}), which was not executed: do not load "
                f"it with other programs; {fix}"
            ) from error
        first_line = (str(error).splitlines() or [""])[0]
        raise damaged(path, f"{type(error).__name__}: {readable(first_line)[:120]}", fix) from error
    if not isinstance(content, dict):
        raise wrong_format(path, f"a dictionary but a {type(content).__name__}", fix)
    return content


def _pickled_code(file: BinaryIO, error: Exception) -> str | None:
    """Return the function that a pickle in the file calls besides those of tensors; None if there is none."""
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused:
        return refused[1]
    try:
        return next((name for name in _called(_pickle_of(file)) if not _HARMLESS.fullmatch(name)), None)
    except Exception:  # not a pickle
        return None


def _pickle_of(file: BinaryIO) -> bytes:
    """Return the start of the pickle in an archive of torch.save, or of the file if it is not an archive."""
    file.seek(0)
    if not zipfile.is_zipfile(file):
        file.seek(0)
        return file.read(LARGEST_PICKLE)
    with zipfile.ZipFile(file) as archive:
        name = next(entry.filename for entry in archive.infolist() if PICKLE_NAME.fullmatch(entry.filename))
        with archive.open(name) as pickle:
            return pickle.read(LARGEST_PICKLE)


def _called(pickle: bytes) -> list[str]:
    """Return the names of the functions and classes in a pickle, as far as it can be parsed."""
    names, strings = [], []
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):
            if opcode.name in ("GLOBAL", "INST"):
                names.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                names.append(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
            if number == _MOST_OPCODES:
                break
    except ValueError:  # truncated
        pass
    return names
