#!/usr/bin/env bash
# A whole model of random weights on this engine, llama.cpp and candle, in turns:
#
#     lab/peers/model.sh [bitnet-2b|falcon-e-3b|bonsai-8b [options of tritgemm-peers]]
#
# Wants cmake, a C++ compiler, python3 and Rust 1.95. What is built and the models stay below
# target, 3 GB for bitnet-2b and 10 GB for bonsai-8b, and are not made again. LLAMA_BENCH may name
# a llama-bench of another build.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}

readonly model=${1:-bitnet-2b}
shift || true
# Embedding and head as llama-quantize has them, but for a model whose own are ternary.
head=q6_k
case $model in
bitnet-2b) shape="--hidden 2560 --ffn 6912 --layers 30 --heads 20 --kv-heads 5 --vocab 128256 --tied" ;;
falcon-e-3b) shape="--hidden 2048 --ffn 13312 --layers 32 --heads 16 --kv-heads 2 --vocab 32768" ;;
bonsai-8b)
    shape="--hidden 4096 --ffn 12288 --layers 36 --heads 32 --kv-heads 8 --vocab 151936 --scales block"
    head=tq2_0
    ;;
*)
    echo "$model: there are bitnet-2b, falcon-e-3b and bonsai-8b" >&2
    exit 1
    ;;
esac

[ -n "${LLAMA_BENCH:-}" ] || engines/ggml/check.sh tools
cargo build --release -q -p tritgemm-ggml -p tritgemm-peers
cargo build --release -q --manifest-path engines/candle/Cargo.toml --features models --example generate
# candle's kernels are those of the CPU that it is compiled for.
RUSTFLAGS="-C target-cpu=native" cargo build --release -q --manifest-path lab/peers/candle/Cargo.toml

files=$CARGO_TARGET_DIR/models
mkdir -p "$files"
# gguf TYPE HEAD
gguf() {
    local file=$files/$model.$1.gguf
    [ -e "$file" ] && return
    # shellcheck disable=SC2086 # the shape is several words
    engines/ggml/check.sh model "$file.part" --type "$1" --head "$2" $shape
    mv "$file.part" "$file"
}
gguf tq2_0 "$head"
gguf q4_0 q6_k

built=$CARGO_TARGET_DIR/release
"$built/tritgemm-peers" --model "$model" --files "$files" --prompts 128 --generated 32 \
    --generate "$built/examples/generate" \
    --llama "${LLAMA_BENCH:-$CARGO_TARGET_DIR/llama/0.25/bin/llama-bench}" \
    --plugin "$built/libtritgemm_ggml.so" \
    --candle "$built/tritgemm-peer-candle" "$@"
