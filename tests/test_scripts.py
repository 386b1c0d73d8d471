"""The run scripts with stubs for Python, Java and nvidia-smi: which commands they start and what they print."""

import hashlib
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.support.checkout import CI, CLUSTER, PYTHON_STUB, SCRIPTS, Checkout


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def with_python(checkout) -> Checkout:
    """A checkout whose scripts get an interpreter through PYTHON."""
    checkout.variables["PYTHON"] = str(checkout.add_python("stub"))
    return checkout


@pytest.mark.parametrize("script", [*SCRIPTS, *CLUSTER, CI], ids=lambda path: path.name)
def test_scripts_are_valid_bash(script):
    result = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_continuous_integration_entry_is_executable():
    assert os.access(CI, os.X_OK)


# Data sets


@pytest.mark.parametrize(
    ("script", "folder", "elsewhere"),
    [
        ("run_iu.sh", "data/iu_xray", "bash run_iu.sh data.root=FOLDER"),
        ("run_mimic.sh", "data/mimic_cxr", "bash run_mimic.sh data.root=FOLDER"),
        ("run_chest_imagenome.sh", "data/chest_imagenome", "bash run_chest_imagenome.sh data.root=FOLDER"),
        ("run_image_side.sh", "data/nih_cxr14", "bash run_image_side.sh data.root=FOLDER"),
        ("test_iu.sh", "data/iu_xray", "bash test_iu.sh --data FOLDER"),
        ("test_mimic.sh", "data/mimic_cxr", "bash test_mimic.sh --data FOLDER"),
    ],
)
def test_absent_data_set_ends_with_status_2_before_anything_is_made(checkout, script, folder, elsewhere):
    checkout.add_python("python3.11")
    result = checkout.run(script)
    assert (result.returncode, result.stdout) == (2, "")
    name = Path(folder).name
    assert f"data set at {folder}: {folder}/dataset.yaml does not exist." in result.stderr
    assert "https://" in result.stderr
    assert f"python -m data.prepare {name} --source" in result.stderr and f"--out {folder}" in result.stderr
    assert elsewhere in result.stderr
    assert "bash run_demo.sh (it simulates a data set)" in result.stderr
    assert checkout.commands() == [] and not (checkout.folder / ".venv").exists()


def test_data_root_moves_the_place_that_is_looked_at(with_python, tmp_path):
    assert "/nowhere/dataset.yaml does not exist" in with_python.run("run_iu.sh", "data.root=/nowhere").stderr
    (tmp_path / "dataset.yaml").touch()
    assert with_python.run("run_iu.sh", f"data.root={tmp_path}").returncode == 0
    assert f"[data.root={tmp_path}]" in with_python.commands()[0]


# Arguments and processes


def test_training_passes_arguments_on_and_tests_the_run(with_python):
    with_python.add_data_set("iu_xray")
    result = with_python.run("run_iu.sh", "train.epochs=5", "results=some where", "name=x")
    assert result.returncode == 0, result.stderr
    assert with_python.commands() == [
        "stub [main_train.py] [--config] [configs/iu_xray.yaml] [train.epochs=5] [results=some where] [name=x]",
        "stub [main_test.py] [--checkpoint] [some where/x] [--split] [test] [--graph] [predicted] [train.device=auto]",
    ]


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("run_iu.sh", "iu_xray"), ("run_mimic.sh", "mimic_cxr"), ("run_chest_imagenome.sh", "chest_imagenome"),
        ("run_image_side.sh", "nih_cxr14"),
    ],
)
def test_each_training_script_uses_its_own_configuration_and_run_folder(with_python, script, name):
    with_python.add_data_set(name)
    with_python.run(script)
    train, test = with_python.commands()
    assert train == f"stub [main_train.py] [--config] [configs/{name}.yaml]"
    assert f"[results/{name}]" in test


def test_failed_training_is_not_followed_by_a_test(with_python):
    with_python.add_data_set("mimic_cxr")
    result = with_python.run("run_mimic.sh", FAIL_ON="main_train.py")
    assert result.returncode == 7
    assert len(with_python.commands()) == 1


def test_interrupted_training_is_not_followed_by_a_test(with_python):
    with_python.add_data_set("iu_xray")
    # The trainer saves and exits normally; the shell that waits for it receives the same signal.
    with_python.variables["PYTHON"] = str(with_python.add_program("interrupted", PYTHON_STUB.format(
        bash=shutil.which("bash"), python=sys.executable, chmod=shutil.which("chmod"),
    ) + "\nkill -INT $PPID\n"))
    assert with_python.run("run_iu.sh").returncode == 130
    assert len(with_python.commands()) == 1


