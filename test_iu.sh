#!/usr/bin/env bash
# Scores a checkpoint on the test split of IU X-Ray with the predicted graph and the checkpoint's own vocabularies.
#   bash test_iu.sh [--checkpoint DIR] [--data FOLDER] [argument of main_test.py ...]
# DIR: a run or checkpoint folder, results/iu_xray if not given; results/mimic_cxr is the transfer from MIMIC-CXR.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh

require_data_set iu_xray "$(value_of --data data/iu_xray "$@")" "bash test_iu.sh --data FOLDER"
test_on iu_xray "$@"
