"""Checks the plug-in in a real llama.cpp: check.py PLUGIN LLAMA_BIN LLAMA_PROGRAM [TRITGEMM].

LLAMA_PROGRAM is llama.c, built; LLAMA_BIN is where llama.cpp's programs are, if it has any;
TRITGEMM is the program that converts files. Every check fails if the plug-in took no product.
"""

import os
import re
import subprocess
import sys
import tempfile

import numpy as np

import model

PLUGIN, BIN, PROGRAM = map(os.path.abspath, sys.argv[1:4])
OURS = ("tq2_0", "tq1_0", "q2_0")
# Every row of kernels/registry.rs, on one or another CPU.
ISAS = ("scalar", "avx2/zen4", "avx2/intel", "avx512/zen4", "avx512/intel", "avx512-vbmi/zen4", "avx512-vbmi/zen5",
        "avx512-vbmi/intel", "neon")
checks = 0


def ok(what):
    global checks
    checks += 1
    print(f"ok: {what}", flush=True)


def start(command, plugin="path", **env):
    """Runs a command with or without the plug-in; gives its status and what it said."""
    env = {f"TRITGEMM_{k}" if k != "LD_PRELOAD" else k: str(v) for k, v in env.items()}
    if plugin == "path":
        env["GGML_BACKEND_PATH"] = PLUGIN
    elif plugin == "preload":
        env["LD_PRELOAD"] = PLUGIN
    env = {**os.environ, "TRITGEMM_GGML_STATS": "1", **env}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1200)
    return done.returncode, done.stdout + done.stderr


def run(command, plugin="path", **env):
    """As `start`, of a command that succeeds and, with the plug-in, uses it. Gives how many
    products were taken and how many were left for each reason."""
    status, said = start(command, plugin, **env)
    assert status == 0, f"{command} {env}: status {status}\n{said}"
    pattern = r"tritgemm: (\d+) products.*?\((\d+) by their buffer, (\d+) by their layout, (\d+) not ternary, 0 for want of memory\)"
    counted = re.search(pattern, said)
    if plugin is None:
        assert "tritgemm" not in said, said
        return said, None
    assert counted, f"the plug-in was not loaded:\n{said}"
    counts = dict(zip(("taken", "buffer", "layout", "ternary"), map(int, counted.groups())))
    assert counts["taken"] > 0, said
    return said, counts


class Models:
    def __init__(self, folder):
        self.folder = folder

    def path(self, name, kind, **how):
        path = os.path.join(self.folder, f"{name}_{kind}.gguf")
        if not os.path.exists(path):
            model.model(path, kind, **how)
        return path

    def logits(self, path, threads=2, plugin="path", **env):
        out = os.path.join(self.folder, "logits")
        _, counts = run([PROGRAM, "logits", path, out, str(threads)], plugin, **env)
        return np.fromfile(out, np.float32).reshape(40, -1), counts


def error(a, reference):
    a, reference = a.astype(np.float64), reference.astype(np.float64)
    return np.linalg.norm(a - reference) / np.linalg.norm(reference)


def same(a, b):
    return a.tobytes() == b.tobytes()


def dense(models):
    reference, _ = models.logits(models.path("dense", "f32"), plugin=None)
    for mode in ("f32", "int8", "int8g"):
        got = {}
        for kind in OURS:
            path = models.path("dense", kind)
            got[kind], counts = models.logits(path, GGML=mode)
            # Seven matrices in each of four layers: the prompt and eight tokens.
            assert counts == {"taken": 9 * 28, "buffer": 0, "layout": 0, "ternary": 0}, counts
            # Threads of ggml spin: three on two cores take long.
            for threads in (1, 3) if kind == "tq2_0" else (1,):
                other, _ = models.logits(path, threads, GGML=mode)
                assert same(got[kind], other), f"{kind} {mode}: {threads} threads differ"
        alike = ("tq2_0", "tq1_0") if mode == "int8g" else OURS
        assert all(same(got[kind], got["tq2_0"]) for kind in alike), mode
        errors = {kind: error(got[kind], reference) for kind in OURS}
        bounds = {"f32": 1e-3, "int8": 4e-2, "int8g": 2.5e-2}
        assert 0 < max(errors.values()) < bounds[mode], (mode, errors)
        shown = ", ".join(f"{kind} {value:.2e}" for kind, value in errors.items())
        ok(f"{mode}: types and threads have the same bits; error to F32 weights {shown}")
    plain = {kind: error(models.logits(models.path("dense", kind), plugin=None)[0], reference) for kind in OURS}
    print("    ggml alone:", ", ".join(f"{kind} {value:.2e}" for kind, value in plain.items()))