@pytest.mark.parametrize(
    ("gpus", "visible", "arguments", "processes"),
    [
        (0, None, [], None),
        (1, None, [], None),
        (3, None, [], 3),
        (3, "0,2", [], 2),
        (3, "1", [], None),
        (3, "", [], None),
        (3, "-1", [], None),
        (3, None, ["train.device=cpu"], None),
    ],
)
def test_torchrun_is_used_with_several_gpus(with_python, gpus, visible, arguments, processes):
    with_python.add_data_set("mimic_cxr")
    lines = "\n".join(f"echo 'GPU {index}: a card (UUID: GPU-{index})'" for index in range(gpus))
    with_python.add_tool("nvidia-smi", lines or "exit 9")
    with_python.run("run_mimic.sh", *arguments, **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}))
    training, test = with_python.commands()
    launcher = f"[-m] [torch.distributed.run] [--standalone] [--nproc_per_node={processes}] " if processes else ""
    assert training.startswith(f"stub {launcher}[main_train.py] [--config]")
    assert test.startswith(f"stub {launcher}[main_test.py] [--checkpoint]")


@pytest.mark.parametrize("rank", [0, 1])
def test_several_machines_join_with_a_rendezvous_of_their_own_for_training_and_test(with_python, rank):
    with_python.add_data_set("mimic_cxr")
    variables = {"NNODES": "2", "NODE_RANK": str(rank), "RDZV_ENDPOINT": "first.node:29400", "LOCAL_ADDR": "10.0.0.1"}
    assert with_python.run("run_mimic.sh", **variables).returncode == 0
    training, test = with_python.commands()
    options = "[--nnodes=2] [--rdzv-backend=c10d] [--rdzv-id=sgrrg] [--rdzv-endpoint=first.node:{}] [--rdzv-conf={}] "
    host = f"is_host={'true' if rank == 0 else 'false'}"
    # One process on a machine without GPUs.
    rest = "[--local-addr=10.0.0.1] [--nproc_per_node=1] "
    assert training.startswith(f"stub [-m] [torch.distributed.run] {options.format(29400, host)}{rest}[main_train.py]")
    assert test.startswith(f"stub [-m] [torch.distributed.run] {options.format(29401, host)}{rest}[main_test.py]")


def test_every_gpu_of_every_machine_gets_a_process(with_python):
    with_python.add_data_set("mimic_cxr")
    variables = {"NNODES": "1:4", "NODE_RANK": "0", "RDZV_ENDPOINT": "[::1]:29400", "CUDA_VISIBLE_DEVICES": "0,1,2"}
    with_python.run("run_mimic.sh", **variables)
    assert all(
        "[--nnodes=1:4]" in command and "[--nproc_per_node=3]" in command and "[--rdzv-endpoint=[::1]:2940" in command
        for command in with_python.commands()
    )
    with_python.run("run_mimic.sh", "train.device=cpu", **variables)
    assert all("[--nproc_per_node=1]" in command for command in with_python.commands())


def test_restarts_resume_the_training_on_one_machine_too(with_python):
    with_python.add_data_set("mimic_cxr")
    with_python.run("run_mimic.sh", "train.epochs=2", MAX_RESTARTS="2")
    training, test = with_python.commands()
    assert training == (
        "stub [-m] [torch.distributed.run] [--standalone] [--max-restarts=2] [--nproc_per_node=1] [main_train.py] "
        "[train.resume=true] [--config] [configs/mimic_cxr.yaml] [train.epochs=2]"
    )
    assert "[--max-restarts=2]" in test and "train.resume" not in test


