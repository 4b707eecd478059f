#!/usr/bin/env bash
# Builds the sdist, and from that the wheel, into a fresh environment. Tests it and checks its types
# without torch, then with it: `check.sh transformers` with transformers, too. Tests of what is not
# there skip by name. Needs Rust and Python 3.10 or newer, and for torch 5 GB of disk.
# PYTHON chooses the interpreter, VENV where the environment goes.
set -euo pipefail
cd "$(dirname "$0")"

extra=${1:-torch}
venv=${VENV:-target/check-venv}
dist=target/check-dist
# The sdist is unpacked somewhere else, and what it depends on is built once.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
export PIP_DISABLE_PIP_VERSION_CHECK=1
rm -rf "$venv" "$dist"
"${PYTHON:-python3}" -m venv "$venv"
bin=$venv/bin

"$bin/pip" install --quiet build
"$bin/python" -m build --outdir "$dist"
wheel=$(echo "$dist"/*.whl)

"$bin/pip" install --quiet "${wheel}[test]" ml_dtypes
"$bin/python" -m pytest
"$bin/python" -m mypy --strict tests/typed_use.py
# The stubs against the module as it was built.
"$bin/python" -m mypy.stubtest tritgemm._tritgemm

# PyPI's torch for Linux does not load without CUDA's libraries, so they come along. Their thousands
# of modules are compiled when they are imported.
"$bin/pip" install --quiet --no-compile "${wheel}[$extra]"
"$bin/python" -m pytest
"$bin/python" -m mypy --strict tests/typed_*.py examples
