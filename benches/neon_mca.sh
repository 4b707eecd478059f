#!/bin/sh
# Instructions and llvm-mca cycles per MAC of the NEON inner loops, beside plain
# multiplying loops. Nothing is executed: the loops are cut out of the compiled
# crate's disassembly, so this runs on any host.
#
#   benches/neon_mca.sh [libtritgemm.rlib]
#
# LLVM_MCA and OBJDUMP name other tools. Use llvm-mca 18 or newer: older ones
# take a Cortex-A57 for neoverse-n1 and neoverse-v1. In all of them apple-m1 is
# the Cyclone model, whose three vector pipes are one less than an M1 has.
set -eu
cd "$(dirname "$0")/.."
TARGET=aarch64-unknown-linux-gnu
export OBJDUMP="${OBJDUMP:-aarch64-linux-gnu-objdump}" LLVM_MCA="${LLVM_MCA:-llvm-mca}"
if [ $# -gt 0 ]; then
    RLIB=$1
else
    cargo build --release --lib --target $TARGET
    RLIB=${CARGO_TARGET_DIR:-target}/$TARGET/release/libtritgemm.rlib
fi
"$LLVM_MCA" --version | grep -i 'llvm version'
exec python3 - "$RLIB" <<'PYTHON'
import os, re, subprocess, sys

CPUS = ["neoverse-n1", "neoverse-v1", "apple-m1"]

# Function, MACs of one turn of its loop, instruction that marks the loop.
KERNELS = [
    ("aarch64::few_i8::few_i8_1x1", 8 * 256, "tbl"),
    ("aarch64::few_i8::few_i8_1x2", 8 * 512, "tbl"),
    ("aarch64::few_f32::few_f32_1x1", 256, "tbl"),
    ("aarch64::few_f32::few_f32_1x2", 256, "tbl"),
    ("aarch64::many::many_i8", 24 * 128, "ldp"),
    ("aarch64::many::many_f32", 24 * 64, "ldp"),
]

def gemv(multiply, lanes):
    """Four rows by one token, two registers of k a turn, weights unpacked."""
    code = ["ldp q30, q31, [x0], #32"]
    for row in range(4):
        code.append(f"ldp q{16 + 2 * row}, q{17 + 2 * row}, [x{row + 1}], #32")
    for row in range(4):
        for k in range(2):
            a, b, c = 2 * row + k, 16 + 2 * row + k, 30 + k
            code.append(f"{multiply} v{a}.4s, v{b}.{lanes}, v{c}.{lanes}")
    return code + ["subs x9, x9, #1", "b.ne #0"]

def gemm(multiply, lanes, element):
    """The usual 8 x 12 tile of accumulators, operands by element."""
    code = ["ldp q24, q25, [x0], #32", "ldp q26, q27, [x1], #48", "ldur q28, [x1, #-16]"]
    for i in range(8):
        for j in range(3):
            a, b, c = 3 * i + j, 26 + j, 24 + i // 4
            code.append(f"{multiply} v{a}.4s, v{b}.{lanes}, v{c}.{element}[{i % 4}]")
    return code + ["subs x9, x9, #1", "b.ne #0"]

BASELINES = [
    ("sdot, 4 rows x 1 token", 128, gemv("sdot", "16b")),
    ("fmla, 4 rows x 1 token", 32, gemv("fmla", "4s")),
    ("sdot, 8 x 12 tile", 384, gemm("sdot", "16b", "4b")),
    ("fmla, 8 x 12 tile", 96, gemm("fmla", "4s", "s")),
]

def functions(rlib):
    text = subprocess.run([os.environ["OBJDUMP"], "-d", "--no-show-raw-insn", "-C", rlib],
                          capture_output=True, text=True, check=True).stdout
    out, body = {}, []
    for line in text.splitlines():
        if head := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            body = out.setdefault(head[1], [])
        elif code := re.match(r"\s*([0-9a-f]+):\t(\S+)\t?([^/<]*)", line):
            body.append((int(code[1], 16), code[2], code[3].strip()))
    return out

def target(instruction):
    return int(instruction[2].split(",")[-1].strip(), 16)

def is_branch(op):
    return op.startswith("b.") or op in ("b", "ret", "cbz", "cbnz", "tbz", "tbnz")

def cycles(body):
    """Every path that comes back to where a backward branch goes."""
    at = {instruction[0]: i for i, instruction in enumerate(body)}
    jumps = [ins for ins in body if is_branch(ins[1]) and ins[1] != "ret"]
    starts = {at.get(target(ins)) for ins in jumps}
    heads = {target(ins) for ins in jumps if target(ins) <= ins[0]}
    for head in heads:
        stack = [(at[head], ())]
        while stack:
            i, path = stack.pop()
            if i >= len(body) or any(i == start for start, _ in path):
                continue
            stop = i
            while not is_branch(body[stop][1]) and stop + 1 not in starts | {len(body)}:
                stop += 1
            path = path + ((i, stop + 1),)
            op = body[stop][1]
            if op == "ret":
                continue
            nexts = [] if op == "b" else [stop + 1]
            if is_branch(op):
                nexts.append(at.get(target(body[stop])))
            for n in nexts:
                if n == at[head]:
                    yield [ins for start, end in path for ins in body[start:end]]
                elif n is not None:
                    stack.append((n, path))

def inner_loop(body, marker):
    """Most marks; then fewest additions (no fold), most loads, shortest."""
    def key(path):
        ops = [op for _, op, _ in path]
        return (sum(bool(re.fullmatch(marker, op)) for op in ops),
                -sum(op in ("add", "fadd", "ssra") for op in ops),
                ops.count("ldp"), -len(ops))
    path = max(cycles(body), key=key)
    # Where a branch goes is nothing to llvm-mca, but it must parse.
    return [op + " " + (re.sub(r"(0x)?[0-9a-f]+$", "#0", args) if is_branch(op) else args)
            for _, op, args in path]

def straight_run(body, marker):
    """The run without a branch in or out that has the most marks: the look-ups
    of a pair of rows, all unrolled, between the checks of what to do with them."""
    targets = {target(ins) for ins in body if is_branch(ins[1]) and ins[1] != "ret"}
    best, run = [], []
    for address, op, args in body + [(None, "ret", "")]:
        if address in targets or is_branch(op):
            best = max(best, run, key=lambda r: sum(bool(re.fullmatch(marker, i[0])) for i in r))
            run = []
        if not is_branch(op):
            run = run + [(op, args)]
    return [op + " " + args for op, args in best]

def mca(code, cpu):
    turns = 200
    run = subprocess.run([os.environ["LLVM_MCA"], "-mtriple=aarch64", f"-mcpu={cpu}",
                          "-mattr=+dotprod", f"-iterations={turns}"],
                         input="\n".join(code) + "\n", capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    return int(re.search(r"Total Cycles:\s+(\d+)", run.stdout)[1]) / turns

def row(name, macs, code):
    figures = [f"{len(code) / macs:8.4f}"] + [f"{mca(code, cpu) / macs:8.4f}" for cpu in CPUS]
    print(f"{name:32}", " ".join(f"{f:>12}" for f in figures))

print(f"{'per MAC':32}", " ".join(f"{h:>12}" for h in ["instructions"] + CPUS))
bodies = functions(sys.argv[1])
for name, macs, marker in KERNELS:
    body = next((b for n, b in bodies.items() if n.endswith(name)), None)
    if body is not None:
        find = straight_run if "::column::" in name else inner_loop
        row(name, macs, find(body, marker))
for name, macs, code in BASELINES:
    row(name, macs, code)
PYTHON