@pytest.mark.parametrize(("variables", "message"), [
    ({"NNODES": "two"}, "NNODES=two: must be a number of machines, or MIN:MAX"),
    ({"NNODES": "0"}, "NNODES=0: must be a number of machines, or MIN:MAX"),
    ({"NNODES": "2", "RDZV_ENDPOINT": "a:1"}, "NNODES=2 needs NODE_RANK, the number of this machine from 0"),
    ({"NNODES": "2", "NODE_RANK": "1"}, "NNODES=2 needs RDZV_ENDPOINT=HOST:PORT of the machine with NODE_RANK=0"),
    ({"NNODES": "2", "NODE_RANK": "1", "RDZV_ENDPOINT": "host"}, "NNODES=2 needs RDZV_ENDPOINT=HOST:PORT of the"),
    ({"MAX_RESTARTS": "-1"}, "MAX_RESTARTS=-1: must be a number, 0 or more"),
])
def test_incomplete_description_of_machines_is_one_line(with_python, variables, message):
    with_python.add_data_set("mimic_cxr")
    result = with_python.run("run_mimic.sh", **variables)
    assert result.returncode == 1 and with_python.commands() == []
    (line,) = result.stderr.splitlines()
    assert line.startswith(message)


def test_tests_of_a_checkpoint_take_another_run_and_another_folder(with_python, tmp_path):
    with_python.add_data_set("iu_xray")
    (tmp_path / "dataset.yaml").touch()
    assert with_python.run("test_iu.sh", "--checkpoint", "results/mimic_cxr").returncode == 0
    assert with_python.run("test_mimic.sh", "--data", str(tmp_path), "--beam", "5").returncode == 0
    first, second = with_python.commands()
    defaults = "[--split] [test] [--graph] [predicted]"
    assert first == (
        f"stub [main_test.py] [--checkpoint] [results/iu_xray] [--data] [data/iu_xray] {defaults} "
        "[--checkpoint] [results/mimic_cxr]"
    )
    assert second == (
        f"stub [main_test.py] [--checkpoint] [results/mimic_cxr] [--data] [data/mimic_cxr] {defaults} "
        f"[--data] [{tmp_path}] [--beam] [5]"
    )


def test_another_split_is_tested_where_it_is_asked_for(with_python):
    with_python.add_data_set("iu_xray")
    assert with_python.run("run_iu.sh", "eval.split=train").returncode == 0
    assert with_python.run("test_iu.sh", "eval.split=train").returncode == 0
    training, after_training, test = with_python.commands()
    assert training.endswith("[eval.split=train]")
    assert "[--split] [train] [--graph]" in after_training and "[--split] [train] [--graph]" in test


def test_demo_prepares_trains_and_tests(with_python):
    result = with_python.run("run_demo.sh", "train.epochs=2")
    assert result.returncode == 0, result.stderr
    prepare, train, test = with_python.commands()
    assert prepare.startswith("stub [-m] [data.prepare] [phantom] [--out] [data/phantom] ")
    assert train == "stub [main_train.py] [--config] [configs/demo.yaml] [train.resume=true] [train.epochs=2]"
    assert test == "stub [main_test.py] [--checkpoint] [results/demo] [--split] [test] [--graph] [predicted]"
    assert "results/demo/report.html" in result.stderr
    *_, predict, page = result.stderr.splitlines()
    image = "data/phantom/images/phantom-000000.png"
    assert predict.split()[1:] == ["main_predict.py", "--checkpoint", "results/demo", image]
    assert page.split()[1:] == ["main_demo.py", "--checkpoint", "results/demo"]


def test_quick_demo_keeps_to_folders_of_its_own(with_python):
    with_python.run("run_demo.sh", "--quick", "results=elsewhere")
    prepare, train, test = with_python.commands()
    assert "[--out] [data/phantom_quick]" in prepare
    assert "[name=demo_quick] [data.root=data/phantom_quick]" in train and train.endswith("[results=elsewhere]")
    assert "[elsewhere/demo_quick]" in test


@pytest.mark.parametrize(
    ("flags", "gpus", "precision"),
    [
        ("avx512f avx512_bf16 clzero", 0, "bf16"),
        ("amx_bf16 avx512_fp16 amx_tile", 0, "bf16"),
        ("avx512f amx_tile", 0, None),
        ("avx512_bf16", 1, None),
    ],
)
def test_demo_trains_in_bf16_where_the_cpu_computes_in_it(with_python, flags, gpus, precision):
    with_python.add_tool("lscpu", f"echo 'Model name: a CPU'; echo 'Flags:    fpu {flags}'")
    with_python.add_tool("nvidia-smi", "echo 'GPU 0: a card (UUID: GPU-0)'" if gpus else "exit 9")
    with_python.run("run_demo.sh", "train.epochs=2")
    _, train, _ = with_python.commands()
    chosen = "" if precision is None else f" [train.precision={precision}]"
    assert train.endswith(f"[train.resume=true]{chosen} [train.epochs=2]")


