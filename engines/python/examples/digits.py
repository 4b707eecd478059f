# %% [markdown]
# # A ternary network for handwritten digits
#
# Trains a small network on scikit-learn's digits, quantises its weights to -1, 0
# and +1, and compares accuracy, size and latency with the dense one. Run it as a
# script (`python examples/digits.py [figure.svg]`) or cell by cell as a notebook.
#
# With PyTorch the layers are `nn.Linear` and `tritgemm.BitLinear`, and the
# ternary network is fine-tuned with the straight-through estimator. Without it
# scikit-learn trains the network and numpy multiplies the dense layers.

# %%
from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tritgemm

try:
    import torch
    from torch import nn
except ImportError:
    torch = None  # type: ignore[assignment]

SEED, HIDDEN, LATENT = 0, (256, 256), (4096, 4096)

# %% [markdown]
# ## Data: 1797 images of 8 x 8 pixels, a quarter of them to test with

# %%
images, labels = load_digits(return_X_y=True)
images = ((images - images.mean()) / images.std()).astype(np.float32)
train_x, test_x, train_y, test_y = train_test_split(
    images, labels, test_size=0.25, random_state=SEED, stratify=labels
)


def accuracy(logits: np.ndarray) -> float:
    """Per cent of the test images."""
    return 100 * float((logits.argmax(1) == test_y).mean())


# %% [markdown]
# ## Train and quantise


# %%
def with_torch() -> dict[str, float]:
    """Accuracies of the dense network, of its weights ternarised, of the same
    fine-tuned, and of that with int8 activations."""
    torch.manual_seed(SEED)
    torch.set_num_threads(tritgemm.get_num_threads())
    sizes = (64, *HIDDEN, 10)
    layers: list[nn.Module] = []
    for k, m in zip(sizes, sizes[1:]):
        layers += [nn.Linear(k, m), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    x, y = torch.from_numpy(train_x), torch.from_numpy(train_y)

    def train(epochs: int, rate: float) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        for _ in range(epochs):
            for batch in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()

    @torch.no_grad()
    def test() -> float:
        return accuracy(model(torch.from_numpy(test_x)).numpy())

    train(20, 1e-3)
    results = {"dense f32": test()}
    count = tritgemm.replace_linear(model)
    assert count == len(sizes) - 1
    results["ternary, as rounded"] = test()
    train(20, 1e-3)
    results["ternary, fine-tuned"] = test()
    for layer in model:
        if isinstance(layer, tritgemm.BitLinear):
            layer.activations = "int8"
    results["ternary, int8 activations"] = test()
    return results


def with_sklearn() -> dict[str, float]:
    """As far as it goes without gradients through the rounding."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(HIDDEN, random_state=SEED, max_iter=60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train_x, train_y)
    results = {"dense f32": accuracy(model.predict_proba(test_x))}
    layers = [
        tritgemm.Linear(
            tritgemm.Packed.quantize(np.ascontiguousarray(w.T, np.float32)),
            b.astype(np.float32),
        )
        for w, b in zip(model.coefs_, model.intercepts_)
    ]
    paths: dict[str, Literal["f32", "int8"]] = {"ternary, as rounded": "f32", "ternary, int8 activations": "int8"}
    for name, path in paths.items():
        h = test_x
        for layer in layers[:-1]:
            h = np.maximum(tritgemm.linear(h, layer, activations=path), 0)
        results[name] = accuracy(tritgemm.linear(h, layers[-1], activations=path))
    return results


accuracies = with_torch() if torch is not None else with_sklearn()

# %% [markdown]
# ## Latency of one large layer
#
# The digits' layers are too small to tell: a layer of a language model's size,
# 4096 x 4096, for 1 to 64 tokens. Times are medians, the contenders in turn.

# %%
TOKENS = (1, 2, 4, 8, 16, 32, 64)


def median_ms(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Milliseconds of each call, interleaved."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repeat > 0:  # The first warms up.
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(all_ms)) for name, all_ms in times.items()}


rng = np.random.default_rng(SEED)
weights = rng.standard_normal(LATENT, dtype=np.float32)
packed = tritgemm.Packed.quantize(weights)
layer = tritgemm.Linear(packed)
dense_name = "nn.Linear, f32" if torch is not None else "numpy, f32"
latency: dict[str, list[float]] = {}
for n in TOKENS:
    x = rng.standard_normal((n, LATENT[1]), dtype=np.float32)
    out = np.empty((n, LATENT[0]), np.float32)
    if torch is not None:
        dense = nn.Linear(LATENT[1], LATENT[0], bias=False).requires_grad_(False)
        tensor = torch.from_numpy(x)
        calls: dict[str, Callable[[], object]] = {dense_name: lambda: dense(tensor)}
    else:
        calls = {dense_name: lambda: np.matmul(x, weights.T, out=out)}
    calls["ternary, f32"] = lambda: layer.forward_f32(x, out=out)
    calls["ternary, int8"] = lambda: layer.forward_int8(x, out=out)
    for name, ms in median_ms(calls, 9).items():
        latency.setdefault(name, []).append(ms)

# %% [markdown]
# ## Results

# %%
print(f"digits, {len(test_y)} test images, backend {tritgemm.backend()}")
for name, percent in accuracies.items():
    print(f"  {name:<28}{percent:6.1f} %")
print(f"one layer of {LATENT[0]} x {LATENT[1]}, {tritgemm.get_num_threads()} threads, ms")
print(f"  {'tokens':<28}" + "".join(f"{n:9d}" for n in TOKENS))
for name, row in latency.items():
    print(f"  {name:<28}" + "".join(f"{ms:9.2f}" for ms in row))
print(f"  weights: dense {weights.nbytes / 2**20:.0f} MiB, ternary {packed.nbytes / 2**20:.0f} MiB")

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
bars = left.barh(list(accuracies), list(accuracies.values()))
left.bar_label(bars, fmt="%.1f %%", padding=3)
left.set(xlim=(0, 112), xlabel="accuracy on the test images, %", title="sklearn digits")
left.invert_yaxis()
for name, row in latency.items():
    right.plot(TOKENS, row, marker="o", label=name)
right.set(xlabel="tokens", ylabel="ms (median)", title=f"one layer of {LATENT[0]} x {LATENT[1]}")
right.set_xscale("log", base=2)
right.set_yscale("log")
right.grid(alpha=0.3)
right.legend()
target = Path(sys.argv[1] if len(sys.argv) > 1 and "ipykernel" not in sys.modules else "digits.svg")
figure.savefig(target)
print(f"figure: {target}")
