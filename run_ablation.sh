#!/usr/bin/env bash
# The paper's claims, tested on the phantom: trains and tests every arm with three seeds, then writes docs/results.md.
#   bash run_ablation.sh [--arms "full;without contrast"] [--seeds 0,1,2] [--jobs 2] [--report-only]
# Needs no data set. A run takes 3 to 4 minutes of 2 cores, all 48 together about 2.7 hours; longer on CPUs that do not
# compute in bf16. Finished runs are skipped (what they gave stands in docs/results.jsonl), so the study can be
# interrupted and goes on when the command is given again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh

ensure_environment requirements.txt
"$PYTHON" -m benchmarks ablation "$@"
