#!/bin/sh
# Times another commit and the work tree in turns, in one process:
#   lab/turns/run.sh COMMIT [options of the program; --help lists them]
set -eu
commit=${1:?"usage: lab/turns/run.sh COMMIT [options]"}
shift
cd "$(dirname "$0")/../.."
# In the checkout below, HEAD would be its own.
commit=$(git rev-parse --verify "$commit^{commit}")
old=target/turns/old

mkdir -p target/turns
if [ -d "$old" ]; then
    git -C "$old" checkout --quiet --force --detach "$commit"
else
    git worktree prune
    git worktree add --quiet --force --detach "$old" "$commit"
fi
# Cargo links two packages of one name if their versions differ.
sed -i '0,/^version = .*/s//version = "0.0.1"/' "$old/Cargo.toml"

features=
grep -q 'pub fn forward_int8' "$old/src/linear.rs" || features=first-api
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/turns/build} \
    cargo run --quiet --release --manifest-path lab/turns/Cargo.toml --features "$features" -- "$@"
