"""Products of packed weights with tensors, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from .. import _tritgemm as native

#: What a layer does with activations: nothing; int8, one scale a token; the same with the
#: scales that torch computes from ``127 / absmax`` in float32, as transformers'
#: ``AutoBitLinear`` does.
Activations = Literal["f32", "int8", "int8_torch"]

#: What a scale of the weights covers: all, a row, or so many along K.
Granularity = Literal["tensor", "row", 32, 64, 128, 256]


def check_activations(name: str, activations: str) -> None:
    """A ValueError unless it is one of :data:`Activations`."""
    if activations not in get_args(Activations):
        raise ValueError(
            f"{name}: expected 'f32', 'int8' or 'int8_torch', got {activations!r}"
        )


def check_granularity(granularity: object) -> None:
    """A ValueError unless it is one of :data:`Granularity`."""
    if granularity not in get_args(Granularity):
        raise ValueError(
            f"granularity: expected 'tensor', 'row', 32, 64, 128 or 256, got {granularity!r}"
        )


def array(tensor: Tensor) -> Any:
    """The tensor as a numpy array that shares its memory."""
    return tensor.detach().numpy()


#: The types that the kernels take and give, by their names.
DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def in_memory(tensor: Tensor) -> Tensor:
    """The tensor with one element after the other at its address; a copy only where it must
    be. On the CPU alone."""
    if not tensor.is_cpu:
        raise native.TritgemmError(f"expected a tensor on the CPU, got one on {tensor.device}")
    return (tensor.resolve_neg() if tensor.is_neg() else tensor).contiguous()


def dense(parameter: Tensor) -> Any:
    """A parameter as a dense float32 array, which shares its memory if it can. By DLPack: a
    tensor that gave an array by ``numpy()`` cannot be resized any more, as FSDP does."""
    return np.from_dlpack(in_memory(parameter.detach().float()))


def vector(bias: Tensor | None) -> Any:
    """A bias as a dense float32 array."""
    return None if bias is None else dense(bias)


def at(tensor: Tensor) -> tuple[int, int]:
    """Its address and how many elements it has. Whoever uses it has to hold the tensor."""
    return tensor.data_ptr(), tensor.numel()


def matrix(tensor: Tensor, cols: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The tensor as a dense [N, cols] matrix; a copy only where it must be."""
    rows = math.prod(tensor.shape[:-1])
    return tensor.detach().reshape(rows, cols).to(dtype).contiguous()


def quantized(x: Tensor, path: str) -> tuple[Any, Any]:
    """The int8 values [N, K] and scales [N] of a dense matrix, as arrays."""
    return native.quantize_activations(array(x), as_torch=path == "int8_torch")


def restored(values: Tensor, scales: Tensor) -> Tensor:
    """The float32 activations that int8 values stand for."""
    return values.float().mul_(scales[:, None])


def asks_for_gradients(*tensors: Tensor | None) -> bool:
    """Whether autograd has to know of what is computed from them."""
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )


@dataclass
class Ternary:
    """Packed weights, as the tensors that they were made from were at one version."""

    packed: native.Packed
    #: What the tensors were known by: see TernaryLayer.
    key: tuple[Any, ...]
    #: Keep their memory from being used again, so that the addresses in the key are theirs
    #: alone.
    sources: tuple[Tensor, ...]
    #: Whether prepare_for_inference asked for it.
    explicit: bool
    #: [K, M]: made when a backward pass needs it.
    transposed: native.Packed | None = None

    def __post_init__(self) -> None:
        self.rows, self.cols = self.packed.shape
        granularity = self.packed.granularity
        self.group = granularity if isinstance(granularity, int) else None

    def product(self, x: Tensor, bias: Tensor | None, path: str) -> Tensor:
        """Without gradients: [..., K] to [..., M], in x's dtype."""
        dtype = x.dtype
        if path == "f32" or dtype not in DTYPES:
            x = x.float()
        x = in_memory(x)
        leading = x.shape[:-1]
        y = x.new_empty((*leading, self.rows))
        given = path, DTYPES[x.dtype], at(x), math.prod(leading)
        offset = None if bias is None else in_memory(bias.float())
        native._forward(self.packed, None if offset is None else at(offset), *given, at(y))
        return y if y.dtype == dtype else y.to(dtype)

    def product_of_int8(self, values: Any, scales: Any, bias: Tensor | None) -> Tensor:
        """Of int8 arrays [N, K] and [N] to float32 [N, M]: the bits of an int8 path."""
        x = native.PreparedActivations.from_int8(values, scales, group=self.group)
        return torch.from_numpy(native.linear(x, self.packed, vector(bias)))

    def close_gate(self, gradient: Tensor, weight: Tensor, sparse: bool) -> Tensor:
        """Takes the gradient [M, K] from weights beyond the clamp, in place: |w| >= alpha,
        and what 2:4 sparsity dropped."""
        self.packed.close_gate(array(gradient), dense(weight), sparse=sparse)
        return gradient

    def input_gradient(self, grad: Tensor) -> Tensor:
        """Dense [N, M] to [N, K]: on the kernels, but for groups along K, whose scales are
        none of a row of the transposed weights."""
        if self.group is not None:
            return grad @ torch.from_numpy(self.packed.dequantize())
        one = self.packed.granularity == "tensor"
        if self.transposed is None:
            self.transposed = self.packed.transpose(scaled=one)
        scaled = grad if one else grad * torch.from_numpy(self.packed.scales)
        return torch.from_numpy(native.linear(array(scaled), self.transposed))


