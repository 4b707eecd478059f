"""A ternary ``nn.Linear`` for PyTorch, on the CPU.

:class:`BitLinear` keeps latent weights and computes with ternary ones, in
training too (BitNet b1.58, arXiv:2402.17764): ``y = alpha * (x q^T) + bias``,
where alpha is the mean magnitude of a row of ``weight`` and q its trits.
:func:`replace_linear` puts it in the place of the ``nn.Linear`` of a model.

While torch compiles, exports, traces or maps (``torch.vmap``), a layer is the operator
``tritgemm::linear``, from torch 2.4 on. The bits are those of a direct call.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim.optimizer import register_optimizer_step_post_hook

from . import _tritgemm as native

__all__ = ["BitLinear", "replace_linear"]

Activations = Literal["f32", "int8"]


# Steps of fused optimizers so far: their kernels change parameters without
# counting the parameters' versions up.
_fused_steps = 0


def _count_fused_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    global _fused_steps
    if any(group.get("fused") for group in optimizer.param_groups):
        _fused_steps += 1


register_optimizer_step_post_hook(_count_fused_step)


def _array(tensor: Tensor) -> Any:
    """The tensor as a numpy array that shares its memory."""
    return tensor.detach().numpy()


def _matrix(tensor: Tensor, cols: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The tensor as a dense [N, cols] matrix; a copy only where it must be."""
    rows = math.prod(tensor.shape[:-1])
    return tensor.detach().reshape(rows, cols).to(dtype).contiguous()


@dataclass
class _Ternary:
    """The packed form of latent weights as they were at one version."""

    packed: native.Packed
    # What the weights were known by: see BitLinear._key.
    key: tuple[Any, ...]
    # Keeps their memory from being used again, so that the address in the key
    # is theirs alone.
    latent: Tensor
    alpha: Tensor
    # Whether prepare_for_inference asked for it.
    explicit: bool
    # [K, M]: made when a backward pass needs it.
    transposed: native.Packed | None = None

    def product(
        self, x: Tensor, bias: Tensor | None, path: Activations = "f32"
    ) -> Tensor:
        """[N, K] to float32 [N, M]."""
        y = torch.empty(x.shape[0], self.packed.shape[0], dtype=torch.float32)
        vector = None if bias is None else _array(bias.float().contiguous())
        native.linear(_array(x), self.packed, vector, path, out=_array(y))
        return y

    def gate(self, weight: Tensor, sparse: bool) -> Tensor:
        """Which weights take a gradient, bool [M, K]: |w / alpha| < 1; where 2:4 sparsity
        dropped the weight, nothing."""
        gate = weight.detach().float().abs() < self.alpha[:, None]
        if sparse:
            gate &= torch.from_numpy(self.packed.to_trits()) != 0
        return gate

    def input_gradient(self, grad: Tensor) -> Tensor:
        """[N, M] to [N, K], on the kernels as well."""
        if self.transposed is None:
            self.transposed = self.packed.transpose()
        y = torch.empty(grad.shape[0], self.packed.shape[1], dtype=torch.float32)
        native.linear(_array(grad * self.alpha), self.transposed, out=_array(y))
        return y


class _TernaryLinear(torch.autograd.Function):
    """The product, with the straight-through estimator's gradient (Bengio et
    al., arXiv:1308.3432): the rounding counts as the identity, the clamp as what
    it is, alpha as a constant."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ternary: _Ternary,
        sparse: bool,
    ) -> Tensor:
        matrix = _matrix(x, weight.shape[1])
        # Only what its gradient needs: x for that of the weights.
        needed = matrix if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(needed, weight)
        ctx.ternary, ctx.sparse, ctx.x_like = ternary, sparse, (x.shape, x.dtype)
        ctx.bias_dtype = None if bias is None else bias.dtype
        y = ternary.product(matrix, bias)
        return y.view(*x.shape[:-1], weight.shape[0]).to(x.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator,unused-ignore]
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        ternary: _Ternary = ctx.ternary
        grad = _matrix(grad_y, weight.shape[0])
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            shape, dtype = ctx.x_like
            grad_x = ternary.input_gradient(grad).view(shape).to(dtype)
        if ctx.needs_input_grad[1]:
            gate = ternary.gate(weight, ctx.sparse)
            dense = grad.t() @ x
            grad_weight = torch.where(gate, dense, dense.new_zeros(())).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(0).to(ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias, None, None


def _asks_for_gradients(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )


def _inferred(
    x: Tensor, ternary: _Ternary, bias: Tensor | None, activations: Activations
) -> Tensor:
    """The product without gradients: [..., K] to [..., M], in x's dtype."""
    rows, cols = ternary.packed.shape
    # numpy has float16, which the int8 path takes as it is.
    native_half = activations == "int8" and x.dtype == torch.float16
    matrix = _matrix(x, cols, torch.float16 if native_half else torch.float32)
    y = ternary.product(matrix, bias, activations)
    return y.view(*x.shape[:-1], rows).to(x.dtype)


