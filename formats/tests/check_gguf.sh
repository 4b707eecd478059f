#!/usr/bin/env bash
# Every tensor type against PyPI's `gguf`, in both directions: the crate's tests read what
# the package wrote (vectors/python.gguf) and write a file of their own, which the package
# reads. Needs python3 and its registry.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${CARGO_TARGET_DIR:-target}
venv=$target/gguf-venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check gguf numpy
cargo test -p tritgemm-formats --test python
"$venv/bin/python" formats/tests/gen_gguf_vectors.py --check "$target/tmp/ours.gguf"
