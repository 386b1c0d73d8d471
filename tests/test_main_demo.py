"""The command that serves the web page."""

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import main_demo
from data.errors import UserError
from tests.support.tiny_run import write_tiny_run

pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-dev.txt")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return write_tiny_run(tmp_path_factory.mktemp("demo"), lively=True)[0]


def error_line(capsys):
    """The one line on stderr."""
    line, end = capsys.readouterr().err.split("\n")
    assert end == ""
    return line


def test_what_is_missing_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main_demo.main(["--example"]) == 1
    assert "bash run_demo.sh" in error_line(capsys)
    assert main_demo.main(["--checkpoint", "nowhere"]) == 1
    assert "nowhere" in error_line(capsys)
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "modules.inference.demo.page", raising=False)
    assert main_demo.main(["--example"]) == 1
    assert "requirements-demo.txt" in error_line(capsys)


def test_a_port_in_use_is_one_line(run_folder, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main_demo.main(["--checkpoint", str(run_folder / "best"), "--port", str(port)]) == 1
    assert str(port) in error_line(capsys)


@pytest.fixture
def served(monkeypatch):
    """The arguments with which the page would be served."""
    from modules.inference.demo import page

    served = []

    @contextlib.contextmanager
    def refuse(*arguments):
        served.append(arguments)
        raise UserError("not served")
        yield

    monkeypatch.setattr(page, "serve_page", refuse)
    return served


@pytest.mark.parametrize(("options", "warns"), [
    ([], False), (["--host", "localhost"], False), (["--host", "::1"], False), (["--host", "0.0.0.0"], True),
    (["--host", "192.168.1.5"], True), (["--host", "0.0.0.0", "--password", "secret"], False),
])
def test_a_page_that_other_machines_can_open_without_a_password_is_warned_of(served, capsys, options, warns):
    assert main_demo.main(["--checkpoint", "a", *options]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "not served" and len(lines) == 1 + warns
    assert not warns or lines[0].startswith("Warning: everyone who can reach") and "--password" in lines[0]


def test_names_and_password_reach_the_page(served, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("from stdin\nrest\n"))
    options = ["--allowed-host", "b", "--allowed-host", "c", "--password", "-", "--port", "1"]
    main_demo.main(["--checkpoint", "a", *options])
    assert served == [("a", "auto", "127.0.0.1", 1, ["b", "c"], "from stdin")]


@pytest.mark.parametrize("option", ["", "-"])
def test_an_empty_password_is_one_line(served, monkeypatch, capsys, option):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main_demo.main(["--checkpoint", "a", "--password", option]) == 1
    assert "--password is empty" in error_line(capsys) and served == []


@pytest.mark.timeout(600)  # a new process imports everything again, which is slow on a busy machine
def test_it_listens_on_this_machine_until_it_is_stopped_and_leaves_nothing(run_folder, tmp_path):
    command = [sys.executable, "main_demo.py", "--checkpoint", run_folder / "best"]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:
        line = process.stdout.readline()
        assert re.search(r"http://127\.0\.0\.1:\d+/", line) and "not for clinical use" in line
        (uploads,) = tmp_path.glob("sgrrg-demo-*")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert not uploads.exists() and errors == ""
