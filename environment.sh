# Functions shared by the run scripts. After `ensure_environment FILE`, $PYTHON has the packages of FILE.
#
# If PYTHON is set, or a virtual environment or a conda environment other than `base` is active, that environment is
# checked and never changed. Otherwise `.venv` is created in this folder, and updated only if it does not match FILE. The
# packages, and those that they need, have the versions and hashes of requirements.lock.txt; LOCK=no takes any files with
# the versions of FILE, for example of a package index with other builds of torch.

# An interrupted trainer saves a checkpoint and exits normally, so the script itself must stop before its next command.
trap 'exit 130' INT
trap 'exit 143' TERM

# say LINE... : print the lines to stderr; stdout is left to the commands.
say() {
    printf '%s\n' "$@" >&2
}

# fail LINE... : print the lines to stderr and exit with status 1.
fail() {
    say "$@"
    exit 1
}

# report_missing_tools : for each missing optional tool, print what it is needed for and how to install it.
report_missing_tools() {
    if ! java -version >/dev/null 2>&1; then
        say "Java is missing: METEOR will be reported as absent. To install it: sudo apt-get install -y default-jre-headless"
    fi
}

# base_python : print the name of a Python >= 3.11 that can create virtual environments, or fail with the fix.
base_python() {
    local candidate version
    for candidate in python3.11 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            if ! "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
                version=$("$candidate" -c 'import sys; print("{}.{}".format(*sys.version_info))')
                fail "$candidate cannot create virtual environments. To fix it: sudo apt-get install -y python$version-venv"
            fi
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is required and was not found. To install it: sudo apt-get install -y python3.11 python3.11-venv"
}

# environment_state PYTHON REQUIREMENTS : print the Python version and the SHA-256 of the requirements and their lock on
# the first line, then one line for each package that is missing or has the wrong version.
environment_state() {
    "$1" - "$2" <<'PYTHON_CODE'
import hashlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement

contents = []
requirements = []
files = [Path(sys.argv[1])]
while files:
    file = files.pop()
    contents.append(file.read_bytes())
    for line in file.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            files.append(file.parent / line[3:].strip())
        elif line:
            requirements.append(Requirement(line))

lock = Path("requirements.lock.txt")
if os.environ.get("LOCK") != "no" and lock.exists():
    contents.append(lock.read_bytes())
print(platform.python_version(), hashlib.sha256(b"\0".join(contents)).hexdigest())
for requirement in requirements:
    if requirement.marker is None or requirement.marker.evaluate():
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            print(f"{requirement.name} is missing")
        else:
            if version not in requirement.specifier:
                print(f"{requirement.name} is {version}, tested with {requirement.specifier}")
PYTHON_CODE
}

# check_active_environment REQUIREMENTS : fail if $PYTHON lacks a package; warn if a version differs.
check_active_environment() {
    local state problems
    state=$(environment_state "$PYTHON" "$1") || fail "Cannot list the packages of $PYTHON (see above): use another interpreter (PYTHON=/path/to/python), or none to create .venv here"
    problems=$(tail -n +2 <<<"$state" | paste -s -d ';' - | sed 's/;/; /g')
    case $problems in
        "") ;;
        *"is missing"*) fail "$PYTHON does not match $1 ($problems). To fix it: \"$PYTHON\" -m pip install -r $1, or deactivate that environment to create .venv here" ;;
        *) say "$PYTHON does not match $1 exactly ($problems); continuing" ;;
    esac
}

