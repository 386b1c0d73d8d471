#!/usr/bin/env bash
# Trains on MIMIC-CXR (configs/mimic_cxr.yaml), then scores the best checkpoint on the test split with the predicted
# graph.
#   bash run_mimic.sh [key=value ...]      e.g. train.epochs=5, train.resume=true, data.root=/elsewhere/mimic_cxr
# Trains on frontal images with their scene graphs. A data set prepared with --views all also contains lateral images;
# their graphs are unknown and left out of every loss.
# Needs the prepared data set in data/mimic_cxr; uses all GPUs. Time and expected score: configs/mimic_cxr.yaml.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh

require_data_set mimic_cxr "$(value_of data.root data/mimic_cxr "$@")" "bash run_mimic.sh data.root=FOLDER"
train_and_test mimic_cxr "$@"
