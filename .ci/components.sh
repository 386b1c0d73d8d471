#!/usr/bin/env bash
# Writes a CycloneDX list of the packages that are installed (JSON), with their versions and licences.
#   bash .ci/components.sh [FILE]      default: results/components.cdx.json
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source ./environment.sh
source ./.ci/supply_environment.sh

out=${1:-results/components.cdx.json}
ensure_environment requirements.txt
mkdir -p "$(dirname "$out")"
"$TOOLS/cyclonedx-py" environment "$PYTHON" --pyproject pyproject.toml --output-reproducible --of JSON -o "$out.tmp"
mv "$out.tmp" "$out"
printf 'written: %s\n' "$out" >&2
