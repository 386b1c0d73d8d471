"""Changing the files of a checkpoint as its owner would."""

from pathlib import Path

from modules.saving.manifest import MANIFEST, build_manifest


def update_manifest(directory: Path) -> None:
    """List the files of the checkpoint as they are now, after a test has changed one."""
    names = {path.name for path in directory.iterdir() if path.is_file()} - {MANIFEST}
    (directory / MANIFEST).write_bytes(build_manifest(directory, names))
