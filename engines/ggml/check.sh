#!/usr/bin/env bash
# The plug-in in real llama.cpps, by the checks of tests/check.py.
#
#     engines/ggml/check.sh              in both of these                      (25 min, again 6 min)
#     engines/ggml/check.sh 0.25         ggml 0.25, of PyPI's sdist of llama-cpp-python
#     engines/ggml/check.sh 0.26         ggml 0.26, of the crate llama-cpp-sys-2 (5 min, again 3 min)
#     engines/ggml/check.sh tables       none, but prints the tables of README.md that time nothing (ggml 0.25)
#     engines/ggml/check.sh tools        none, but builds llama-bench and llama-perplexity of 0.25
#     engines/ggml/check.sh model OUT    none, but writes a random model: options of tests/model.py
#
# Wants cmake, a C++ compiler and python3. What was built stays below target/llama, a folder a
# version, and is not built again.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly python_version=0.3.36 crate_version=0.1.161
target=${CARGO_TARGET_DIR:-$PWD/target}
readonly cache=$target/llama

# source_of GGML: a folder with its llama.cpp.
source_of() {
    case $1 in
    0.25)
        local folder=$cache/llama_cpp_python-$python_version
        if [ ! -e "$folder" ]; then
            # Its own metadata names what builds it; nothing else of it is run.
            python3 -m pip download -q --no-deps --no-binary llama-cpp-python -d "$cache" \
                "llama-cpp-python==$python_version" >&2
            tar -xzf "$folder.tar.gz" -C "$cache"
        fi
        echo "$folder/vendor/llama.cpp"
        ;;
    0.26)
        # A package that depends on the crate, so that cargo brings it.
        local folder=$cache/crate
        mkdir -p "$folder/src"
        : >"$folder/src/lib.rs"
        printf '[package]\nname = "sources"\nversion = "0.0.0"\nedition = "2024"\n[dependencies]\nllama-cpp-sys-2 = "=%s"\n[workspace]\n' \
            "$crate_version" >"$folder/Cargo.toml"
        cargo metadata --format-version 1 --manifest-path "$folder/Cargo.toml" 2>/dev/null |
            python3 -c 'import json, os, sys
packages = json.load(sys.stdin)["packages"]
print(os.path.dirname(next(p["manifest_path"] for p in packages if p["name"] == "llama-cpp-sys-2")) + "/llama.cpp")'
        ;;
    *)
        echo "ggml $1: there are 0.25 and 0.26" >&2
        return 1
        ;;
    esac
}

# quietly LOG COMMAND...: what it says is shown if it fails.
quietly() {
    local log=$1
    shift
    "$@" >"$log" 2>&1 || {
        tail -n 50 "$log"
        return 1
    }
}

# build_llama SOURCE BUILD CMAKE_OPTION... -- MAKE_TARGET...
build_llama() {
    local source=$1 build=$2 options=()
    shift 2
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    # GCC 12 takes the stores of a tile configuration for dead: llama.cpp's AMX products would crash.
    quietly "$build.log" cmake -S "$source" -B "$build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
        -DCMAKE_CXX_FLAGS="-fno-tree-dse -fno-dse" -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_EXAMPLES=OFF "${options[@]}"
    quietly "$build.log" cmake --build "$build" -j "$(nproc)" --target "$@"
}

# build GGML MAKE_TARGET...: its libraries and those programs, in $cache/GGML/bin.
build() {
    local ggml=$1 source
    shift
    source=$(source_of "$ggml")
    case $ggml in
    0.25) build_llama "$source" "$cache/$ggml" -- "$@" ;;
    # Without OpenMP, whose threads are not ggml's own. The crate has no programs.
    0.26) build_llama "$source" "$cache/$ggml" -DGGML_OPENMP=OFF -DLLAMA_BUILD_COMMON=OFF -- "$@" ;;
    esac
    "${CC:-cc}" -std=c11 -Wall -Wextra -Werror -O1 -g engines/ggml/tests/llama.c \
        -I"$source/include" -I"$source/ggml/include" -L"$cache/$ggml/bin" -Wl,-rpath,"$cache/$ggml/bin" \
        -lllama -lggml -lggml-base -lpthread -o "$cache/$ggml/llama"
}

python() {
    if ! python3 -c 'import numpy' 2>/dev/null; then
        [ -e "$cache/venv" ] || python3 -m venv "$cache/venv"
        "$cache/venv/bin/python" -c 'import numpy' 2>/dev/null || "$cache/venv/bin/pip" install -q numpy
        "$cache/venv/bin/python" "$@"
        return
    fi
    python3 "$@"
}

check() {
    local ggml=$1 convert=()
    case $ggml in
    0.25)
        build "$ggml" llama test-backend-ops
        # By itself: the two want other features of the library.
        cargo build --release -q -p tritgemm-cli
        convert=("$target/release/tritgemm")
        ;;
    *) build "$ggml" llama ;;
    esac
    echo "ggml $ggml"
    run check.py "$ggml" "${convert[@]}"
}

# run SCRIPT GGML ARGUMENT...: a script of tests/ on the plug-in and that ggml.
run() {
    local script=$1 ggml=$2
    shift 2
    python "engines/ggml/tests/$script" "$target/release/libtritgemm_ggml.so" "$cache/$ggml/bin" "$cache/$ggml/llama" "$@"
}

mkdir -p "$cache"
if [ "${1:-}" = model ]; then
    shift
    python engines/ggml/tests/model.py "$@"
    exit
fi
cargo build --release -q -p tritgemm-ggml
case ${1:-all} in
all) check 0.25 && check 0.26 ;;
tables) build 0.25 llama llama-perplexity && run tables.py 0.25 ;;
tools) build 0.25 llama llama-bench llama-perplexity ;;
*) for ggml in "$@"; do check "$ggml"; done ;;
esac
