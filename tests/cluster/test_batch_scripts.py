"""The SLURM scripts with stubs for srun, scontrol and scancel, which run the job on two "nodes" of this machine."""

import shutil
import signal
import subprocess
import time

import pytest

from tests.support.checkout import CLUSTER, Checkout

# Starts the task once for each node, in a process group of its own, and ends with the first status that is not 0.
SRUN = """
set -m
while [[ $1 == --* ]]; do shift; done
for node in 0 1; do
    SLURM_NODEID=$node SLURM_TMPDIR=/node$node "$@" &
    echo $! >>"$TASKS"
done
result=0
for task in $(jobs -p); do
    wait "$task" || result=$?
done
exit $result
"""
SCONTROL = """
case $1 in
    show) for node in alpha beta; do echo "$node"; done ;;
    requeue) if [[ -n ${REFUSE_REQUEUE:-} ]]; then exit 1; fi; echo "requeued $2" >>"$EVENTS" ;;
esac
"""
SCANCEL = """
echo "scancel $*" >>"$EVENTS"
while read -r task; do
    kill -"${1#--signal=}" -- "-$task"
done <"$TASKS"
"""
# A training that runs until SIGTERM, then saves and exits with status 143, as torchrun's workers do.
RUNNING = """
printf '%s\\n' "$*" >>"$COMMANDS"
case $1 in -|-c) cat >/dev/null; exit 0 ;; esac
trap 'echo saved >>"$EVENTS"; exit 143' TERM
echo started >>"$EVENTS"
for _ in $(seq 300); do sleep 0.1; done
exit 99
"""


@pytest.fixture
def job(tmp_path) -> Checkout:
    """A job of two nodes, each with two GPUs."""
    checkout = Checkout(tmp_path)
    checkout.variables |= {
        "PYTHON": str(checkout.add_python("stub")), "SLURM_SUBMIT_DIR": str(checkout.folder), "SLURM_JOB_ID": "71234",
        "SLURM_JOB_NODELIST": "[alpha,beta]", "SLURM_JOB_NUM_NODES": "2", "CUDA_VISIBLE_DEVICES": "0,1",
        "TASKS": str(tmp_path / "tasks"), "EVENTS": str(tmp_path / "events"),
    }
    for name, body in (("srun", SRUN), ("scontrol", SCONTROL), ("scancel", SCANCEL)):
        checkout.add_tool(name, body)
    (checkout.tools / "seq").symlink_to(shutil.which("seq"))
    (checkout.folder / "configs/mimic_cxr.yaml").touch()
    checkout.add_data_set("mimic_cxr")
    return checkout


def events(job: Checkout) -> list[str]:
    path = job.folder.parent / "events"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def launched(rank: int, script: str, arguments: str, options: str = "") -> str:
    host = "true" if rank == 0 else "false"
    # Port 20000 + 2 * (71234 % 5000); a test uses the next one.
    port = 22468 if script == "main_train.py" else 22469
    rendezvous = f"[--rdzv-endpoint=alpha:{port}] [--rdzv-conf=is_host={host}]"
    return (
        f"stub [-m] [torch.distributed.run] [--nnodes=2] [--rdzv-backend=c10d] [--rdzv-id=sgrrg] {rendezvous} "
        f"{options}[--nproc_per_node=2] [{script}] {arguments}"
    )


def test_training_starts_on_every_node_and_resumes_if_it_can(job):
    result = job.run("cluster/train.sbatch", "mimic_cxr", "train.epochs=5")
    assert result.returncode == 0, result.stderr
    arguments = "[train.resume=true] [--config] [configs/mimic_cxr.yaml] [train.epochs=5] [train.resume=true]"
    expected = [launched(rank, "main_train.py", arguments, "[--max-restarts=3] ") for rank in (0, 1)]
    assert sorted(job.commands()) == sorted(expected)