def test_run_tests_hands_arguments_to_pytest(with_python):
    with_python.run("run_tests.sh", "tests/models", "-k", "beam search")
    assert with_python.commands() == ["stub [-m] [pytest] [-r] [s] [tests/models] [-k] [beam search]"]


# Environment


def installs(commands: list[str]) -> list[str]:
    """The requirements files of the pip commands among `commands`."""
    return [command.split("[-r] ")[1] for command in commands if "[-m] [pip] [install]" in command]


def test_environment_is_made_once_and_then_left_alone(checkout):
    checkout.add_python("python3.11")
    assert checkout.run("run_tests.sh").returncode == 0
    first = checkout.commands()
    assert first[0] == "python3.11 [-m] [venv] [.venv]"
    assert installs(first) == ["[requirements-dev.txt]"]
    assert first[-1].startswith("python [-m] [pytest]")
    assert checkout.run("run_tests.sh").returncode == 0
    assert [command.split(" [-r]")[0] for command in checkout.commands()] == ["python [-m] [pytest]"]


def test_changed_requirements_are_installed_into_the_same_environment(checkout):
    checkout.add_python("python3.11")
    checkout.run("run_tests.sh")
    checkout.commands()
    checkout.write_requirements("requirements.txt", f"pytest=={metadata.version('pytest')}\n")
    checkout.run("run_tests.sh")
    commands = checkout.commands()
    assert installs(commands) == ["[requirements-dev.txt]"] and "[venv]" not in "".join(commands)


def test_package_that_went_missing_is_installed_again(checkout):
    checkout.add_python("python3.11")
    checkout.run("run_tests.sh")
    checkout.commands()
    absent = "no-such-package-for-sure==1.0\n"
    checkout.write_requirements("requirements.txt", absent)
    stamp = hashlib.sha256(b"\0".join([b"-r requirements.txt\n", absent.encode()])).hexdigest()
    version = ".".join(str(part) for part in sys.version_info[:3])
    (checkout.folder / ".venv/.fits-requirements-dev.txt").write_text(f"{version} {stamp}\n", encoding="utf-8")
    checkout.run("run_tests.sh")
    assert installs(checkout.commands()) == ["[requirements-dev.txt]"]


LOCK = """# a comment
pytest==1.0 \\
    --hash=sha256:00 \\
    --hash=sha256:01
    # via
    #   -r requirements.txt
    #   pytest-xdist
pluggy==1.0 ; python_version >= '3.8' \\
    --hash=sha256:02
    # via pytest
ruff==1.0 \\
    --hash=sha256:03
    # via -r requirements-dev.txt
"""


@pytest.mark.parametrize(("script", "requirements", "packages"), [
    ("run_demo.sh", "requirements.txt", ["pytest", "pluggy"]),
    ("run_tests.sh", "requirements-dev.txt", ["pytest", "pluggy", "ruff"]),
])
def test_the_locked_packages_that_a_script_needs_are_installed_with_their_hashes(
    checkout, script, requirements, packages
):
    checkout.add_python("python3.11")
    checkout.write_requirements("requirements.lock.txt", LOCK)
    assert checkout.run(script).returncode == 0
    (install,) = [command for command in checkout.commands() if "[install]" in command]
    locked = f".venv/locked-{requirements}"
    assert install.endswith(f"[--require-hashes] [-r] [{locked}]")
    lines = (checkout.folder / locked).read_text(encoding="utf-8").splitlines()
    assert [line.split("==")[0] for line in lines if not line.startswith(" ")] == packages
    assert "    --hash=sha256:01" in lines and "    --hash=sha256:02" in lines
    checkout.run(script)
    assert installs(checkout.commands()) == []
    checkout.write_requirements("requirements.lock.txt", LOCK.replace("sha256:02", "sha256:04"))
    checkout.run(script)
    assert installs(checkout.commands()) == [f"[{locked}]"]


def test_the_lock_can_be_left_out(checkout):
    checkout.add_python("python3.11")
    checkout.write_requirements("requirements.lock.txt", LOCK)
    checkout.run("run_tests.sh", LOCK="no")
    assert installs(checkout.commands()) == ["[requirements-dev.txt]"]


