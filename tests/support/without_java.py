"""A PATH without Java: METEOR, which takes seconds to start for each system that is scored, is absent."""

import shutil
from pathlib import Path

from tests.support.checkout import TOOLS


def path_without_java(folder: Path) -> str:
    """Return a PATH on which only the programs that the run scripts need are found, by links in `folder`/tools."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name in TOOLS:
        if (path := shutil.which(name)) and not (tools / name).exists():
            (tools / name).symlink_to(path)
    return str(tools)
