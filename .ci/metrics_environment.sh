#!/usr/bin/env bash
# Makes an environment on top of that of the tests with RadEval and what it needs: about a minute, 0.5 GB. The tests that
# run RadEval use it if SGRRG_METRICS_PYTHON names its python.
#   bash .ci/metrics_environment.sh FOLDER
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source ./environment.sh

ensure_environment requirements-dev.txt
"$PYTHON" -m venv "$1"
# Packages of the tests' environment, torch among them, are found here too and not installed again.
own=("$1"/lib/python3*/site-packages)
"$PYTHON" -c 'import sys; print(*(path for path in sys.path if path.endswith("-packages")), sep="\n")' >"${own[0]}/tests.pth"
"$1/bin/python" -m pip install -q -r requirements-metrics.txt
"$1/bin/python" -m pip install -q --no-deps -r requirements-ratescore.txt
"$1/bin/python" -c 'import radeval' >/dev/null
