#!/usr/bin/env bash
# Scores a checkpoint on the test split of MIMIC-CXR with the predicted graph and the checkpoint's own vocabularies.
#   bash test_mimic.sh [--checkpoint DIR] [--data FOLDER] [main_test.py argument ...]
# DIR: a run or checkpoint folder (default: results/mimic_cxr).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh

require_data_set mimic_cxr "$(value_of --data data/mimic_cxr "$@")" "bash test_mimic.sh --data FOLDER"
test_on mimic_cxr "$@"
