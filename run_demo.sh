#!/usr/bin/env bash
# The whole system without real data: simulates chest X-rays with reports and scene graphs (data/phantom), trains
# configs/demo.yaml on them, and scores the best checkpoint on the test split with the predicted graph.
#   bash run_demo.sh [--quick] [key=value ...]      e.g. train.epochs=12
# Needs no data set. After the install, takes 7 minutes on 2 cores that compute in bf16 and 11 to 16 minutes on others, and
# less than 4 GiB of memory.
# Expected score: configs/demo.yaml. If interrupted, the same command resumes.
# --quick trains a few steps on a few studies, only to check that all parts run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh

name=demo
data=data/phantom
studies=3000
settings=()
if [[ ${1:-} == --quick ]]; then
    shift
    name=demo_quick
    data=data/phantom_quick
    studies=80
    settings=("name=$name" "data.root=$data" train.epochs=1 train.max_steps=4)
fi
run=$(value_of results results "$@")/$(value_of name "$name" "$@")
data=$(value_of data.root "$data" "$@")

ensure_environment requirements.txt
python=${PYTHON#"$PWD/"}
say "1 of 3: simulating $studies studies in $data"
"$PYTHON" -m data.prepare phantom --out "$data" --studies "$studies" --image-size 128
if [[ $(gpu_count) -eq 0 ]]; then
    tune_memory
    if cpu_computes_bf16; then
        settings+=(train.precision=bf16)
    fi
fi
say "2 of 3: training configs/demo.yaml in $run"
"$PYTHON" main_train.py --config configs/demo.yaml train.resume=true ${settings[@]+"${settings[@]}"} "$@"
say "3 of 3: testing $run with the predicted graph"
"$PYTHON" main_test.py --checkpoint "$run" --split test --graph predicted
say "Finished in $((SECONDS / 60)) min $((SECONDS % 60)) s. Reference and generated reports side by side: $run/report.html" \
    "To generate reports for image files or folders, or on a web page (needs requirements-demo.txt):" \
    "  $python main_predict.py --checkpoint $run $data/images/phantom-000000.png" \
    "  $python main_demo.py --checkpoint $run"
