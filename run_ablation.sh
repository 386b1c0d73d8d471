#!/usr/bin/env bash
# Tests the paper's claims on the phantom: trains and tests every arm with three seeds, then writes docs/results.md.
#   bash run_ablation.sh [--arms "full;without contrast"] [--seeds 0,1,2] [--jobs 2] [--report-only]
#   bash run_ablation.sh --arms context      what indication and previous study add; writes docs/context_results.md
#   bash run_ablation.sh --arms family       the techniques of the R2Gen family, and rewards; writes
#                                            docs/family_results.md
# Needs no data set. One run takes 3 to 4 minutes on 2 cores, all 48 about 2.7 hours; more on CPUs without bf16
# arithmetic. Finished runs are recorded in docs/results.jsonl, those of the context in docs/context_results.jsonl, and
# skipped: after an interruption, or on another machine, run the same command again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh

ensure_environment requirements.txt
"$PYTHON" -m benchmarks ablation "$@"
