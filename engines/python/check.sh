#!/usr/bin/env bash
# Builds the wheel into a fresh environment, tests it and checks its types.
# Needs Rust and Python 3.10 or newer, not torch: its tests skip by name.
# PYTHON chooses the interpreter, VENV where the environment goes.
set -euo pipefail
cd "$(dirname "$0")"

venv=${VENV:-target/check-venv}
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
bin=$venv/bin
"$bin/pip" install --quiet --disable-pip-version-check ".[test]" ml_dtypes
"$bin/python" -m pytest
"$bin/python" -m mypy --strict tests/typed_use.py
# The stubs against the module as it was built.
"$bin/python" -m mypy.stubtest tritgemm._tritgemm
