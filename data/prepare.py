"""Command that turns a source into a prepared data set.

    python -m data.prepare phantom --out data/phantom     simulated chests, no download
    python -m data.prepare iu_xray --source DIR --out data/iu_xray
    python -m data.prepare iu_xray --help                 all options
    python -m data.prepare table --table FILE --images FOLDER --out data/mine       images of your own, with a table
    python -m data.prepare verify data/mine               compares a prepared data set with its manifest
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import NoReturn

from data.console import run_command
from data.errors import UserError
from data.sources.chest_imagenome import source as chest_imagenome
from data.sources.iu_xray import source as iu_xray
from data.sources.jsrt import source as jsrt
from data.sources.mimic_cxr import source as mimic_cxr
from data.sources.nih_cxr14 import source as nih_cxr14
from data.sources.phantom import dataset as phantom
from data.sources.table import source as table
from data.storage import verification

# Every subcommand has `add_arguments(parser)`, which declares its options, and `run(arguments)`.
COMMANDS = {
    "iu_xray": iu_xray,
    "mimic_cxr": mimic_cxr,
    "chest_imagenome": chest_imagenome,
    "nih_cxr14": nih_cxr14,
    "jsrt": jsrt,
    "table": table,
    "phantom": phantom,
    "verify": verification,
}


class _Parser(ArgumentParser):
    """Reports wrong arguments in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    description = "Turn a source into a prepared data set, or verify one."
    parser = _Parser(prog="python -m data.prepare", description=description)
    names = parser.add_subparsers(dest="command", required=True, metavar="NAME", parser_class=_Parser)
    for name, command in COMMANDS.items():
        command.add_arguments(names.add_parser(name))
    try:
        parsed = parser.parse_args(arguments)
        COMMANDS[parsed.command].run(parsed)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: run the same command again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
