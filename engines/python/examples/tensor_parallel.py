"""A decoder block on several processes, by tensor parallelism over torch.distributed.

    torchrun --standalone --nproc-per-node 2 examples/tensor_parallel.py

Q, K, V, gate and up are split by rows: each rank has whole heads and its part of the hidden
layer. O and down are split along K, as their inputs are. A rank multiplies its columns into
int32 sums, which are exact, so that added over the ranks they are the sums of one process.
Before that the ranks agree on the largest magnitude of each token, and so quantise its parts
with the scale of the whole. Outputs have the bits of one process, and each rank checks that.

Two all-reduces for each of O and down are all that travels: an f32 for each token, then M
int32 sums for each.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

import tritgemm

HEADS, HEAD, HIDDEN, TOKENS = 4, 64, 768, 9
WIDTH = HEADS * HEAD
# With a norm in front of O or down, one more all-reduce adds up its sum of squares.
EPSILON = np.float32(1e-5)


class Ranks:
    """The processes that torchrun started."""

    def __init__(self) -> None:
        dist.init_process_group("gloo")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def part(self, whole: int, unit: int) -> slice:
        """This rank's part of so many rows or columns: whole units, the same on each rank."""
        assert whole % (self.size * unit) == 0, f"{self.size} ranks cannot share {whole}"
        length = whole // self.size
        return slice(self.rank * length, (self.rank + 1) * length)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Of all ranks, in the place of this rank's."""
        dist.all_reduce(torch.from_numpy(values), dist.ReduceOp.SUM)
        return values

    def max(self, values: np.ndarray) -> np.ndarray:
        """As sum."""
        dist.all_reduce(torch.from_numpy(values), dist.ReduceOp.MAX)
        return values


class ColumnShard:
    """A rank's columns of a layer with a scale for each row."""

    def __init__(self, layer: tritgemm.Packed, ranks: Ranks) -> None:
        columns = ranks.part(layer.shape[1], 4)
        # Packed bytes hold four columns each, the panels that a layer keeps cannot be cut here.
        packed = layer.to_packed()[:, columns.start // 4 : columns.stop // 4]
        self.weights = tritgemm.Packed.from_packed(
            np.ascontiguousarray(packed), columns.stop - columns.start
        )
        self.scales, self.ranks = layer.scales, ranks

    def forward_int8(self, x: np.ndarray) -> np.ndarray:
        """Linear.forward_int8 of the whole layer, of this rank's part of each token."""
        absmax = self.ranks.max(np.abs(x).max(axis=1))
        token_scales = np.maximum(absmax, np.float32(1e-5))[:, np.newaxis]
        q = np.rint(x * (np.float32(127) / token_scales)).astype(np.int8)
        sums = self.ranks.sum(self.weights.gemm_i8(q))
        y: np.ndarray = sums.astype(np.float32) * (self.scales * (token_scales / np.float32(127)))
        return y


def norm(x: np.ndarray) -> np.ndarray:
    """RMSNorm without weights; every rank has whole tokens here."""
    y: np.ndarray = x / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + EPSILON)
    return y


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Causal attention of the heads that are there, one by one: the same bits for each,
    whoever else is."""
    out = np.empty_like(q)
    future = np.triu(np.full((len(q), len(q)), -np.inf, np.float32), 1)
    for start in range(0, q.shape[1], HEAD):
        columns = slice(start, start + HEAD)
        one_q, one_k, one_v = (np.ascontiguousarray(a[:, columns]) for a in (q, k, v))
        scores = one_q @ one_k.T / np.float32(np.sqrt(HEAD)) + future
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, columns] = scores @ one_v / scores.sum(axis=1, keepdims=True)
    return out


@dataclass
class Block:
    """Of whole layers or of a rank's shards."""

    qkv: list[tritgemm.Linear]
    o: tritgemm.Linear | ColumnShard
    gate_up: list[tritgemm.Linear]
    down: tritgemm.Linear | ColumnShard

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = x + self.o.forward_int8(attend(*tritgemm.forward_many_int8(self.qkv, norm(x))))
        gate, up = tritgemm.forward_many_int8(self.gate_up, norm(x))
        y: np.ndarray = x + self.down.forward_int8(np.square(np.maximum(gate, 0)) * up)
        return y


def main() -> int:
    ranks = Ranks()
    # Every rank makes the whole model, to compare. An engine maps a panel file instead
    # (ModelFile.load(path, mmap=True)): of layers that are split by rows it reads its own.
    rng = np.random.default_rng(1)

    def packed(rows: int, columns: int) -> tritgemm.Packed:
        return tritgemm.Packed.quantize(rng.standard_normal((rows, columns), dtype=np.float32))

    qkv = [tritgemm.Linear(packed(WIDTH, WIDTH)) for _ in range(3)]
    gate_up = [tritgemm.Linear(packed(HIDDEN, WIDTH)) for _ in range(2)]
    o, down = packed(WIDTH, WIDTH), packed(WIDTH, HIDDEN)

    def rows(layer: tritgemm.Linear) -> tritgemm.Linear:
        part = ranks.part(layer.out_features, 64)
        return layer.slice_rows(part.start, part.stop)

    shards = Block(
        [rows(layer) for layer in qkv],
        ColumnShard(o, ranks),
        [rows(layer) for layer in gate_up],
        ColumnShard(down, ranks),
    )
    whole = Block(qkv, tritgemm.Linear(o), gate_up, tritgemm.Linear(down))

    x = rng.standard_normal((TOKENS, WIDTH), dtype=np.float32)
    x[2] = 0
    x[3, 5] = 40
    same = True
    for _ in range(3):
        y = shards.forward(x)
        same &= y.tobytes() == whole.forward(x).tobytes()
        x = norm(y)
    verdict = "the same bits as one process" if same else "DIFFERENT from one process"
    # One write, so that lines of several ranks stay lines.
    sys.stdout.write(f"rank {ranks.rank} of {ranks.size}: {verdict}\n")
    dist.destroy_process_group()
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