def test_unfinished_install_is_begun_anew(checkout):
    checkout.add_python("python3.11")
    failed = checkout.run("run_tests.sh", FAIL_ON="-m pip install")
    assert failed.returncode == 1 and "the next run starts over" in failed.stderr
    assert not [command for command in checkout.commands() if "pytest" in command]
    (checkout.folder / ".venv/half_written").touch()
    assert checkout.run("run_tests.sh").returncode == 0
    assert checkout.commands()[0] == "python3.11 [-m] [venv] [.venv]"
    assert not (checkout.folder / ".venv/half_written").exists()


@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock (util-linux)")
def test_two_scripts_at_once_make_one_environment(checkout):
    checkout.add_python("python3.11")
    checkout.add_data_set("iu_xray")
    both = [checkout.start("run_tests.sh", PIP_SECONDS="0.5"), checkout.start("run_iu.sh", PIP_SECONDS="0.5")]
    for process in both:
        process.communicate(timeout=60)
    assert [process.returncode for process in both] == [0, 0]
    commands = checkout.commands()
    assert commands.count("python3.11 [-m] [venv] [.venv]") == 1
    assert sorted(installs(commands)) == ["[requirements-dev.txt]", "[requirements.txt]"]


def test_environment_without_pip_is_made_anew(checkout):
    checkout.add_python("python3.11")
    checkout.run("run_tests.sh")
    checkout.commands()
    (checkout.folder / ".venv/bin/no_pip").touch()
    checkout.run("run_tests.sh")
    assert checkout.commands()[0] == "python3.11 [-m] [venv] [.venv]"


def test_newer_python3_stands_in_for_python_3_11(checkout):
    checkout.add_python("python3")
    checkout.run("run_tests.sh")
    assert checkout.commands()[0] == "python3 [-m] [venv] [.venv]"


def test_missing_python_and_missing_ensurepip_end_with_the_command_that_mends_them(checkout):
    result = checkout.run("run_tests.sh")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Python 3.11 or newer is required and was not found.")
    assert result.stderr.strip().endswith("sudo apt-get install -y python3.11 python3.11-venv")
    checkout.add_python("python3.11")
    result = checkout.run("run_tests.sh", NO_ENSUREPIP="1")
    assert result.returncode == 1
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert result.stderr.strip().endswith(f"sudo apt-get install -y python{version}-venv")
    assert not (checkout.folder / ".venv").exists()


def test_missing_java_is_said_at_the_start_and_stops_nothing(with_python):
    (with_python.tools / "java").unlink()
    result = with_python.run("run_demo.sh", "--quick")
    assert result.returncode == 0
    assert result.stderr.splitlines()[0] == (
        "Java is missing: METEOR will be reported as absent. "
        "To install it: sudo apt-get install -y default-jre-headless"
    )


def test_given_interpreter_is_checked_and_never_changed(with_python):
    with_python.write_requirements("requirements.txt", "pytest==0.1\n")
    other_version = with_python.run("run_demo.sh")
    assert other_version.returncode == 0
    assert "pytest is" in other_version.stderr and "tested with ==0.1" in other_version.stderr
    with_python.commands()
    with_python.write_requirements("requirements.txt", "no-such-package-for-sure==1.0\n")
    missing = with_python.run("run_demo.sh")
    assert missing.returncode == 1
    assert "no-such-package-for-sure is missing" in missing.stderr
    assert "-m pip install -r requirements.txt" in missing.stderr
    assert with_python.commands() == [] and not (with_python.folder / ".venv").exists()


@pytest.mark.parametrize("kind", ["virtual", "conda"])
def test_active_environment_is_used_as_it_is(checkout, tmp_path, kind):
    (tmp_path / "active/bin").mkdir(parents=True)
    shutil.copy(checkout.add_python("python3.11"), tmp_path / "active/bin/python")
    active = {"VIRTUAL_ENV": str(tmp_path / "active")}
    if kind == "conda":
        active = {"CONDA_PREFIX": str(tmp_path / "active"), "CONDA_DEFAULT_ENV": "sgrrg"}
    assert checkout.run("run_tests.sh", **active).returncode == 0
    assert checkout.commands() == ["python [-m] [pytest] [-r] [s]"]
    assert not (checkout.folder / ".venv").exists()


def test_conda_base_does_not_count_as_an_environment(checkout, tmp_path):
    checkout.add_python("python3.11")
    checkout.run("run_tests.sh", CONDA_PREFIX=str(tmp_path), CONDA_DEFAULT_ENV="base")
    assert checkout.commands()[0] == "python3.11 [-m] [venv] [.venv]"
