"""What ternary layers have in common: when they pack, and which way a call takes."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .. import _tritgemm as native
from ._product import Activations, Ternary, TernaryLinear, array, asks_for_gradients, dense, vector

if TYPE_CHECKING:
    from ._int8 import Int8Weights

HAS_OPERATORS = hasattr(torch.library, "custom_op")

# Steps of fused optimizers so far: their kernels change parameters without
# counting the parameters' versions up.
_fused_steps = 0


def _count_fused_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    global _fused_steps
    if any(group.get("fused") for group in optimizer.param_groups):
        _fused_steps += 1


register_optimizer_step_post_hook(_count_fused_step)

# Layers by their numbers. Operators take a number and the weights: a graph that outlives its
# layer, or is loaded by another process, packs them at every call.
_numbers = itertools.count()
_layers: weakref.WeakValueDictionary[int, TernaryLayer] = weakref.WeakValueDictionary()


def pack(
    weight: Tensor,
    scales: Tensor | None,
    kind: str,
    cols: int,
    key: tuple[Any, ...] = (),
    explicit: bool = False,
) -> Ternary | Int8Weights:
    """Latent weights [M, K], or packed ones [M, ceil(K/4)] with their scales. `kind` is their
    granularity, and "+2:4" if latent ones are made sparse; or "int8" for [M, K] of that."""
    if weight.device.type != "cpu":
        raise native.TritgemmError(
            f"weight: expected a tensor on the CPU, got one on {weight.device}"
        )
    if is_traceable_wrapper_subclass(weight):
        raise TypeError(
            f"weight: expected a plain tensor, got a {type(weight.data).__name__}; load the whole"
            " state dict of a sharded model into one that is not"
        )
    if kind == "int8" and scales is not None:
        from ._int8 import Int8Weights

        return Int8Weights.of(weight, scales, key, explicit)
    name, _, sparsity = kind.partition("+")
    granularity: Any = int(name) if name.isdigit() else name
    if scales is None:
        packed = native.Packed.quantize(
            dense(weight),
            granularity,
            sparsity="2:4" if sparsity else None,
            keep_ternary=True,
        )
        return Ternary(packed, key, (weight.detach(),), explicit)
    group: Any = granularity if isinstance(granularity, int) else None
    # One number for all rows, whatever M is.
    values: Any = scales.item() if name == "tensor" else array(scales.contiguous())
    packed = native.Packed.from_packed(array(weight.contiguous()), cols, values, group=group)
    return Ternary(packed, key, (weight.detach(), scales.detach()), explicit)


def ternary_of(
    weight: Tensor, scales: Tensor | None, kind: str, cols: int, number: Tensor
) -> Ternary | Int8Weights:
    """What an operator multiplies by."""
    owner = _layers.get(int(number))
    if owner is None or owner._kind() != kind or owner.in_features != cols:
        return pack(weight, scales, kind, cols)
    return owner._packed_now(weight, scales)


def is_transformed(layer: nn.Module, x: Tensor, *parameters: Tensor | None) -> bool:
    """Whether torch looks at the operators of a call, and not at their values alone.

    Raises:
        NotImplementedError: if it asks for derivatives that the layer does not have.
    """
    compiling = torch.compiler.is_compiling()
    mapped = not compiling and torch._C._functorch.peek_interpreter_stack() is not None
    if forward_ad._current_level >= 0:
        # Tangents of tensors that are compiled or mapped cannot be seen.
        if compiling or mapped or _has_tangent(x, *parameters):
            raise NotImplementedError(
                f"{type(layer).__name__}: expected no forward-mode differentiation, which it does"
                " not have; use torch.autograd.grad, or torch.autograd.functional.jacobian"
            )
    if compiling or torch._C._get_tracing_state() is not None:
        return True
    if mapped:
        if asks_for_gradients(x, *parameters):
            raise NotImplementedError(
                f"{type(layer).__name__}: torch.func takes no gradients of it, and torch.vmap none"
                " of what asks for them; use torch.autograd, or torch.no_grad"
            )
        return True
    dispatched: bool = (
        torch._C._len_torch_dispatch_stack() > 0
        or type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__
    )
    return dispatched


def _has_tangent(*tensors: Tensor | None) -> bool:
    return any(
        tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call,unused-ignore]
        for tensor in tensors
    )


def _key_of(tensor: Tensor) -> tuple[Any, ...]:
    """What changes when its values do; first, whether that can be relied upon: tensors of
    inference mode count no versions."""
    counted = not tensor.is_inference()
    version = tensor._version if counted else None
    fused = _fused_steps if tensor.requires_grad else 0
    return counted, version, fused, tensor.data_ptr(), tensor.dtype, tensor.shape


def keep_float32(module: nn.Module, scales: Tensor | None) -> None:
    """Puts back `scales` of a module that were float32, wherever they are now."""
    now = module._buffers.get("scales")
    if scales is not None and now is not None and now.dtype != scales.dtype:
        module._buffers["scales"] = scales.to(now.device)


class TernaryLayer(nn.Module):
    """The base of :class:`BitLinear`, :class:`PackedLinear` and :class:`Int8Linear`."""

    in_features: int
    out_features: int
    #: What it does with activations where no gradient is asked for.
    activations: Activations
    #: And where one is.
    train_activations: Activations
    # Whether latent weights are made 2:4 sparse.
    nm_2_4 = False

    def __init__(self) -> None:
        super().__init__()
        self._ternary: Ternary | Int8Weights | None = None
        self._enter()

    def __setattr__(self, name: str, value: Any) -> None:
        # FSDP sets the gathered weights before every pass, at an address and with a version
        # that other weights may have had before.
        if name == "weight":
            self.__dict__["_ternary"] = None
        super().__setattr__(name, value)

    def _sources(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Weights, the scales of packed ones, and the bias."""
        raise NotImplementedError

    def _kind(self) -> str:
        """See pack."""
        raise NotImplementedError

    def _group(self) -> str | None:
        """The weights along K that share a scale, if not all of a row do."""
        name = self._kind().partition("+")[0]
        return name if name.isdigit() else None

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in_features] to [..., out_features]."""
        # Read once a pass: a parametrized weight is computed anew at every reading.
        weight, scales, bias = self._sources()
        self._check(x)
        gradients = asks_for_gradients(x, weight, bias)
        path = self.train_activations if gradients else self.activations
        if is_transformed(self, x, weight, bias) and HAS_OPERATORS:
            operator = torch.ops.tritgemm.linear
            y: Tensor = operator(x, weight, scales, bias, self._kind(), path, self._number)
            return y
        ternary = self._packed_now(weight, scales)
        if gradients:
            return TernaryLinear.apply(x, weight, bias, ternary, self.nm_2_4, path)  # type: ignore[no-any-return,no-untyped-call,unused-ignore]
        return ternary.product(x, bias, path)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # Conversions of a model's dtype leave packed scales alone.
        scales = self._buffers.get("scales")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call,unused-ignore]
        keep_float32(self, scales)
        return self

    def prepare_for_inference(self) -> Any:
        """Packs the weights now rather than in the next pass; returns self."""
        weight, scales, _ = self._sources()
        self._packed_now(weight, scales, explicit=True)
        return self

    def invalidate_packed(self) -> None:
        """Drops the packed weights; the next pass packs them anew."""
        self._ternary = None

    def ternary_nonzero_mask(self) -> Tensor:
        """Which ternary weights are not zero: bool [out_features, in_features]."""
        weight, scales, _ = self._sources()
        return torch.from_numpy(self._ternary_now(weight, scales).packed.to_trits()) != 0

    def to_native(self) -> native.Linear:
        """The packed layer without torch: it can be saved as a panel file, and
        does not see later changes."""
        weight, scales, bias = self._sources()
        return native.Linear(self._ternary_now(weight, scales).packed, vector(bias))

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

    def _check(self, x: Tensor) -> None:
        if not x.is_cpu:
            raise native.TritgemmError(f"x: expected a tensor on the CPU, got one on {x.device}")
        if not x.is_floating_point():
            raise TypeError(f"x: expected a floating-point tensor, got {x.dtype}")
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise native.ShapeError(
                f"x: expected [..., {self.in_features}], got {list(x.shape)}"
            )

    def _packed_now(
        self, weight: Tensor, scales: Tensor | None, *, explicit: bool = False
    ) -> Ternary | Int8Weights:
        """The packed form of what are this layer's own weights."""
        key = (*_key_of(weight), self.nm_2_4)
        if scales is not None:
            of_scales = _key_of(scales)
            key = (key[0] and of_scales[0], *key[1:], *of_scales)
        ternary = self._ternary
        if ternary is not None and ternary.key == key and not (explicit and not key[0]):
            if key[0] or ternary.explicit:
                return ternary
        self._ternary = pack(weight, scales, self._kind(), self.in_features, key, explicit)
        return self._ternary


    def _ternary_now(self, weight: Tensor, scales: Tensor | None) -> Ternary:
        """The same of a layer that is ternary."""
        ternary = self._packed_now(weight, scales)
        if not isinstance(ternary, Ternary):
            raise TypeError(f"{type(self).__name__}: expected a layer of ternary weights")
        return ternary


if not HAS_OPERATORS:
    TernaryLayer.forward = torch.compiler.disable(TernaryLayer.forward)  # type: ignore[method-assign,no-untyped-call,unused-ignore]