class BitLinear(nn.Module):
    """A linear layer with ternary weights: drop-in for ``nn.Linear``.

    ``weight`` [out_features, in_features] and ``bias`` [out_features] are its
    parameters and its state dict, as in ``nn.Linear``; ``weight`` is the latent
    one that an optimizer changes. Training and inference compute the same
    product on the same packed weights, bit for bit: 2 bits a weight, no
    multiplications but the scales. It is packed when first needed and again
    after the weights have changed.

    Args:
        in_features: K.
        out_features: M.
        bias: whether there is one.
        nm_2_4: 2:4 sparsity, at most two of every four trits along K nonzero
            (arXiv:2104.08378).
        device: of the parameters; computing needs the CPU.
        dtype: of the parameters. Arithmetic is in float32 whatever it is; the
            result has the dtype of the input.
        activations: ``"int8"`` quantises the activations, token by token, where
            no gradient is asked for (W1.58A8). With gradients, and with
            ``"f32"``, they are float32.

    A change is seen by the weight's version counter, memory, dtype and shape,
    and by the steps of fused optimizers, which the counter does not see.
    Two kinds of change leave no trace there: writing through ``weight.data`` or
    a numpy array that shares its memory, and another process writing to shared
    memory. Call :meth:`invalidate_packed` after those.
    """

    in_features: int
    out_features: int
    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        nm_2_4: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activations: Activations = "f32",
    ) -> None:
        super().__init__()
        if activations not in ("f32", "int8"):
            raise ValueError(
                f"activations: expected 'f32' or 'int8', got {activations!r}"
            )
        self.in_features = in_features
        self.out_features = out_features
        self.nm_2_4 = nm_2_4
        self.activations: Activations = activations
        self.weight = nn.Parameter(
            torch.empty(out_features, in_features, device=device, dtype=dtype)
        )
        if bias:
            self.bias = nn.Parameter(
                torch.empty(out_features, device=device, dtype=dtype)
            )
        else:
            self.register_parameter("bias", None)
        self._ternary: _Ternary | None = None
        self._enter()
        self.reset_parameters()

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        nm_2_4: bool = False,
        *,
        activations: Activations = "f32",
    ) -> BitLinear:
        """A layer that takes over the parameters of an ``nn.Linear``: the same
        objects, so that ties and optimizers keep hold of them."""
        layer = cls(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            nm_2_4=nm_2_4,
            device="meta",
            activations=activations,
        )
        # torch's own types call it a tensor.
        layer.weight = linear.weight  # type: ignore[assignment,unused-ignore]
        layer.bias = linear.bias
        return layer.train(linear.training)

    def reset_parameters(self) -> None:
        """Initialises as ``nn.Linear`` does: uniform within 1/sqrt(K)."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features > 0 else 0
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in_features] to [..., out_features]."""
        weight, bias = self.weight, self.bias
        self._check(x, weight)
        gradients = _asks_for_gradients(x, weight, bias)
        if _HAS_OPERATORS and _is_transformed(x, weight, bias):
            path = "f32" if gradients else self.activations
            operator = torch.ops.tritgemm.linear
            y: Tensor = operator(x, weight, bias, self.nm_2_4, path, self._number)
            return y
        ternary = self._packed_now(weight, explicit=False)
        if gradients:
            return _TernaryLinear.apply(x, weight, bias, ternary, self.nm_2_4)  # type: ignore[no-any-return]
        return _inferred(x, ternary, bias, self.activations)

    def prepare_for_inference(self) -> BitLinear:
        """Packs the weights now rather than in the next pass; returns self."""
        self._packed_now(self.weight, explicit=True)
        return self

    def invalidate_packed(self) -> None:
        """Drops the packed weights; the next pass packs them anew."""
        self._ternary = None

    def ternary_nonzero_mask(self) -> Tensor:
        """Which ternary weights are not zero: bool [out_features, in_features]."""
        packed = self._packed_now(self.weight, explicit=False).packed
        return torch.from_numpy(packed.to_trits()) != 0

    def to_native(self) -> native.Linear:
        """The packed layer without torch: it can be saved as a panel file, and
        does not see later changes."""
        bias = None if self.bias is None else _array(self.bias.float().contiguous())
        packed = self._packed_now(self.weight, explicit=False).packed
        return native.Linear(packed, bias)

    def extra_repr(self) -> str:
        """The arguments."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, nm_2_4={self.nm_2_4}, "
            f"activations={self.activations!r}"
        )

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles pack for themselves.
        return {**self.__dict__, "_ternary": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call,unused-ignore]
        self._enter()

    def _enter(self) -> None:
        """Takes a number, by which operators find the packed weights. It is a tensor: a
        compiled graph is for one value of anything else."""
        number = next(_numbers)
        self._number = torch.tensor(number, device="cpu")
        _layers[number] = self

    def _check(self, x: Tensor, weight: Tensor) -> None:
        for name, tensor in (("x", x), ("weight", weight)):
            if tensor.device.type != "cpu":
                raise native.TritgemmError(
                    f"{name}: expected a tensor on the CPU, got one on {tensor.device}"
                )
        if not x.is_floating_point():
            raise TypeError(f"x: expected a floating-point tensor, got {x.dtype}")
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise native.ShapeError(
                f"x: expected [..., {self.in_features}], got {list(x.shape)}"
            )

    def _key(self, weight: Tensor) -> tuple[Any, ...]:
        """What changes when the weights do; first, whether that can be relied
        upon: tensors of inference mode count no versions."""
        counted = not weight.is_inference()
        version = weight._version if counted else None
        fused = _fused_steps if weight.requires_grad else 0
        memory = (weight.data_ptr(), weight.dtype, tuple(weight.shape))
        return counted, version, fused, memory, self.nm_2_4

    def _packed_now(self, weight: Tensor, *, explicit: bool) -> _Ternary:
        """The packed form of `weight`, which is this layer's: read once a pass, since a
        parametrized one is computed anew at every reading."""
        key, ternary = self._key(weight), self._ternary
        if ternary is not None and ternary.key == key and not (explicit and not key[0]):
            if key[0] or ternary.explicit:
                return ternary
        self._ternary = _pack(weight, self.nm_2_4, key, explicit)
        return self._ternary


# Layers by their numbers. Operators take a number and the weights: a graph that outlives its
# layer, or is loaded by another process, packs them at every call.
_numbers = itertools.count()
_layers: weakref.WeakValueDictionary[int, BitLinear] = weakref.WeakValueDictionary()


def _ternary_of(weight: Tensor, nm_2_4: bool, layer: Tensor) -> _Ternary:
    owner = _layers.get(int(layer))
    if owner is None or owner.nm_2_4 != nm_2_4:
        return _pack(weight, nm_2_4)
    return owner._packed_now(weight, explicit=False)


def _is_transformed(*tensors: Tensor | None) -> bool:
    """Whether torch looks at the operators of a call, and not at their values alone."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return True
    if torch._C._functorch.peek_interpreter_stack() is None:
        return False
    if _asks_for_gradients(*tensors):
        raise NotImplementedError(
            "BitLinear: torch.func takes no gradients of it, and torch.vmap none of what asks for"
            " them; use torch.autograd, or torch.no_grad"
        )
    return True


