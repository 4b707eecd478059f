"""Ternary linear layers without latent weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import _tritgemm as native
from ._layer import TernaryLayer, is_transformed
from ._product import (
    Activations,
    Granularity,
    array,
    asks_for_gradients,
    check_activations,
    check_granularity,
    matrix,
    quantized,
    vector,
)

LinearClass = Literal["bitlinear", "autobitlinear"]


class PackedLinear(TernaryLayer):
    """A linear layer of ternary weights at 2 bits each, for inference and for training
    around it: the gradient of its input and of its bias is there, its weights have none.

    Its state dict is ``weight``, uint8 [out_features, ceil(in_features / 4)] (see
    :func:`tritgemm.pack`), ``scales``, float32 [1], [out_features] or [out_features,
    ceil(in_features / group)], and ``bias`` [out_features]. They load strictly, by
    ``assign=True`` and from safetensors. Conversions of a model's dtype leave the scales in
    float32.

    The kernels read panels, another order of the same bytes: they are made from ``weight``,
    without a copy in between, when first needed and after it has changed. Both stay: 4 bits a
    weight, 2 of which are not read again, and cost no memory if they are mapped from a file.

    Args:
        in_features: K.
        out_features: M.
        bias: whether there is one.
        granularity: what a scale covers: ``"tensor"``, ``"row"``, or 32, 64, 128 or 256
            weights along K.
        activations: as in :class:`BitLinear`, and the same where a gradient is asked for.
        device: of the buffers; computing needs the CPU.
        dtype: of the bias.

    A new one has zeros for weights: load its state, or make it by :meth:`from_native`,
    :meth:`from_linear` or :meth:`from_hf`.
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
        granularity: Granularity = "tensor",
        activations: Activations = "int8",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_granularity(granularity)
        check_activations("activations", activations)
        self.in_features = in_features
        self.out_features = out_features
        self.granularity: Granularity = granularity
        self.activations = activations
        shape: tuple[int, ...] = (1,) if granularity == "tensor" else (out_features,)
        if isinstance(granularity, int):
            shape = (out_features, -(-in_features // granularity))
        packed = (out_features, -(-in_features // 4))
        self.register_buffer("weight", torch.zeros(packed, dtype=torch.uint8, device=device))
        self.register_buffer("scales", torch.ones(shape, device=device, dtype=torch.float32))
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)

    @property
    def train_activations(self) -> Activations:  # type: ignore[override]
        """The same as in inference."""
        return self.activations

    @classmethod
    def from_native(
        cls,
        linear: native.Linear | native.Packed,
        bias: Tensor | None = None,
        *,
        activations: Activations = "int8",
    ) -> PackedLinear:
        """Of packed weights, as those of :class:`tritgemm.Model`. `bias` is taken over as it
        is, or else that of a ``tritgemm.Linear``."""
        if isinstance(linear, native.Linear):
            packed = linear.weights
            own = linear.bias
            if bias is None and own is not None:
                bias = torch.from_numpy(own)
        else:
            packed = linear
        rows, cols = packed.shape
        layer = cls(
            cols,
            rows,
            bias=False,
            granularity=packed.granularity,
            activations=activations,
            device="meta",
        )
        layer.weight = torch.from_numpy(packed.to_packed())
        layer.scales = torch.from_numpy(packed.scales)
        if bias is not None:
            if not isinstance(bias, nn.Parameter):
                bias = nn.Parameter(bias, requires_grad=False)
            layer.bias = bias
        return layer

    @classmethod
    def from_linear(
        cls, linear: nn.Linear | TernaryLayer, *, activations: Activations | None = None
    ) -> PackedLinear:
        """Of a :class:`BitLinear` and as it computes without gradients, or of an
        ``nn.Linear`` whose weights are ternary: zeros and one magnitude for each scale, of
        which there are as few as that takes.

        Raises:
            tritgemm.QuantizationError: if the weights of an ``nn.Linear`` are others.
        """
        if isinstance(linear, TernaryLayer):
            weight, scales, bias = linear._sources()
            packed = linear._ternary_now(weight, scales).packed
            return cls.from_native(
                packed, bias, activations=activations or linear.activations
            ).train(linear.training)
        found = native.Packed.from_ternary(array(linear.weight.float().contiguous()))
        if found is None:
            raise native.QuantizationError(
                "linear: its weights are not ternary; use BitLinear, which quantises them"
            )
        layer = cls.from_native(found, linear.bias, activations=activations or "int8")
        return layer.train(linear.training)

    @classmethod
    def from_hf(
        cls,
        weight: Tensor,
        weight_scale: Tensor | float,
        linear_class: LinearClass = "bitlinear",
        bias: Tensor | None = None,
        *,
        rows: int | None = None,
        activations: Activations = "int8_torch",
    ) -> PackedLinear:
        """Of a Hugging Face BitNet layer: `weight` uint8 [ceil(M / 4), K] and its
        `weight_scale`, by which ``"bitlinear"`` divides outputs and ``"autobitlinear"``
        multiplies them. `rows` is M where that is no multiple of 4. The activations become
        the int8 values that transformers computes in float32."""
        packed = native.Packed.from_hf(
            array(weight.contiguous()), float(weight_scale), linear_class, rows=rows
        )
        return cls.from_native(packed, bias, activations=activations)

    def to_hf(
        self,
        linear_class: LinearClass = "bitlinear",
        dtype: torch.dtype = torch.float32,
        *,
        exact: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """``weight`` and ``weight_scale`` as :meth:`from_hf` takes them.

        Args:
            linear_class: what the scale is for.
            dtype: of the scale, float32, float16 or bfloat16.
            exact: whether a scale that the dtype has no equal for is an error, rather than
                rounded to the nearest.

        Raises:
            tritgemm.TritgemmError: if the layer has more than one scale, or none that fits.
        """
        packed = self._ternary_now(self.weight, self.scales).packed
        name: Any = str(dtype).removeprefix("torch.")
        weight, scale = packed.to_hf(linear_class, name, exact=exact)
        return torch.from_numpy(weight), torch.tensor([scale], dtype=dtype)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)  # type: ignore[no-untyped-call,unused-ignore]
        # By assign=True they are those of the state, of whatever dtype.
        self.scales = self.scales.float()

    def extra_repr(self) -> str:
        """The arguments."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, granularity={self.granularity!r}, "
            f"activations={self.activations!r}"
        )

    def _sources(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        # Past nn.Module's attributes, which take a microsecond.
        buffers = self._buffers
        return buffers["weight"], buffers["scales"], self._parameters["bias"]  # type: ignore[return-value,unused-ignore]

    def _kind(self) -> str:
        return str(self.granularity)


class LinearStack(nn.Module):
    """Layers on one input, as Q, K and V, or gate and up, have: made by :func:`stack`. The
    activations are prepared once, and threads share the rows of all layers in one loop. The
    bits are those of the layers, one by one.

    Where a gradient is asked for, and while torch compiles or exports, they are called one
    by one.
    """

    def __init__(self, layers: Iterable[TernaryLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        for layer in self.layers:
            ternary = isinstance(layer, TernaryLayer) and layer._kind() != "int8"
            # One with a forward of its own does more than the product.
            if not ternary or type(layer).forward is not TernaryLayer.forward:
                raise TypeError(
                    f"layers: expected BitLinear and PackedLinear, got {type(layer).__name__}"
                )
        self._common()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """``x`` [..., in_features] to [..., out_features] of each layer."""
        layers = self._layers()
        sources = [layer._sources() for layer in layers]
        tensors = [tensor for source in sources for tensor in source]
        if asks_for_gradients(x, *tensors) or is_transformed(self, x, *tensors):
            return tuple(layer(x) for layer in layers)
        activations = self._common()
        layers[0]._check(x)
        values = matrix(x, layers[0].in_features)
        packed = [
            layer._ternary_now(weight, scales)
            for layer, (weight, scales, _) in zip(layers, sources, strict=True)
        ]
        linears = [
            native.Linear(ternary.packed, vector(bias))
            for ternary, (_, _, bias) in zip(packed, sources, strict=True)
        ]
        if activations == "f32":
            ys = native.forward_many_f32(linears, array(values))
        elif activations == "int8":
            ys = native.forward_many_int8(linears, array(values))
        else:
            q, scales = quantized(values, activations)
            prepared = native.PreparedActivations.from_int8(q, scales, group=packed[0].group)
            ys = native.forward_many_int8(linears, prepared)
        shape, dtype = x.shape[:-1], x.dtype
        return tuple(torch.from_numpy(y).view(*shape, y.shape[-1]).to(dtype) for y in ys)

    def _layers(self) -> list[TernaryLayer]:
        return list(self.layers)  # type: ignore[arg-type,unused-ignore]

    def _common(self) -> Activations:
        """What its layers do with activations, if they can share an input."""
        layers = self._layers()
        if not layers:
            raise ValueError("layers: expected at least one, got none")
        kinds = {
            (layer.in_features, layer.activations, layer._group()) for layer in layers
        }
        if len(kinds) != 1:
            raise ValueError(
                "layers: expected one in_features, one kind of activations and one group size,"
                f" got {sorted(map(str, kinds))}"
            )
        return layers[0].activations


def stack(layers: Iterable[TernaryLayer]) -> LinearStack:
    """Layers of one input as one module, which gives a tuple of their outputs. They are used
    as they are, so what is done to one of them counts.

    Raises:
        TypeError: if one is no :class:`BitLinear` or :class:`PackedLinear`.
        ValueError: if they differ in ``in_features``, ``activations`` or group size.
    """
    return LinearStack(layers)
