"""The run scripts in a folder of their own, with stubs for Python, Java and other commands in PATH."""

import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(ROOT.glob("*.sh"))
CLUSTER = sorted((ROOT / "cluster").iterdir())
CI = ROOT / ".ci/run"
# The PATH of a script under test holds only these, so that Java, Python and GPUs of the machine have no effect.
TOOLS = "basename bash cat dirname env flock grep id mkdir paste rm sed sleep tail timeout touch tr".split()

# Runs `-c` and `-` with the real interpreter and appends every other command to commands.log. `-m venv DIR` copies the
# stub to DIR/bin/python.
PYTHON_STUB = """#!{bash}
case $1 in
    -c)
        if [[ $2 == *"import sys, pip;"* && -e $(dirname "$0")/no_pip ]]; then exit 1; fi
        if [[ $2 == *ensurepip* && -n ${{NO_ENSUREPIP:-}} ]]; then exit 1; fi
        exec {python} "$@" ;;
    -)
        exec {python} "$@" ;;
esac
printf '%s\\n' "$(basename "$0")$(printf ' [%s]' "$@")" >>"$COMMANDS"
if [[ $1 == -m && $2 == venv ]]; then
    mkdir -p "$3/bin"
    cat "$0" >"$3/bin/python"
    {chmod} +x "$3/bin/python"
fi
if [[ $1 == -m && $2 == pip ]]; then sleep "${{PIP_SECONDS:-0}}"; fi
if [[ "$*" == *"${{FAIL_ON:-nothing at all}}"* ]]; then exit 7; fi
"""


class Checkout:
    """A copy of the scripts in a folder with a space in its name, and an environment of stubs to run them in."""

    def __init__(self, folder: Path):
        self.folder = folder / "a checkout"
        self.tools = folder / "tools"
        self.log = folder / "commands.log"
        self.folder.mkdir()
        self.tools.mkdir()
        for name in (".ci", "cluster", "configs"):
            (self.folder / name).mkdir()
        for script in [*SCRIPTS, *CLUSTER, CI]:
            shutil.copy(script, self.folder / script.relative_to(ROOT))
        for tool in TOOLS:
            if path := shutil.which(tool):
                (self.tools / tool).symlink_to(path)
        self.write_requirements("requirements.txt", f"pytest=={metadata.version('pytest')}  # a comment\n")
        self.write_requirements("requirements-dev.txt", "-r requirements.txt\n")
        self.variables = {"PATH": str(self.tools), "COMMANDS": str(self.log), "HOME": str(folder)}
        self.add_tool("java", "exit 0")

    def write_requirements(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def add_tool(self, name: str, body: str) -> None:
        self.add_program(name, f"#!{shutil.which('bash')}\n{body}\n")

    def add_python(self, name: str) -> Path:
        text = PYTHON_STUB.format(bash=shutil.which("bash"), python=sys.executable, chmod=shutil.which("chmod"))
        return self.add_program(name, text)

    def add_program(self, name: str, text: str) -> Path:
        path = self.tools / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        return path

    def add_data_set(self, name: str) -> None:
        (self.folder / "data" / name).mkdir(parents=True)
        (self.folder / "data" / name / "dataset.yaml").touch()

    def start(self, script: str, *arguments: str, **variables: str) -> subprocess.Popen:
        """Start a script from another folder; `variables` are added to its environment."""
        command = [shutil.which("bash"), str(self.folder / script), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # A background job of a script ignores SIGINT, and a child process would inherit that.
        return subprocess.Popen(
            command, cwd=self.tools, env={**self.variables, **variables}, **pipes,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        """Run a script to its end."""
        with self.start(script, *arguments, **variables) as process:
            output, errors = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def commands(self) -> list[str]:
        """The commands that the Python stubs received since the last call."""
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


def path_without_java(folder: Path) -> str:
    """Return a PATH on which only `TOOLS` are found, by links in `folder`/tools.

    Without Java, METEOR is absent, which takes seconds to start for each system that is scored.
    """
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name in TOOLS:
        if (path := shutil.which(name)) and not (tools / name).exists():
            (tools / name).symlink_to(path)
    return str(tools)
