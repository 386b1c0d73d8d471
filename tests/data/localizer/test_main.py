"""The command that trains the shipped localizer."""

import numpy as np
import pytest

from data.localizer.__main__ import main
from data.localizer.shipped import localize


def test_the_command_writes_weights_that_can_be_used(tmp_path, capsys):
    out = tmp_path / "small.safetensors"
    assert main(["--out", str(out), "--films", "2", "--steps", "2", "--batch", "2"]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: ") and out.stat().st_size < 6 * 2**20
    assert len(localize(np.full((40, 50), 90, dtype=np.uint8), out)) == 29


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--films", "0"], "--films=0: must be at least 1"),
        (["--steps", "0"], "--steps=0: must be at least 1"),
        (["--batch", "0"], "--batch=0: must be at least 1"),
        (["--rate", "0"], "--rate=0.0: must be above 0"),
        (["--rate", "nan"], "--rate=nan: must be above 0"),
        (["--out", "absent/x.safetensors"], "the folder absent does not exist"),
    ],
)
def test_unusable_options_are_named_before_the_work(arguments, message, capsys):
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
