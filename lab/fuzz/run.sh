#!/usr/bin/env bash
# Runs the fuzz targets, all or those named, SECONDS each, one after the other,
# and prints what each did. Exits with 1 if one found something.
#
#   lab/fuzz/run.sh SECONDS [TARGET...]
#
# Needs a nightly toolchain, a C++ compiler and cargo-fuzz
# (cargo install cargo-fuzz --locked).
#
# What it finds is kept in artifacts/TARGET, what it learnt and the seeds that it
# starts from in corpus/TARGET, its output in logs/TARGET.log.
#
#   FUZZ_TOOLCHAIN   nightly by default
#   FUZZ_BUILD=0     run what an earlier build left
set -euo pipefail
cd "$(dirname "$0")"

usage() {
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || usage
seconds=$1
shift
toolchain=${FUZZ_TOOLCHAIN:-nightly}
mapfile -t all < <(sed -n 's|^path = "fuzz_targets/\(.*\)\.rs"$|\1|p' Cargo.toml)
targets=("${@:-${all[@]}}")
for target in "${targets[@]}"; do
    if [[ ! -f fuzz_targets/$target.rs ]]; then
        echo "no target \`$target\`, there are: ${all[*]}" >&2
        exit 2
    fi
done

if [[ ${FUZZ_BUILD:-1} != 0 ]]; then
    cargo "+$toolchain" fuzz build --fuzz-dir . >&2
fi
host=$(rustc "+$toolchain" -vV | sed -n 's/^host: //p')
mkdir -p logs

# The last number after `$2:` in the log of a target.
stat() {
    grep -oE "$2: +[0-9]+" "logs/$1.log" | tail -n 1 | grep -oE '[0-9]+$' || echo 0
}

# Inputs that failed; a slow one on a busy machine did not.
findings() {
    find "artifacts/$1" -type f ! -name 'slow-unit-*' | wc -l
}

found=0
table=("target seconds executions exec/s edges features crashes")
for target in "${targets[@]}"; do
    echo "$target: $seconds s" >&2
    mkdir -p "corpus/$target" "artifacts/$target"
    "target/$host/release/seeds" "corpus/$target" "$target"
    options=(-max_total_time="$seconds" -print_final_stats=1 -rss_limit_mb=2048 -timeout=30)
    options+=(-artifact_prefix="artifacts/$target/" -max_len=4096)
    [[ -f dictionaries/$target.dict ]] && options+=(-dict="dictionaries/$target.dict")
    before=$(findings "$target")
    start=$SECONDS
    if ! "target/$host/release/$target" "${options[@]}" "corpus/$target" \
        >"logs/$target.log" 2>&1; then
        found=1
        grep -E '^(thread .* panicked|==[0-9]+== ?ERROR|SUMMARY)' -A 3 "logs/$target.log" >&2 || true
    fi
    crashes=$(($(findings "$target") - before))
    row=("$target" $((SECONDS - start)) "$(stat "$target" 'stat::number_of_executed_units')")
    row+=("$(stat "$target" 'stat::average_exec_per_sec')")
    row+=("$(stat "$target" cov)" "$(stat "$target" ft)" "$crashes")
    table+=("${row[*]}")
done
printf '%s\n' "${table[@]}" | column -t -R 2,3,4,5,6,7
exit "$found"
