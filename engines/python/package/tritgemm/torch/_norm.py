"""RMSNorm on the kernels' own arithmetic."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .. import _tritgemm as native
from ._layer import HAS_OPERATORS, is_transformed
from ._product import DTYPES, array, asks_for_gradients, at, first_order, in_memory, matrix, vector


def _forward(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    dtype = x.dtype
    x, gain = in_memory(x if dtype in DTYPES else x.float()), in_memory(gain.float())
    y = x.new_empty(x.shape)
    given = DTYPES[x.dtype], at(x), math.prod(x.shape[:-1])
    native._rms_norm(at(gain), eps, gain.shape[0], *given, at(y))
    return y if y.dtype == dtype else y.to(dtype)


def _backward(grad_y: Tensor, x: Tensor, gain: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    cols = gain.shape[0]
    grads = native.rms_norm_backward(
        array(matrix(x, cols)), array(matrix(grad_y, cols)), vector(gain), eps
    )
    grad_x, grad_gain = map(torch.from_numpy, grads)
    return grad_x.view(x.shape).to(x.dtype), grad_gain.to(gain.dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, gain)
        ctx.eps = eps
        return _forward(x, gain, eps)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, gain = ctx.saved_tensors
        return *_backward(grad_y, x, gain, ctx.eps), None


class RMSNorm(nn.Module):
    """RMSNorm (arXiv:1910.07467): ``x / sqrt(mean(x^2) + eps) * weight`` over the last
    dimension. Before a linear layer it is BitNet's SubLN:
    ``nn.Sequential(RMSNorm(k), BitLinear(k, m))``.

    The mean is summed in float64, in an order that depends on the number of features alone,
    and the rest computed in float32: the bits do not depend on the instruction set, on threads
    or on other tokens. The result has the dtype of the input. On the CPU alone.

    Args:
        features: K.
        eps: what is added to the mean.
        device: of the gain ``weight`` [features], ones at first.
        dtype: of the gain.
    """

    def __init__(
        self,
        features: int,
        eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., features] to the same shape."""
        gain = self.weight
        if not (x.is_cpu and gain.is_cpu):
            name, other = ("weight", gain) if x.is_cpu else ("x", x)
            raise native.TritgemmError(
                f"{name}: expected a tensor on the CPU, got one on {other.device}"
            )
        if not x.is_floating_point():
            raise TypeError(f"x: expected a floating-point tensor, got {x.dtype}")
        if x.dim() == 0 or x.shape[-1] != gain.shape[0]:
            raise native.ShapeError(f"x: expected [..., {gain.shape[0]}], got {list(x.shape)}")
        if is_transformed(self, x, gain) and HAS_OPERATORS:
            y: Tensor = torch.ops.tritgemm.rms_norm(x, gain, self.eps)
            return y
        if asks_for_gradients(x, gain):
            return _RMSNorm.apply(x, gain, self.eps)  # type: ignore[no-any-return,no-untyped-call,unused-ignore]
        return _forward(x, gain, self.eps)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{self.weight.shape[0]}, eps={self.eps}"


if not HAS_OPERATORS:
    RMSNorm.forward = torch.compiler.disable(RMSNorm.forward)  # type: ignore[method-assign,no-untyped-call,unused-ignore]
else:
    from torch.library import custom_op, register_autograd, register_fake, register_vmap

    from ._operators import rows_of_all

    _norm = custom_op(
        "tritgemm::rms_norm",
        _forward,
        mutates_args=(),
        schema="(Tensor x, Tensor gain, float eps) -> Tensor",
    )
    _norm_backward = custom_op(
        "tritgemm::rms_norm_backward",
        _backward,
        mutates_args=(),
        schema="(Tensor grad_y, Tensor x, Tensor gain, float eps) -> (Tensor, Tensor)",
    )
    register_fake("tritgemm::rms_norm", lambda x, gain, eps: x.new_empty(x.shape))
    register_fake(
        "tritgemm::rms_norm_backward",
        lambda grad_y, x, gain, eps: (x.new_empty(x.shape), gain.new_empty(gain.shape)),
    )

    def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, gain, ctx.eps = inputs
        ctx.save_for_backward(x, gain)

    def _of_operator(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        return *_norm_backward(grad_y, *ctx.saved_tensors, ctx.eps), None

    register_autograd("tritgemm::rms_norm", _of_operator, setup_context=_setup)
    register_vmap("tritgemm::rms_norm", partial(rows_of_all, _norm))