def block_scales(models):
    reference, _ = models.logits(models.path("blocks", "f32", scales="block"), plugin=None)
    for kind in ("tq2_0", "q2_0"):
        # f32 has the scales of 256 weights, which Q2_0's are not.
        base, _ = models.logits(models.path("blocks", kind, scales="block"), plugin=None)
        got, _ = models.logits(models.path("blocks", kind, scales="block"))
        assert error(got, reference if kind == "tq2_0" else base) < (1e-3 if kind == "tq2_0" else 4e-2)
        assert not same(got, base)
    ok("a scale a block")


def experts(models):
    how = dict(experts=4, hidden=512, ffn=1024, layers=2, heads=8)
    reference, _ = models.logits(models.path("experts", "f32", **how), plugin=None)
    plain = error(models.logits(models.path("experts", "tq2_0", **how), plugin=None)[0], reference)
    # A rounding can send a token to another expert, ggml's as ours.
    for mode, bound in (("f32", 1e-3), ("int8", 2 * plain), ("int8g", 2 * plain)):
        got = {}
        for kind in OURS:
            got[kind], counts = models.logits(models.path("experts", kind, **how), GGML=mode)
            assert counts == {"taken": 9 * 14, "buffer": 0, "layout": 0, "ternary": 0}, counts
            assert error(got[kind], reference) < bound, (mode, kind, error(got[kind], reference))
            other, _ = models.logits(models.path("experts", kind, **how), 1, GGML=mode)
            assert same(got[kind], other)
        assert same(got["tq1_0"], got["tq2_0"])
        ok(f"mixtures of experts, {mode}: error {error(got['tq2_0'], reference):.2e}, ggml's {plain:.2e}")


def two(models):
    path = models.path("two", "q2_0", two=True)
    base, _ = models.logits(path, plugin=None)
    got, counts = models.logits(path)
    assert counts["ternary"] == 9 and counts["taken"] == 9 * 27, counts
    assert 0 < error(got, base) < 4e-2
    ok("a matrix with a weight of +2 is left to ggml")


def converted(models):
    if len(sys.argv) < 5:
        print("skipped: no program that converts files is named")
        return
    paths = [models.path("dense", "tq2_0")] + [os.path.join(models.folder, f"{to}.gguf") for to in ("pq2_0", "q2_0")]
    for source, out, to in zip(paths, paths[1:], ("pq2_0", "q2_0")):
        subprocess.run([sys.argv[4], "convert", source, out, "--to", to], check=True, stdout=subprocess.DEVNULL)
    for env, plugin in (({"GGML": "int8g"}, "path"), ({}, None)):
        got, _ = models.logits(paths[-1], plugin=plugin, **env)
        assert same(got, models.logits(models.path("dense", "q2_0"), plugin=plugin, **env)[0])
    ok("a PQ2_0 file, converted to Q2_0, is the model that it was, for ggml too")


def lifetimes(models):
    a, b = models.path("dense", "tq2_0"), models.path("other", "tq2_0", seed=2)
    q = models.path("dense", "q2_0")
    for mode in ("f32", "int8"):
        run([PROGRAM, "reload", "50", a, b], GGML=mode)
        run([PROGRAM, "contexts", a], GGML=mode)
        run([PROGRAM, "contexts", q], GGML=mode)
        run([PROGRAM, "abort", a], GGML=mode)
    ok("50 loads of two models in turns, two contexts on two threads, aborted graphs")


