"""The continuous integration script, with stubs for the commands that it calls."""

import pytest

from tests.support.checkout import Checkout


@pytest.fixture
def with_python(tmp_path) -> Checkout:
    """A checkout whose scripts get an interpreter through PYTHON."""
    checkout = Checkout(tmp_path)
    checkout.variables["PYTHON"] = str(checkout.add_python("stub"))
    return checkout


@pytest.mark.parametrize("user", [0, 1000])
def test_continuous_integration_goes_on_without_what_it_cannot_install(with_python, user):
    (with_python.tools / "java").unlink()
    (with_python.tools / "id").unlink()
    with_python.add_tool("id", f"echo {user}")
    with_python.add_tool("apt-get", "exit 100")
    result = with_python.run(".ci/run")
    assert result.returncode == 0
    assert "default-jre-headless chromium" in result.stderr
    assert [command.split("] [")[1].rstrip("]") for command in with_python.commands()] == [
        "pytest", "benchmarks", "data.prepare", "--config", "--checkpoint",
    ]


def test_continuous_integration_installs_and_fails_with_the_suite(with_python):
    (with_python.tools / "java").unlink()
    (with_python.tools / "id").unlink()
    with_python.add_tool("id", "echo 0")
    with_python.add_tool("apt-get", 'echo "apt-get $*" >>"$COMMANDS"')
    assert with_python.run(".ci/run", FAIL_ON="-m pytest").returncode == 7
    update, install, tests = with_python.commands()
    assert update.startswith("apt-get update") and install.endswith(" default-jre-headless chromium")
    assert "[pytest]" in tests


@pytest.mark.parametrize("status, python", [(0, "results/metrics_environment/bin/python"), (1, "none")])
def test_continuous_integration_tells_the_tests_of_an_environment_with_radeval(with_python, status, python):
    (with_python.folder / ".ci/metrics_environment.sh").write_text(f"exit {status}\n", encoding="utf-8")
    (with_python.folder / "run_tests.sh").write_text('echo "python: ${SGRRG_METRICS_PYTHON:-none}"\n', encoding="utf-8")
    result = with_python.run(".ci/run")
    assert result.returncode == 0 and result.stdout.splitlines()[0].endswith(python)
    assert ("tests that run it are skipped" in result.stderr) == (status == 1)