# locked_requirements PYTHON REQUIREMENTS : print the part of requirements.lock.txt that REQUIREMENTS needs.
locked_requirements() {
    "$1" - "$2" <<'PYTHON_CODE'
import re
import sys
from pathlib import Path

files, waiting = set(), [sys.argv[1]]
while waiting:
    file = waiting.pop()
    if file not in files:
        files.add(file)
        waiting += re.findall(r"^-r (\S+)", Path(file).read_text(encoding="utf-8"), re.MULTILINE)

# A package begins its line; its hashes, and what needs it ("# via"), are indented below.
packages = re.findall(r"^\w.*\n(?:[ ].*\n)*", Path("requirements.lock.txt").read_text(encoding="utf-8"), re.MULTILINE)
names = [re.match(r"[\w.-]+", package)[0] for package in packages]
needed_by = [set(re.findall(r"^ +#(?: via)? +(-r \S+|[\w.-]+)", package, re.MULTILINE)) for package in packages]
needed = {f"-r {file}" for file in files}
while True:
    more = {name for name, by in zip(names, needed_by) if by & needed} - needed
    if not more:
        break
    needed |= more
print("".join(package for name, package in zip(names, packages) if name in needed), end="")
PYTHON_CODE
}

# create_environment REQUIREMENTS : create or update .venv. The body is a subshell that locks this file while it runs,
# so that two scripts started at the same time do not install into the same folder.
create_environment() (
    exec 9<environment.sh
    if command -v flock >/dev/null; then
        flock 9
    fi
    requirements=$1
    stamp=.venv/.fits-$requirements
    # Marks an unfinished install: pip takes a partly written package for an installed one.
    unfinished=.venv/.unfinished
    if [[ -e $unfinished ]] || ! .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        base=$(base_python)
        say "Creating .venv with $base"
        rm -rf .venv
        mkdir .venv
        touch "$unfinished"
        "$base" -m venv .venv || fail "$base could not create .venv (see above)"
    fi
    state=$(environment_state .venv/bin/python "$requirements")
    read -r fingerprint <<<"$state"
    problems=$(tail -n +2 <<<"$state")
    if [[ -z $problems && ! -e $unfinished && -e $stamp && $(<"$stamp") == "$fingerprint" ]]; then
        return
    fi
    quiet=--quiet
    if [[ -n $problems ]]; then
        say "Installing $requirements into .venv"
        quiet=--no-input
    fi
    touch "$unfinished"
    options=(-r "$requirements")
    if [[ ${LOCK:-} != no && -e requirements.lock.txt ]]; then
        locked_requirements .venv/bin/python "$requirements" >".venv/locked-$requirements"
        options=(--require-hashes -r ".venv/locked-$requirements")
    fi
    .venv/bin/python -m pip install --disable-pip-version-check "$quiet" "${options[@]}" ||
        fail "Installing $requirements into .venv failed (see above); the next run starts over"
    printf '%s\n' "$fingerprint" >"$stamp"
    rm "$unfinished"
)

# ensure_environment REQUIREMENTS : set and export $PYTHON.
ensure_environment() {
    report_missing_tools
    if [[ -z ${PYTHON:-} && -n ${VIRTUAL_ENV:-} && ! $VIRTUAL_ENV -ef .venv ]]; then
        PYTHON=$VIRTUAL_ENV/bin/python
    elif [[ -z ${PYTHON:-} && -n ${CONDA_PREFIX:-} && ${CONDA_DEFAULT_ENV:-base} != base ]]; then
        PYTHON=$CONDA_PREFIX/bin/python
    fi
    if [[ -n ${PYTHON:-} ]]; then
        check_active_environment "$1"
    else
        create_environment "$1"
        PYTHON=$PWD/.venv/bin/python
    fi
    export PYTHON
}

