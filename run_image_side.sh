#!/usr/bin/env bash
# Trains the image side alone, without reports, on ChestX-ray14 (configs/nih_cxr14.yaml), then scores the best checkpoint
# on the test split. A run with reports starts from it with train.init_from=results/nih_cxr14.
#   bash run_image_side.sh [key=value ...]      e.g. model.patch_encoder.backbone=timm:resnet50 data.root=/elsewhere/mine
# Needs the prepared data set in data/nih_cxr14; uses all GPUs. Time and expected score: configs/nih_cxr14.yaml.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh

require_data_set nih_cxr14 "$(value_of data.root data/nih_cxr14 "$@")" "bash run_image_side.sh data.root=FOLDER"
train_and_test nih_cxr14 "$@"
