"""Starting the process of RadEval, and what is said if it fails. Needs no package."""

import sys
from pathlib import Path

import pytest

from data.errors import UserError
from modules.evaluation.metrics.packages.radeval_process import RadEvalProcess


def script(path, *lines):
    """Write a program that stands for the python of another environment."""
    path.write_text("\n".join([f"#!{sys.executable}", *lines]) + "\n")
    path.chmod(0o755)
    return path


def test_a_python_that_does_not_exist_is_named():
    with pytest.raises(UserError, match="No Python at nowhere/python: give the python of an environment"):
        RadEvalProcess({"bleu": {}}, Path("nowhere/python"))


def test_a_file_that_is_not_a_program_is_named(tmp_path):
    (tmp_path / "python").write_text("")
    with pytest.raises(UserError, match="Cannot read .*/python .*Permission denied"):
        RadEvalProcess({"bleu": {}}, tmp_path / "python")


def test_a_python_without_the_package_is_told_apart_from_a_failing_metric(tmp_path):
    # -S leaves out site-packages, and -I the variables that name other folders.
    start = "os.execv(sys.executable, ['python', '-I', '-S', *sys.argv[1:]])"
    bare = script(tmp_path / "python", "import os, sys", start)
    with pytest.raises(UserError, match="RadEval needs the package radeval: pip install -r requirements-metrics.txt"):
        RadEvalProcess({"bleu": {}}, bare)


def test_a_process_that_dies_says_its_last_line(tmp_path):
    dying = script(tmp_path / "python", "import sys", "print('Killed\\n', file=sys.stderr)", "sys.exit(9)")
    with pytest.raises(UserError, match=r"RadEval's process ended with status 9 \(Killed\)"):
        RadEvalProcess({"bleu": {}}, dying)
