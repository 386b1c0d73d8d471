#!/usr/bin/env bash
# Scores a checkpoint on the test split of IU X-Ray with the predicted graph and the checkpoint's own vocabularies.
#   bash test_iu.sh [--checkpoint DIR] [--data FOLDER] [main_test.py argument ...]
# DIR: a run or checkpoint folder (default: results/iu_xray); results/mimic_cxr tests the transfer from MIMIC-CXR.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh

require_data_set iu_xray "$(value_of --data data/iu_xray "$@")" "bash test_iu.sh --data FOLDER"
test_on iu_xray "$@"