# value_of KEY DEFAULT ARGUMENT... : print the value of the last `KEY=VALUE` or `KEY VALUE` argument, or DEFAULT.
value_of() {
    local key=$1 value=$2
    shift 2
    while [[ $# -gt 0 ]]; do
        case $1 in
            "$key="*) value=${1#*=} ;;
            "$key") value=${2-} ;;
        esac
        shift
    done
    printf '%s\n' "$value"
}

# require_data_set NAME FOLDER ELSEWHERE : if FOLDER is not a prepared data set, print how to get it and exit with
# status 2. ELSEWHERE is the command for a data set in another folder. FOLDER may be a list, [FOLDER,FOLDER].
require_data_set() {
    local name=$1 folder=$2 elsewhere=$3 title download source folders=("$2")
    if [[ $folder == \[*\] ]]; then
        IFS=, read -ra folders <<<"${folder:1:-1}"
    fi
    for folder in "${folders[@]}"; do
        [[ -f $folder/dataset.yaml ]] || break
    done
    if [[ -f $folder/dataset.yaml ]]; then
        return
    fi
    case $name in
        iu_xray)
            title="IU X-Ray"
            download="NLMCXR_reports.tgz and NLMCXR_png.tgz from https://openi.nlm.nih.gov/faq#collection, or iu_xray.zip, linked from https://github.com/cuhksz-nlp/R2Gen"
            source="--source FOLDER_OF_THE_DOWNLOAD" ;;
        mimic_cxr)
            title="MIMIC-CXR"
            download="MIMIC-CXR-JPG and the reports of MIMIC-CXR, with a PhysioNet account: https://physionet.org/content/mimic-cxr-jpg/"
            source="--source FOLDER_OF_MIMIC_CXR_JPG --source FOLDER_OF_THE_REPORTS" ;;
        chest_imagenome)
            title="Chest ImaGenome"
            download="Chest ImaGenome and MIMIC-CXR-JPG, with a PhysioNet account: https://physionet.org/content/chest-imagenome/"
            source="--source FOLDER_OF_CHEST_IMAGENOME --source FOLDER_OF_MIMIC_CXR_JPG --source FOLDER_OF_THE_REPORTS" ;;
        nih_cxr14)
            title="ChestX-ray14"
            download="the images and the four tables of ChestX-ray14, without an account: https://nihcc.app.box.com/v/ChestXray-NIHCC"
            source="--source FOLDER_OF_THE_DOWNLOAD" ;;
    esac
    say "No prepared $title data set at $folder: $folder/dataset.yaml does not exist." \
        "To get it:      $download" \
        "To prepare it:  python -m data.prepare $name $source --out $folder" \
        "If elsewhere:   $elsewhere" \
        "Without data:   bash run_demo.sh (it simulates a data set)"
    exit 2
}

# gpu_count : print the number of GPUs that a run may use.
gpu_count() {
    local listed=0
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        listed=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '^[0-9A-Z]' || true)
    elif command -v nvidia-smi >/dev/null; then
        listed=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ' || true)
    fi
    printf '%s\n' "$listed"
}

# tune_memory : for programs that compute on the CPU, let glibc keep freed memory and use huge pages, so that the tensors
# of a training step are not mapped again in each step (docs/speed.md). Other C libraries ignore these variables.
tune_memory() {
    export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-2000000000}
    export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-2000000000}
    export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
}

# cpu_computes_bf16 : whether the CPU has instructions for products in bf16. Without them, bf16 is slower than fp32.
cpu_computes_bf16() {
    command -v lscpu >/dev/null && lscpu | grep -E ' (amx_bf16|avx512_bf16)( |$)' >/dev/null
}

