"""The operators that layers are while torch compiles, exports, traces or maps."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op, register_autograd, register_fake, register_vmap

from ._layer import ternary_of
from ._product import matrix, quantized, restored


@custom_op(
    "tritgemm::linear",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? scales, Tensor? bias, str kind, str activations,"
    " Tensor layer) -> Tensor",
)
def linear(
    x: Tensor,
    weight: Tensor,
    scales: Tensor | None,
    bias: Tensor | None,
    kind: str,
    activations: str,
    layer: Tensor,
) -> Tensor:
    """The product of a layer."""
    ternary = ternary_of(weight, scales, kind, x.shape[-1], layer)
    return ternary.product(x, bias, activations)


@custom_op(
    "tritgemm::linear_input_gradient",
    mutates_args=(),
    schema="(Tensor grad, Tensor weight, Tensor? scales, str kind, int cols, Tensor layer)"
    " -> Tensor",
)
def input_gradient(
    grad: Tensor, weight: Tensor, scales: Tensor | None, kind: str, cols: int, layer: Tensor
) -> Tensor:
    """[..., M] to float32 [..., K]."""
    ternary = ternary_of(weight, scales, kind, cols, layer)
    return ternary.input_gradient(matrix(grad, ternary.rows)).view(*grad.shape[:-1], cols)


@custom_op(
    "tritgemm::linear_weight_gradient",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor weight, str kind, str activations, Tensor layer)"
    " -> Tensor",
)
def weight_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, kind: str, activations: str, layer: Tensor
) -> Tensor:
    """[..., M] and [..., K] to [M, K], in the dtype of the latent weights."""
    rows, cols = weight.shape
    inputs = matrix(x, cols)
    if activations != "f32":
        inputs = restored(*map(torch.from_numpy, quantized(inputs, activations)))
    dense = matrix(grad, rows).t() @ inputs
    ternary = ternary_of(weight, None, kind, cols, layer)
    return ternary.close_gate(dense, weight, kind.endswith("+2:4")).to(weight.dtype)


def _fake_linear(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _fake_input_gradient(
    grad: Tensor, weight: Tensor, scales: Any, kind: str, cols: int, layer: Tensor
) -> Tensor:
    return grad.new_empty((*grad.shape[:-1], cols), dtype=torch.float32)


def _fake_weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return weight.new_empty(weight.shape)


register_fake("tritgemm::linear", _fake_linear)
register_fake("tritgemm::linear_input_gradient", _fake_input_gradient)
register_fake("tritgemm::linear_weight_gradient", _fake_weight_gradient)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, scales, bias, ctx.kind, ctx.activations, layer = inputs
    needed = x if ctx.needs_input_grad[1] else None
    ctx.save_for_backward(needed, weight, scales, layer)
    ctx.x_dtype, ctx.cols = x.dtype, x.shape[-1]
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, scales, layer = ctx.saved_tensors
    grad_x = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x = input_gradient(grad_y, weight, scales, ctx.kind, ctx.cols, layer).to(ctx.x_dtype)
    if ctx.needs_input_grad[1]:
        grad_weight = weight_gradient(grad_y, x, weight, ctx.kind, ctx.activations, layer)
    if ctx.needs_input_grad[3]:
        grad_bias = matrix(grad_y, weight.shape[0]).sum(0).to(ctx.bias_dtype)
    return grad_x, grad_weight, None, grad_bias, None, None, None


register_autograd("tritgemm::linear", _backward, setup_context=_setup)


def rows_of_all(operator: Any, info: Any, in_dims: Any, x: Tensor, *rest: Any) -> Any:
    """What torch.vmap does with an operator on rows: all of the mapped ones in one call."""
    if any(dim is not None for dim in in_dims[1:]):
        raise NotImplementedError("tritgemm: vmap over weights or biases")
    return operator(x.movedim(in_dims[0], 0), *rest), 0


for _operator in (linear, input_gradient):
    register_vmap(_operator, partial(rows_of_all, _operator))
