#!/usr/bin/env bash
# Trains on IU X-Ray (configs/iu_xray.yaml), then scores the best checkpoint on the test split with the predicted graph.
#   bash run_iu.sh [key=value ...]      e.g. train.epochs=5, train.resume=true, data.root=/elsewhere/iu_xray
# Needs the prepared data set in data/iu_xray; uses all GPUs. Time and expected score: configs/iu_xray.yaml.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh

require_data_set iu_xray "$(value_of data.root data/iu_xray "$@")" "bash run_iu.sh data.root=FOLDER"
train_and_test iu_xray "$@"
