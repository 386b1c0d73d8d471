"""Short texts that identify one version of a source or of the shipped vocabularies."""

import hashlib
from pathlib import Path

import yaml

from data.errors import cannot_read
from data.ontology import FILES
from data.text.tokenizer import fingerprint

# Bytes read at either end of a file: archives keep their directory at the end.
_END = 2**20
# Levels of a folder that are listed; the folders with hundreds of thousands of files are deeper.
_LEVELS = 2


def path_fingerprint(path: Path) -> str:
    """Return sixteen hex digits that identify a file or folder, independent of its location and modification time.

    For a file they depend on its name, its size and its first and last MiB; for a folder on the names and sizes in its
    first two levels. Raises UserError if `path` cannot be read.
    """
    try:
        if path.is_dir():
            return fingerprint(_list_folder(path, _LEVELS))
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(_END))
            file.seek(max(0, size - _END))
            digest.update(file.read(_END))
    except OSError as error:
        raise cannot_read(path, error, "give an existing file or folder") from error
    return fingerprint([path.name, size, digest.hexdigest()])


def _list_folder(folder: Path, levels: int) -> list:
    """Return names with the size (files) or listing (folders) of each entry; names only in the last level."""
    entries = sorted(folder.iterdir())
    if levels == 0:
        return [entry.name for entry in entries]
    return [
        [entry.name, _list_folder(entry, levels - 1) if entry.is_dir() else entry.stat().st_size] for entry in entries
    ]


def vocabulary_fingerprints() -> dict[str, str]:
    """Return the fingerprints of the shipped regions, attribute rules and observations, by name."""
    return {
        name: fingerprint(yaml.safe_load((FILES / f"{name}.yaml").read_text(encoding="utf-8")))
        for name in ("anatomy", "attributes", "observations")
    }
