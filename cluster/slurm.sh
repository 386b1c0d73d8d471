# Functions of the batch scripts; needs environment.sh.

# run_on_all_nodes SCRIPT ARGUMENT... : run a Python script on all GPUs of all nodes and exit with its status.
#
# On SIGUSR1, which SLURM sends some time before it ends the job (#SBATCH --signal), the processes save a checkpoint and
# the job is requeued. On SIGTERM they do the same, but the script does not requeue: a job that SLURM pre-empts is
# requeued by SLURM itself, and a job that the user cancels must not come back.
run_on_all_nodes() {
    local nodes status
    ensure_environment requirements.txt
    nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
    export NNODES=$SLURM_JOB_NUM_NODES
    # Jobs that share a node need different ports.
    export RDZV_ENDPOINT=${nodes%%$'\n'*}:$((20000 + 2 * (SLURM_JOB_ID % 5000)))
    stopped_by=
    trap 'stop_processes USR1' USR1
    trap 'stop_processes TERM' TERM
    srun --kill-on-bad-exit=1 bash -c 'source ./environment.sh && source cluster/slurm.sh && run_on_this_node "$@"' \
        cluster/slurm.sh "$@" &
    # `wait` also returns after a signal.
    while :; do
        status=0
        wait "$!" || status=$?
        kill -0 "$!" 2>/dev/null || break
    done
    trap '' USR1 TERM
    if [[ $stopped_by == USR1 && $status -ne 0 ]]; then
        scontrol requeue "$SLURM_JOB_ID" ||
            fail "Job $SLURM_JOB_ID was not requeued (see above). To resume it, submit it again"
        say "Job $SLURM_JOB_ID was requeued"
        exit 0
    fi
    exit "$status"
}

# stop_processes SIGNAL : send SIGTERM to the processes of all nodes, after this script has received SIGNAL.
stop_processes() {
    stopped_by=$1
    say "SIG$1: saving a checkpoint"
    scancel --signal=TERM "$SLURM_JOB_ID" || say "The processes could not be signalled (see above)"
}

# run_on_this_node SCRIPT ARGUMENT... : run this node's processes. STAGE=yes adds data.stage_dir, on a local disk.
run_on_this_node() {
    ensure_environment requirements.txt
    if [[ ${STAGE:-} == yes ]]; then
        set -- "$@" "data.stage_dir=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/sgrrg"
    fi
    NODE_RANK=$SLURM_NODEID launch "$@"
}
