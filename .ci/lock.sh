#!/usr/bin/env bash
# Writes requirements.lock.txt: every package of requirements-dev.txt and of the files that it includes, with those that
# they need in turn, each with its version and the SHA-256 of its files on PyPI. Run it after a change of a pin.
#   bash .ci/lock.sh [--upgrade]      --upgrade also takes newer versions of packages that are pinned nowhere else
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source ./.ci/supply_environment.sh

# --universal: for all platforms and Python versions, with markers; 3.11 is the oldest one.
"$TOOLS/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
    "$@" requirements-dev.txt --output-file requirements.lock.txt
header="# Made by .ci/lock.sh from requirements-dev.txt; do not edit. See docs/security.md."
{ printf '%s\n' "$header"; grep -vxF "$header" requirements.lock.txt; } >requirements.lock.txt.tmp
mv requirements.lock.txt.tmp requirements.lock.txt
