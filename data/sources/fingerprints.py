"""Short texts that tell one version of a source, or of the shipped vocabularies, from another."""

import hashlib
from pathlib import Path

import yaml

from data.errors import UserError
from data.ontology import FILES
from data.text.tokenizer import fingerprint

# Of a file, so much is read at either end: archives keep their directory there.
_END = 2**20
# Levels of a folder that are listed. Hundreds of thousands of files lie deeper, in folders that these levels name.
_LEVELS = 2


def path_fingerprint(path: Path) -> str:
    """Sixteen hex digits of a file or folder; cheap, and equal wherever and whenever it was copied.

    A file's are of its name, its size and its first and last MiB; a folder's of the names and sizes of what lies in its
    first two levels. Raises UserError where there is nothing.
    """
    try:
        if path.is_dir():
            return fingerprint(_listing(path, _LEVELS))
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(_END))
            file.seek(max(0, size - _END))
            digest.update(file.read(_END))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    return fingerprint([path.name, size, digest.hexdigest()])


def _listing(folder: Path, levels: int) -> list:
    """Names with sizes of files, and with the listing of folders; below the last level names alone."""
    entries = sorted(folder.iterdir())
    if levels == 0:
        return [entry.name for entry in entries]
    return [[entry.name, _listing(entry, levels - 1) if entry.is_dir() else entry.stat().st_size] for entry in entries]


def vocabulary_fingerprints() -> dict[str, str]:
    """The fingerprints of the shipped regions, attribute rules and observations, by name."""
    return {
        name: fingerprint(yaml.safe_load((FILES / f"{name}.yaml").read_text(encoding="utf-8")))
        for name in ("anatomy", "attributes", "observations")
    }
