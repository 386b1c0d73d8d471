#!/usr/bin/env bash
# The experiment of the paper: trains on Chest ImaGenome with the settings of the released code
# (configs/chest_imagenome.yaml), then scores the best checkpoint on the test split with the predicted graph.
#   bash run_chest_imagenome.sh [key=value ...]      e.g. data.micro_batch_size=32, train.resume=true, data.root=/elsewhere
# Needs the prepared data set in data/chest_imagenome, and ImageNet-22k weights of Swin-B in weights/ (the URL is in
# configs/chest_imagenome.yaml); uses all GPUs.
# Time and expected score: configs/chest_imagenome.yaml.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh

require_data_set chest_imagenome "$(value_of data.root data/chest_imagenome "$@")" "bash run_chest_imagenome.sh data.root=FOLDER"
train_and_test chest_imagenome "$@"