class _NoSecondDerivatives(torch.autograd.Function):
    """Gradients [0:count] of what they were computed from, the rest, as they are."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The gradients."""
        return tuple(tensor.detach() for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        """None."""
        raise NotImplementedError(
            "tritgemm: its layers have no second derivatives, as jvp, hvp and hessian of"
            " torch.autograd.functional take them"
        )


def first_order(backward: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., Any]:
    """A backward whose gradients say so when they are differentiated in turn. torch's
    once_differentiable says it only of a graph that leads to the gradients' inputs, and
    ``torch.autograd.functional.jvp`` made zeros of that."""

    @wraps(backward)
    def differentiated(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            grads = backward(ctx, grad_y)
        if not torch.is_grad_enabled():
            return grads
        given = [grad for grad in grads if grad is not None]
        sources = [tensor for tensor in ctx.saved_tensors if tensor is not None]
        tied = iter(_NoSecondDerivatives.apply(len(given), *given, grad_y, *sources))  # type: ignore[no-untyped-call,unused-ignore]
        return tuple(None if grad is None else next(tied) for grad in grads)

    return differentiated


class TernaryLinear(torch.autograd.Function):
    """The product, with the straight-through estimator's gradient (Bengio et al.,
    arXiv:1308.3432): rounding, of weights and of activations, counts as the identity, the
    clamp as what it is, scales as constants."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ternary: Ternary,
        sparse: bool,
        path: str,
    ) -> Tensor:
        """[..., K] to [..., M]."""
        rows = matrix(x, ternary.cols)
        # Only what the gradient of the weights needs of x.
        kept: tuple[Tensor | None, ...] = (None, None)
        if ctx.needs_input_grad[1] and path != "f32":
            values, scales = quantized(rows, path)
            y = ternary.product_of_int8(values, scales, bias)
            kept = (torch.from_numpy(values), torch.from_numpy(scales))
        else:
            y = ternary.product(rows, bias, path)
            if ctx.needs_input_grad[1]:
                kept = (rows, None)
        ctx.save_for_backward(*kept, weight)
        ctx.ternary, ctx.sparse, ctx.x_like = ternary, sparse, (x.shape, x.dtype)
        ctx.bias_dtype = None if bias is None else bias.dtype
        # No view: in-place operations on one would drop what FSDP hangs on its gradient.
        return y.view(*x.shape[:-1], ternary.rows).to(x.dtype).detach()

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        """Those of x, of the latent weights and of the bias."""
        x, scales, weight = ctx.saved_tensors
        ternary: Ternary = ctx.ternary
        grad = matrix(grad_y, ternary.rows)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            shape, dtype = ctx.x_like
            grad_x = ternary.input_gradient(grad).view(shape).to(dtype)
        if ctx.needs_input_grad[1]:
            inputs = x if scales is None else restored(x, scales)
            gated = ternary.close_gate(grad.t() @ inputs, weight, ctx.sparse)
            grad_weight = gated.to(weight.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(0).to(ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias, None, None, None