def memory(models):
    path = models.path("dense", "tq2_0")

    def peak(mapped, plugin="path"):
        said, _ = run([PROGRAM, "peak", path, str(mapped), "2"], plugin)
        packed = re.search(r"packed ([\d.]+) MB", said)
        return int(re.search(r"VmHWM:\s*(\d+) kB", said)[1]) / 1024, packed and float(packed[1]) / 1.048576

    (mapped, packed), (whole, _), (alone, _) = peak(1), peak(0), peak(1, None)
    assert mapped < whole - packed / 2, (mapped, whole, packed)
    ok(f"{packed:.0f} MiB packed of a mapped file: {mapped:.0f} MiB at most, {whole:.0f} if not mapped, ggml's {alone:.0f}")


def loading(models):
    path = models.path("dense", "tq2_0")
    got, _ = models.logits(path)
    preloaded, _ = models.logits(path, plugin="preload")
    assert same(got, preloaded)
    base, _ = models.logits(path, plugin=None)
    command = [PROGRAM, "logits", path, os.path.join(models.folder, "off"), "2"]
    status, said = start(command, GGML="off")
    assert status == 0 and "products" not in said, said
    off = np.fromfile(command[3], np.float32).reshape(40, -1)
    assert same(off, base) and not same(off, got)
    for env, expected in (({"GGML": "fast"}, "expected f32, int8, int8g or off"), ({"ISA": "none"}, "TRITGEMM_ISA")):
        status, said = start(command, **env)
        assert status == 0 and "tritgemm: not loaded" in said and expected in said, said
        assert same(np.fromfile(command[3], np.float32).reshape(40, -1), base)
    status, said = start(["/bin/true"], plugin="preload")
    assert status == 0 and said == "", said
    # As Python's bindings load it: where nothing else in the process sees its functions.
    ggml = f"import ctypes; ctypes.CDLL({os.path.join(BIN, 'libggml.so')!r}, mode=ctypes.RTLD_LOCAL)"
    for call, plugin in (("ggml_backend_load_all()", "path"), (f"ggml_backend_load({PLUGIN.encode()!r})", None)):
        status, said = start([sys.executable, "-c", f"{ggml}.{call}"], plugin)
        assert status == 0 and "tritgemm: ternary products of ggml" in said, said
    ok("GGML_BACKEND_PATH, LD_PRELOAD, ggml_backend_load, a private ggml, off, refusals, a process without ggml")


def isas(models):
    path, seen = models.path("dense", "tq2_0"), []
    for mode in ("f32", "int8", "int8g"):
        best, _ = models.logits(path, GGML=mode)
        for isa in ISAS:
            status, said = start([PROGRAM, "logits", path, os.path.join(models.folder, "isa"), "2"], GGML=mode, ISA=isa)
            assert status == 0, said
            if "tritgemm: not loaded" in said:
                continue
            assert f"on {isa}," in said and "tritgemm: 252 products" in said, said
            got = np.fromfile(os.path.join(models.folder, "isa"), np.float32).reshape(40, -1)
            assert same(got, best), f"{isa} {mode}"
            seen.append(isa)
    assert len(set(seen)) > 1, seen
    ok("the same bits on " + ", ".join(dict.fromkeys(seen)))


def backend_ops():
    program = os.path.join(BIN, "test-backend-ops")
    if not os.path.exists(program):
        print("skipped: this llama.cpp has no test-backend-ops")
        return
    for mode in ("f32", "int8", "int8g"):
        for op in ("MUL_MAT", "MUL_MAT_ID"):
            command = [program, "-b", "TRITGEMM", "-o", op, "-p", "type_a=(tq1_0|tq2_0|q2_0)"]
            said, counts = run(command, GGML=mode, GGML_ANY=1)
            passed = re.search(r"(\d+)/(\d+) tests passed", said)
            assert passed and passed[1] == passed[2] and int(passed[1]) > 0, said
            ok(f"test-backend-ops {op}, {mode}: {passed[0]}, {counts['taken']} products taken")


def main():
    with tempfile.TemporaryDirectory() as folder:
        models = Models(folder)
        for check in (dense, block_scales, experts, two, converted, memory, loading, isas, lifetimes):
            check(models)
    backend_ops()
    print(f"{checks} checks passed")


if __name__ == "__main__":
    main()