def _define_operators() -> None:
    from torch.library import custom_op, register_autograd, register_fake, register_vmap

    @custom_op(
        "tritgemm::linear",
        mutates_args=(),
        schema="(Tensor x, Tensor weight, Tensor? bias, bool nm_2_4, str activations, Tensor layer)"
        " -> Tensor",
    )
    def linear(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        nm_2_4: bool,
        activations: Activations,
        layer: Tensor,
    ) -> Tensor:
        return _inferred(x, _ternary_of(weight, nm_2_4, layer), bias, activations)

    @custom_op(
        "tritgemm::linear_input_gradient",
        mutates_args=(),
        schema="(Tensor grad, Tensor weight, bool nm_2_4, Tensor layer) -> Tensor",
    )
    def input_gradient(grad: Tensor, weight: Tensor, nm_2_4: bool, layer: Tensor) -> Tensor:
        rows, cols = weight.shape
        ternary = _ternary_of(weight, nm_2_4, layer)
        return ternary.input_gradient(_matrix(grad, rows)).view(*grad.shape[:-1], cols)

    @custom_op(
        "tritgemm::linear_gate",
        mutates_args=(),
        schema="(Tensor weight, bool nm_2_4, Tensor layer) -> Tensor",
    )
    def gate(weight: Tensor, nm_2_4: bool, layer: Tensor) -> Tensor:
        return _ternary_of(weight, nm_2_4, layer).gate(weight, nm_2_4)

    def fake_linear(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
        return x.new_empty((*x.shape[:-1], weight.shape[0]))

    def fake_gradient(grad: Tensor, weight: Tensor, *_: Any) -> Tensor:
        shape = (*grad.shape[:-1], weight.shape[1])
        return grad.new_empty(shape, dtype=torch.float32)

    def fake_gate(weight: Tensor, *_: Any) -> Tensor:
        return torch.empty_like(weight, dtype=torch.bool)

    register_fake("tritgemm::linear", fake_linear)
    register_fake("tritgemm::linear_input_gradient", fake_gradient)
    register_fake("tritgemm::linear_gate", fake_gate)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, ctx.nm_2_4, _, layer = inputs
        needed = x if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(needed, weight, layer)
        ctx.x_dtype = x.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype

    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, layer = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        of_layer = (weight, ctx.nm_2_4, layer)
        if ctx.needs_input_grad[0]:
            grad_x = input_gradient(grad_y, *of_layer).to(ctx.x_dtype)
        grad = _matrix(grad_y, weight.shape[0])
        if ctx.needs_input_grad[1]:
            dense = grad.t() @ _matrix(x, weight.shape[1])
            zero = dense.new_zeros(())
            grad_weight = torch.where(gate(*of_layer), dense, zero).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(0).to(ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias, None, None, None

    register_autograd("tritgemm::linear", backward, setup_context=setup)

    def rows_of_all(operator: Any, info: Any, in_dims: Any, x: Tensor, *rest: Any) -> Any:
        if any(dim is not None for dim in in_dims[1:]):
            raise NotImplementedError("tritgemm: vmap over weights or biases")
        return operator(x.movedim(in_dims[0], 0), *rest), 0

    for operator in (linear, input_gradient):
        register_vmap(operator, partial(rows_of_all, operator))


_HAS_OPERATORS = hasattr(torch.library, "custom_op")
if _HAS_OPERATORS:
    _define_operators()


def _pack(
    weight: Tensor, nm_2_4: bool, key: tuple[Any, ...] = (), explicit: bool = False
) -> _Ternary:
    if weight.device.type != "cpu":
        raise native.TritgemmError(
            f"weight: expected a tensor on the CPU, got one on {weight.device}"
        )
    latent = weight.detach()
    packed = native.Packed.quantize(
        _array(latent.float().contiguous()), sparsity="2:4" if nm_2_4 else None
    )
    return _Ternary(packed, key, latent, torch.from_numpy(packed.scales), explicit)


if not _HAS_OPERATORS:
    BitLinear.forward = torch.compiler.disable(BitLinear.forward)  # type: ignore[method-assign,no-untyped-call,unused-ignore]


def _hooked(module: nn.Module) -> bool:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return any(getattr(module, name, None) for name in names)


def replace_linear(
    model: nn.Module,
    *,
    filter: Callable[[str, nn.Linear], bool] | None = None,
    exclude: Iterable[str] = (),
    nm_2_4: bool = False,
    activations: Activations = "f32",
) -> int:
    """Replaces the ``nn.Linear`` of a model by :class:`BitLinear`, in place.

    Parameters are taken over as they are: bias, dtype, ``requires_grad``, ties
    and the optimizers that hold them. A module that occurs twice is replaced by
    one. Left alone are subclasses of ``nn.Linear`` (attention's own, for one,
    whose weight is used without a call) and layers with hooks, as those of weight
    and spectral norm.

    Args:
        model: the model; not itself an ``nn.Linear``.
        filter: called with the qualified name and the layer; false keeps it.
        exclude: patterns (as of :mod:`fnmatch`) of qualified names to keep, as
            ``["lm_head", "*.router"]``.
        nm_2_4: 2:4 sparsity.
        activations: what inference does with activations.

    Returns:
        How many layers were replaced.
    """
    if type(model) is nn.Linear:
        raise TypeError(
            "model: expected a module that contains nn.Linear, got one; use BitLinear.from_linear"
        )
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    replaced: dict[nn.Module, BitLinear] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) is not nn.Linear or _hooked(module):
            continue
        if any(fnmatchcase(path, pattern) for pattern in patterns):
            continue
        if filter is not None and not filter(path, module):
            continue
        if module not in replaced:
            replaced[module] = BitLinear.from_linear(
                module, nm_2_4, activations=activations
            )
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, replaced[module])
    return len(replaced)
