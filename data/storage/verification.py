"""The subcommand `verify` of data.prepare: compares a prepared data set with its manifest, byte by byte."""

from argparse import ArgumentParser, Namespace
from contextlib import closing
from pathlib import Path

from data.console import Progress
from data.errors import cannot_write, missing
from data.records import SPLITS, count_studies, read_records
from data.storage.prepared_files import DESCRIPTION, check_all, write_manifest


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("folder", type=Path, help="prepared data set")
    parser.add_argument(
        "--accept", action="store_true", help="write the manifest of the present files, after a change of your own"
    )


def run(arguments: Namespace) -> None:
    """Compare the data set of the command line with its manifest, or write a new manifest.

    Raises UserError if a file is missing or differs, if there is no manifest, and as `read_records` does.
    """
    root = arguments.folder
    if not (root / DESCRIPTION).is_file():
        raise missing("prepared data set", root, f"give a folder with a {DESCRIPTION}")
    if arguments.accept:
        try:
            number = write_manifest(root)
        except OSError as error:
            raise cannot_write(root, error) from error
        print(f"{root}: the manifest lists the present {number} files")
    else:
        with closing(Progress(f"Verifying {root}", "files")) as progress:
            number = check_all(root, progress.advance)
        print(f"{root}: all {number} files are those of the manifest")
    counts = count_studies(root)
    for split in SPLITS:
        if counts[split]:
            read_records(root, split)
    print(", ".join(f"{count} {split}" for split, count in counts.items()))
