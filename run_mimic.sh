#!/usr/bin/env bash
# Trains on MIMIC-CXR (configs/mimic_cxr.yaml), then scores the best checkpoint on the test split with the predicted
# graph.
#   bash run_mimic.sh [key=value ...]      e.g. train.epochs=5, train.resume=true, data.root=/elsewhere/mimic_cxr
# Trains on all images of the prepared data set: those of R2Gen's list, laterals included, if its annotation.json was
# among the sources, else frontal images. The graphs of laterals are unknown and left out of every loss.
# Needs the prepared data set in data/mimic_cxr; uses all GPUs. Time and expected score: configs/mimic_cxr.yaml.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh

require_data_set mimic_cxr "$(value_of data.root data/mimic_cxr "$@")" "bash run_mimic.sh data.root=FOLDER"
train_and_test mimic_cxr "$@"
