#!/usr/bin/env bash
# Builds the examples with C and C++ compilers, strictly, against both kinds of
# library; runs them, also under valgrind, which hides AVX-512: AVX2 runs there.
# Wants `cargo build --release -p tritgemm-capi` to have run.
set -euo pipefail
cd "$(dirname "$0")/../.."

lib=$PWD/${CARGO_TARGET_DIR:-target}/release
if [[ ${CARGO_TARGET_DIR:-} = /* ]]; then lib=$CARGO_TARGET_DIR/release; fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

strict=(-Wall -Wextra -Wpedantic -Wshadow -Werror -O1 -g -Iengines/c/include)
static=("$lib/libtritgemm_capi.a" -lpthread -ldl -lm)
shared=(-L"$lib" -ltritgemm_capi -Wl,-rpath,"$lib" -lpthread -lm)

build() {
    echo "+ $*"
    "$@"
}

for standard in c99 c11; do
    build "${CC:-cc}" -std="$standard" "${strict[@]}" engines/c/examples/ternary.c "${static[@]}" \
        -o "$out/c-$standard"
done
build "${CC:-cc}" -std=c11 "${strict[@]}" engines/c/examples/ternary.c "${shared[@]}" -o "$out/c-shared"
for standard in c++17 c++20; do
    build "${CXX:-c++}" -std="$standard" "${strict[@]}" engines/c/examples/ternary.cpp "${static[@]}" \
        -o "$out/$standard"
done

# OpenMP is the compiler's to have.
if echo '#include <omp.h>' | "${CC:-cc}" -fopenmp -x c - -fsyntax-only 2>/dev/null; then
    build "${CC:-cc}" -std=c11 "${strict[@]}" -fopenmp engines/c/examples/openmp.c "${static[@]}" \
        -o "$out/openmp"
    build "$out/openmp"
else
    echo "SKIPPED: examples/openmp.c, ${CC:-cc} has no OpenMP"
fi

for program in c-c99 c-c11 c-shared; do
    build "$out/$program"
done
build "$out/c++17" "$out/panels"
build "$out/c++20" "$out/panels"

valgrind=(valgrind --quiet --error-exitcode=99 --leak-check=full
    --show-leak-kinds=definite,possible --errors-for-leak-kinds=definite,possible)
build "${valgrind[@]}" "$out/c-c11"
build "${valgrind[@]}" "$out/c++17" "$out/panels"
echo "C and C++: all passed"