# launch SCRIPT ARGUMENT... : run a Python script; with several GPUs through torchrun, one process per GPU.
#
# To use several machines, run the same command on each of them with these variables (docs/cluster.md):
#   NNODES         number of machines, 1 by default; MIN:MAX continues with MIN of them if others are lost
#   NODE_RANK      number of this machine, from 0; machine 0 hosts the rendezvous
#   RDZV_ENDPOINT  HOST:PORT of machine 0; the test that follows a training uses PORT + 1
#   MAX_RESTARTS   how often all processes are restarted from the last checkpoint after a failure, 0 by default
#   LOCAL_ADDR     address of this machine, if the others cannot resolve its host name
launch() {
    local gpus processes nodes=${NNODES:-1} restarts=${MAX_RESTARTS:-0} script=$1
    local rendezvous=(--standalone)
    shift
    [[ $nodes =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]] || fail "NNODES=$nodes: must be a number of machines, or MIN:MAX"
    [[ $restarts =~ ^[0-9]+$ ]] || fail "MAX_RESTARTS=$restarts: must be a number, 0 or more"
    if [[ $nodes != 1 ]]; then
        rendezvous_options "$script"
    fi
    gpus=$(gpu_count)
    if [[ $(value_of train.device auto "$@") == cpu ]]; then
        gpus=0
    fi
    if [[ $gpus -eq 0 ]]; then
        tune_memory
    fi
    if [[ $restarts -gt 0 && $script == main_train.py ]]; then
        set -- train.resume=true "$@"
    fi
    if [[ $gpus -gt 1 || $nodes != 1 || $restarts -gt 0 ]]; then
        processes=$((gpus > 1 ? gpus : 1))
        if [[ $restarts -gt 0 ]]; then
            rendezvous+=("--max-restarts=$restarts")
        fi
        # After a stop signal, saving a checkpoint may take longer than the 30 seconds that torchrun waits.
        export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
        # When a process dies, the others would log a C++ stack for each connection that they lose to it.
        export TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR}
        "$PYTHON" -m torch.distributed.run "${rendezvous[@]}" --nproc_per_node="$processes" "$script" "$@"
    else
        "$PYTHON" "$script" "$@"
    fi
}

# rendezvous_options SCRIPT : set the array `rendezvous` of the caller to torchrun's options for several machines.
rendezvous_options() {
    local port
    [[ ${NODE_RANK:-} =~ ^[0-9]+$ ]] || fail "NNODES=$NNODES needs NODE_RANK, the number of this machine from 0"
    [[ ${RDZV_ENDPOINT:-} =~ ^[^[:space:]]+:[0-9]+$ ]] || fail "NNODES=$NNODES needs RDZV_ENDPOINT=HOST:PORT of the machine with NODE_RANK=0"
    port=${RDZV_ENDPOINT##*:}
    if [[ $1 == main_test.py ]]; then
        port=$((port + 1)) # the store of the training may still be open
    fi
    rendezvous=("--nnodes=$NNODES" --rdzv-backend=c10d --rdzv-id=sgrrg "--rdzv-endpoint=${RDZV_ENDPOINT%:*}:$port")
    # With a shared store, machine 0 publishes its address only once: a machine that replaces a lost one would wait for
    # it in vain (torch 2.14, `DynamicRendezvousHandler.next_rendezvous`).
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    if [[ $NODE_RANK == 0 ]]; then
        rendezvous+=(--rdzv-conf=is_host=true)
    else
        rendezvous+=(--rdzv-conf=is_host=false)
    fi
    if [[ -n ${LOCAL_ADDR:-} ]]; then
        rendezvous+=("--local-addr=$LOCAL_ADDR")
    fi
}

# train_and_test NAME ARGUMENT... : train configs/NAME.yaml with overrides, then score the best checkpoint on the test
# split, or on eval.split if set.
train_and_test() {
    local name=$1 run device split
    shift
    ensure_environment requirements.txt
    launch main_train.py --config "configs/$name.yaml" "$@"
    run=$(value_of results results "$@")/$(value_of name "$name" "$@")
    device=$(value_of train.device auto "$@")
    split=$(value_of eval.split test "$@")
    launch main_test.py --checkpoint "$run" --split "$split" --graph predicted "train.device=$device"
}

# test_on NAME ARGUMENT... : score a checkpoint (default: results/NAME) on the test split of the data set NAME, or on
# eval.split if set. The last of repeated options wins: arguments override --checkpoint, --data, --split and --graph.
test_on() {
    local name=$1 split
    shift
    ensure_environment requirements.txt
    split=$(value_of eval.split test "$@")
    launch main_test.py --checkpoint "results/$name" --data "data/$name" --split "$split" --graph predicted "$@"
}
