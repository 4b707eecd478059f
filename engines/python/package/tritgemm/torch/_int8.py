"""int8 weights on the ternary kernels: for heads and embeddings, which are not ternary."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import _tritgemm as native
from ._layer import TernaryLayer, keep_float32
from ._product import DTYPES, Activations, array, at, check_activations, in_memory, restored

# Five balanced ternary digits: 81 + 27 + 9 + 3 + 1.
DIGITS = 5
LARGEST = 121
# So many products of 121 and 127 add up to an int32.
MAX_COLS = (2**31 - 1) // (LARGEST * 127)


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values [M, K] in -121..121 and float32 scales [M] of float weights [M, K]: the
    largest magnitude of a row, at least 1e-5, becomes 121."""
    dense = weight.detach().float()
    scales = dense.abs().amax(1).clamp_(min=1e-5) / LARGEST if dense.numel() else dense.new_ones(len(dense))
    if not bool(torch.isfinite(scales).all()):
        raise native.QuantizationError("weight: expected finite values")
    values = (dense / scales[:, None]).round_().clamp_(-LARGEST, LARGEST)
    return values.to(torch.int8), scales


@dataclass
class Int8Weights:
    """What :class:`TernaryLayer` multiplies by here, in the place of ``Ternary``: the digits
    as ternary matrices one below the other, [5 M, K], the lowest first."""

    digits: native.Packed
    weight: Tensor
    scales: Tensor
    key: tuple[Any, ...]
    explicit: bool

    @classmethod
    def of(cls, weight: Tensor, scales: Tensor, key: tuple[Any, ...], explicit: bool) -> Int8Weights:
        """Splits them into digits."""
        rows, cols = weight.shape
        if cols > MAX_COLS:
            raise native.ShapeError(f"weight: expected at most {MAX_COLS} columns, got {cols}")
        if bool((weight.short().abs() > LARGEST).any()):
            raise native.EncodingError("weight: expected int8 values from -121 to 121")
        trits = np.empty((DIGITS, rows, cols), np.int8)
        rest = array(weight).astype(np.uint8) + np.uint8(LARGEST)
        for plane in trits:
            np.subtract(rest % 3, 1, out=plane, casting="unsafe")
            rest //= 3
        digits = native.Packed.from_trits(trits.reshape(DIGITS * rows, cols))
        return cls(digits, weight.detach(), scales.detach(), key, explicit)

    @property
    def rows(self) -> int:
        """M."""
        return self.weight.shape[0]

    @property
    def cols(self) -> int:
        """K."""
        return self.weight.shape[1]

    def product(self, x: Tensor, bias: Tensor | None, path: str) -> Tensor:
        """Without gradients: [..., K] to [..., M], in x's dtype."""
        dtype = x.dtype
        x = in_memory(x if dtype in DTYPES else x.float())
        leading, scales = x.shape[:-1], in_memory(self.scales.float())
        y = x.new_empty((*leading, self.rows), dtype=torch.float32)
        given = path, DTYPES[x.dtype], at(x), math.prod(leading)
        native._forward_digits(self.digits, at(scales), *given, at(y))
        return (y if bias is None else y.add_(bias.detach().float())).to(dtype)

    def input_gradient(self, grad: Tensor) -> Tensor:
        """Dense [N, M] to [N, K]."""
        return grad @ restored(self.weight, self.scales)

    def close_gate(self, gradient: Tensor, weight: Tensor, sparse: bool) -> Tensor:
        """int8 weights take no gradient."""
        raise NotImplementedError


class Int8Linear(TernaryLayer):
    """A linear layer of int8 weights with one scale a row, on int8 activations: exact int32
    sums, times the scales. For an output layer that is not ternary.

    A weight is a number of five ternary digits, -121 to 121, and the product that of five
    ternary matrices, by additions. ``weight`` (int8 [out_features, in_features]), ``scales``
    (float32 [out_features]) and ``bias`` are the state dict. The digits, 10 bits a weight, are
    made before the first pass; :class:`Int8Embedding` can share ``weight`` and ``scales``.
    Gradients reach the input and the bias.

    Args:
        in_features: K.
        out_features: M.
        bias: whether there is one.
        activations: ``"int8"`` or ``"int8_torch"``, as in :class:`BitLinear`.
        device: of the buffers.
        dtype: of the bias.
    """

    weight: Tensor
    scales: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        activations: Activations = "int8",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_activations("activations", activations)
        if activations == "f32":
            raise ValueError("activations: expected 'int8' or 'int8_torch', got 'f32'")
        self.in_features = in_features
        self.out_features = out_features
        self.activations = activations
        shape = (out_features, in_features)
        self.register_buffer("weight", torch.zeros(shape, dtype=torch.int8, device=device))
        self.register_buffer("scales", torch.ones(out_features, dtype=torch.float32, device=device))
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)

    @property
    def train_activations(self) -> Activations:  # type: ignore[override]
        """The same as in inference."""
        return self.activations

    @classmethod
    def from_linear(cls, linear: nn.Linear, *, activations: Activations = "int8") -> Int8Linear:
        """Of the weights of an ``nn.Linear``, rounded; its bias is taken over."""
        rows, cols = linear.weight.shape
        layer = cls(cols, rows, bias=False, activations=activations, device="meta")
        layer.weight, layer.scales = quantize_rows(linear.weight)
        layer.bias = linear.bias
        return layer.train(linear.training)

    def extra_repr(self) -> str:
        """The arguments."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, activations={self.activations!r}"
        )

    def to_native(self) -> native.Linear:
        """There is none: it is no ternary layer."""
        raise TypeError("Int8Linear: a tritgemm.Linear has ternary weights")

    def ternary_nonzero_mask(self) -> Tensor:
        """Which weights are not zero: bool [out_features, in_features]."""
        return self.weight != 0

    def _sources(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self.weight, self.scales, self.bias

    def _kind(self) -> str:
        return "int8"


class Int8Embedding(nn.Module):
    """An embedding of int8 values with one scale a row: ``weight`` (int8 [num, dim]) and
    ``scales`` (float32 [num]) are its state dict. The result has the dtype `dtype`.

    Args:
        num_embeddings: how many there are.
        embedding_dim: how long each is.
        dtype: of the result.
        device: of the buffers.
    """

    weight: Tensor
    scales: Tensor

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.dtype = dtype
        shape = (num_embeddings, embedding_dim)
        self.register_buffer("weight", torch.zeros(shape, dtype=torch.int8, device=device))
        self.register_buffer("scales", torch.ones(num_embeddings, dtype=torch.float32, device=device))

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding) -> Int8Embedding:
        """Of the rows of an ``nn.Embedding``, rounded."""
        rows, cols = embedding.weight.shape
        made = cls(rows, cols, dtype=embedding.weight.dtype, device="meta")
        made.weight, made.scales = quantize_rows(embedding.weight)
        return made.train(embedding.training)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        scales = self.scales
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call,unused-ignore]
        keep_float32(self, scales)
        return self

    def forward(self, indices: Tensor) -> Tensor:
        """``indices`` [...] to [..., embedding_dim]."""
        rows = nn.functional.embedding(indices, self.weight).float()
        return rows.mul_(nn.functional.embedding(indices, self.scales[:, None])).to(self.dtype)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{self.num_embeddings}, {self.embedding_dim}, dtype={self.dtype}"
