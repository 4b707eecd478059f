"""What a layer costs beside nn.Linear: a small call, and a step of training.

    python examples/layers.py [--tokens 2048] [--width 1024] [--rounds 9] [--threads N]

A call is of one token and 64 x 64 weights, so nearly all of it is overhead, on one thread. A step is
forward, backward and SGD of one square layer. Every round times each of them once, in turn, so that
whatever else the machine does falls on all; medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import tritgemm
from torch import nn


def in_turns(runs: dict[str, Callable[[], object]], rounds: int, times: int) -> dict[str, float]:
    """Median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(times):
                run()
            seconds[name].append((time.perf_counter() - start) / times)
    # The first round packs weights and starts threads.
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def calls(rounds: int) -> None:
    """Of one small layer."""
    x = torch.randn(1, 64)
    layer = tritgemm.BitLinear(64, 64, activations="int8").eval()
    packed = tritgemm.PackedLinear.from_linear(layer)
    native = packed.to_native()
    array = x.numpy()
    layers = {"nn.Linear": nn.Linear(64, 64).eval(), "BitLinear": layer, "PackedLinear": packed}
    runs: dict[str, Callable[[], object]] = {name: partial(layer, x) for name, layer in layers.items()}
    runs["tritgemm.Linear"] = lambda: native.forward_int8(array)
    with torch.no_grad():
        print("a call, microseconds")
        for name, seconds in in_turns(runs, rounds, 1000).items():
            print(f"{name:36}{seconds * 1e6:8.1f}")


def steps(tokens: int, width: int, rounds: int) -> None:
    """Of one layer each."""
    x = torch.randn(tokens, width, requires_grad=True)
    gradient = torch.randn(tokens, width)
    layers: dict[str, nn.Module] = {"nn.Linear": nn.Linear(width, width)}
    for granularity in ("tensor", "row", 128):
        for activations in ("f32", "int8"):
            name = f"BitLinear, {granularity}, {activations}"
            layers[name] = tritgemm.BitLinear(
                width, width, granularity=granularity, train_activations=activations
            )

    def step(layer: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        x.grad = None
        layer(x).backward(gradient)
        optimizer.step()

    optimizers = {name: torch.optim.SGD(layer.parameters(), 1e-4) for name, layer in layers.items()}
    runs: dict[str, Callable[[], object]] = {
        name: partial(step, layer, optimizers[name]) for name, layer in layers.items()
    }
    seconds = in_turns(runs, rounds, 3)
    print(f"a step of {tokens} x {width}, milliseconds, and over nn.Linear's")
    for name, value in seconds.items():
        print(f"{name:36}{value * 1e3:8.1f}{value / seconds['nn.Linear']:8.2f}")


def main() -> None:
    """Times both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(1)
    calls(args.rounds)
    torch.set_num_threads(args.threads)
    tritgemm.set_num_threads(args.threads)
    steps(args.tokens, args.width, args.rounds)


if __name__ == "__main__":
    main()
