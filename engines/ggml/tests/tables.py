"""Prints the tables of README.md that time nothing: tables.py PLUGIN LLAMA_BIN LLAMA_PROGRAM.

The arguments are those of check.py, and LLAMA_BIN has llama-perplexity.
"""

import os
import re
import tempfile

import numpy as np

from check import BIN, OURS, PROGRAM, Models, error, run

MODES = ("f32", "int8", "int8g")


def row(*cells):
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def head(*cells):
    row(*cells)
    print("|---" * len(cells) + "|")


def divergence(reference, logits):
    """Kullback and Leibler's, of the distributions of the next token: the mean over the tokens."""
    def logs(x):
        x = x.astype(np.float64) - x.max(axis=1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))

    p, q = logs(reference), logs(logits)
    return (np.exp(p) * (p - q)).sum(axis=1).mean()


def accuracy(models):
    """Of the logits and of the perplexity, beside the same model with F32 weights."""
    text = os.path.join(models.folder, "text")
    letters = np.random.default_rng(1).choice(list("abcdefghijklmnopqrstuvwxyz "), 1 << 14)
    with open(text, "w") as f:
        f.write("".join(letters))

    def perplexity(kind, plugin, **env):
        command = [os.path.join(BIN, "llama-perplexity"), "-m", models.path("dense", kind), "-f", text]
        # With and without the plug-in it may end before its log is written, on busy machines often.
        for _ in range(20):
            said, _ = run([*command, "-c", "256", "--chunks", "8", "-t", "2"], plugin, **env)
            if found := re.search(r"Final estimate: PPL = ([\d.]+)", said):
                return f"{float(found[1]):.2f}"
        raise RuntimeError(f"no perplexity:\n{said}")

    reference, _ = models.logits(models.path("dense", "f32"), plugin=None)
    head("", *(f"error, {kind.upper()}" for kind in OURS), "divergence, TQ2_0", "perplexity, TQ2_0")
    row("F32 weights", *[0] * 4, perplexity("f32", None))
    # llama-perplexity loads no plug-ins where ggml is a shared library.
    ways = [("ggml", (None, None), {})] + [(mode, ("path", "preload"), {"GGML": mode}) for mode in MODES]
    for name, (plugin, preload), env in ways:
        got = {kind: models.logits(models.path("dense", kind), plugin=plugin, **env)[0] for kind in OURS}
        errors = [f"{error(logits, reference):.1e}" for logits in got.values()]
        shown = f"{divergence(reference, got['tq2_0']):.1e}"
        row(name, *errors, shown, perplexity("tq2_0", preload, **env))


def memory(models):
    """Of a program that computes a prompt and a few tokens, on two threads."""
    def peak(path, mapped, plugin):
        said, _ = run([PROGRAM, "peak", path, str(mapped), "2"], plugin)
        return round(int(re.search(r"VmHWM:\s*(\d+) kB", said)[1]) / 1024)

    head("peak memory, MiB", "ggml", "plug-in", "plug-in, not mapped")
    for kind in OURS:
        scales = "block" if kind == "q2_0" else "tensor"
        path = models.path("large", kind, hidden=2048, ffn=6144, layers=6, vocab=4096, scales=scales)
        name = f"{kind.upper()}, {os.path.getsize(path) / 1e6:.0f} MB"
        row(name, peak(path, 1, None), peak(path, 1, "path"), peak(path, 0, "path"))


def main():
    with tempfile.TemporaryDirectory() as folder:
        for table in (accuracy, memory):
            table(Models(folder))
            print()


if __name__ == "__main__":
    main()
