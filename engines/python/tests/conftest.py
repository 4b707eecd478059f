"""Oracles in plain numpy, and fixtures."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tritgemm

GOLDEN = Path(__file__).parents[3] / "tests" / "data" / "seed_reference.safetensors"


def naive_pack(trits: np.ndarray) -> np.ndarray:
    """Four weights a byte, the first in the top bits: -1 = 10, 0 = 00, 1 = 01."""
    rows, cols = trits.shape
    packed = np.zeros((rows, -(-cols // 4)), np.uint8)
    code = {-1: 0b10, 0: 0b00, 1: 0b01}
    for m in range(rows):
        for k in range(cols):
            packed[m, k // 4] |= code[int(trits[m, k])] << (6 - 2 * (k % 4))
    return packed


def naive_ternarize(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Absmean a row, in f64; trits by the f32 quotient, rounded half to even."""
    alpha = np.abs(weights.astype(np.float64)).mean(axis=1).astype(np.float32)
    alpha = np.maximum(alpha, np.float32(1e-5))
    return np.rint(np.clip(weights / alpha[:, None], -1, 1)).astype(np.int8), alpha


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(params=["int8", "f32"])
def path(request: pytest.FixtureRequest) -> str:
    """Both paths of activations."""
    return str(request.param)


@pytest.fixture
def defaults() -> Iterator[None]:
    """Puts threads and instruction set back."""
    threads = tritgemm.get_num_threads()
    yield
    tritgemm.set_num_threads(threads)
    tritgemm.pin(None)


def golden_cases() -> list[dict[str, np.ndarray]]:
    """The reference implementation's inputs and outputs, case by case."""
    data = GOLDEN.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    types = {"F32": np.float32, "F64": np.float64, "I8": np.int8, "U8": np.uint8}
    cases: dict[int, dict[str, np.ndarray]] = {}
    for name, info in header.items():
        index, _, field = name.partition(".")
        start, end = (8 + size + offset for offset in info["data_offsets"])
        array = np.frombuffer(data[start:end], types[info["dtype"]])
        cases.setdefault(int(index), {})[field] = array.reshape(info["shape"])
    return [cases[index] for index in sorted(cases)]


@pytest.fixture(params=range(8))
def golden(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    return golden_cases()[request.param]


def summation_error(terms: int) -> float:
    """gamma_n = n u / (1 - n u): the relative error of summing n f32 terms in
    any order."""
    unit = float(np.finfo(np.float32).eps) / 2
    return terms * unit / (1 - terms * unit)


def layer(
    rng: np.random.Generator, m: int, k: int, group: int | None = None, bias: bool = True
) -> tritgemm.Linear:
    """A layer of any weights, with scales a row or a group."""
    trits = rng.integers(-1, 2, (m, k), dtype=np.int8)
    shape = (m,) if group is None else (m, -(-k // group))
    scales = rng.uniform(0.1, 2, shape).astype(np.float32)
    packed = tritgemm.Packed.from_trits(trits, scales, group=group)
    return tritgemm.Linear(packed, rng.standard_normal(m, dtype=np.float32) if bias else None)


def float_types() -> list[Any]:
    """Those that activations and outputs have here."""
    try:
        import ml_dtypes
    except ImportError:
        return [np.dtype(np.float32), np.dtype(np.float16)]
    return [np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]


def same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()