def test_test_starts_on_every_node(job):
    result = job.run("cluster/test.sbatch", "mimic_cxr", "--checkpoint", "results/other")
    assert result.returncode == 0, result.stderr
    arguments = (
        "[--checkpoint] [results/mimic_cxr] [--data] [data/mimic_cxr] [--split] [test] [--graph] [predicted] "
        "[data.stage_dir=null] [--checkpoint] [results/other]"
    )
    assert sorted(job.commands()) == sorted(launched(rank, "main_test.py", arguments) for rank in (0, 1))


def test_images_are_staged_on_each_nodes_own_disk_when_asked(job):
    assert job.run("cluster/train.sbatch", "mimic_cxr", STAGE="yes").returncode == 0
    staged = sorted(command.rsplit(" ", 1)[1] for command in job.commands())
    assert staged == ["[data.stage_dir=/node0/sgrrg]", "[data.stage_dir=/node1/sgrrg]"]


def test_one_node_with_one_gpu_needs_no_rendezvous(job):
    assert job.run(
        "cluster/test.sbatch", "mimic_cxr", SLURM_JOB_NUM_NODES="1", CUDA_VISIBLE_DEVICES="0"
    ).returncode == 0
    assert all(command.startswith("stub [main_test.py]") for command in job.commands())


def test_failed_training_is_not_requeued(job):
    assert job.run("cluster/train.sbatch", "mimic_cxr", FAIL_ON="main_train.py").returncode == 7
    assert events(job) == []


@pytest.mark.parametrize(("script", "arguments", "status", "message"), [
    ("train.sbatch", [], 1, "Usage: sbatch cluster/train.sbatch NAME"),
    ("train.sbatch", ["train.epochs=5"], 1, "Usage: sbatch cluster/train.sbatch NAME"),
    ("train.sbatch", ["mimic_cxr", "data.root=/nowhere"], 2, "No prepared MIMIC-CXR data set at /nowhere"),
    ("test.sbatch", ["--split", "val"], 1, "Usage: sbatch cluster/test.sbatch NAME"),
    ("test.sbatch", ["iu_xray"], 2, "No prepared IU X-Ray data set at data/iu_xray"),
])
def test_unusable_arguments_end_the_job_before_it_starts_anything(job, script, arguments, status, message):
    result = job.run(f"cluster/{script}", *arguments)
    assert result.returncode == status and result.stderr.startswith(message)
    assert job.commands() == []


def start_and_signal(job: Checkout, number: signal.Signals, **variables: str) -> subprocess.CompletedProcess:
    """Start a training on two nodes and signal the batch script, as SLURM does, once both are running."""
    job.variables["PYTHON"] = str(job.add_program("running", f"#!{shutil.which('bash')}{RUNNING}"))
    with job.start("cluster/train.sbatch", "mimic_cxr", **variables) as process:
        deadline = time.monotonic() + 60
        while events(job).count("started") < 2:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def test_job_about_to_be_ended_saves_and_is_requeued(job):
    result = start_and_signal(job, signal.SIGUSR1)
    assert result.returncode == 0, result.stderr
    assert events(job)[2:] == ["scancel --signal=TERM 71234", "saved", "saved", "requeued 71234"]
    assert "Job 71234 was requeued" in result.stderr


def test_job_that_cannot_be_requeued_says_how_to_resume(job):
    result = start_and_signal(job, signal.SIGUSR1, REFUSE_REQUEUE="1")
    assert result.returncode == 1 and "To resume it, submit it again" in result.stderr


def test_cancelled_job_saves_and_does_not_come_back(job):
    result = start_and_signal(job, signal.SIGTERM)
    assert result.returncode == 143
    assert events(job)[2:] == ["scancel --signal=TERM 71234", "saved", "saved"]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
@pytest.mark.parametrize("script", CLUSTER, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    command = ["shellcheck", "-x", "-s", "bash", str(script)]
    result = subprocess.run(command, cwd=script.parents[1], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
