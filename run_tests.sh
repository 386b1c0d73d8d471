#!/usr/bin/env bash
# Installs what the tests need and runs them: 10 to 18 minutes on 2 cores after the install. Needs no data set.
#   bash run_tests.sh [pytest argument ...]      e.g. tests/models, -k beam, -m gpu -n 0 (on a machine with a GPU)
# Tests that need Java or Chromium are skipped, with a notice, if it is not installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh

ensure_environment requirements-dev.txt
# pytest runs two processes; more than one thread in each would slow both down.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
"$PYTHON" -m pytest -r s "$@"
