# Creates the environment of the tools in requirements-supply.txt. Sets TOOLS to the folder of their commands.
TOOLS=results/supply_environment/bin
if ! cmp -s requirements-supply.txt "$TOOLS/../installed.txt"; then
    rm -rf results/supply_environment
    "${PYTHON:-python3}" -m venv results/supply_environment
    "$TOOLS/python" -m pip install --quiet --disable-pip-version-check -r requirements-supply.txt
    cp requirements-supply.txt "$TOOLS/../installed.txt"
fi
