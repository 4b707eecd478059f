"""A ternary linear layer that trains."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ._layer import TernaryLayer
from ._product import Activations, Granularity, check_activations, check_granularity


class BitLinear(TernaryLayer):
    """A linear layer with ternary weights: drop-in for ``nn.Linear``.

    ``y = alpha * (x q^T) + bias``, where alpha is the mean magnitude of the weights that a
    scale covers (at least 1e-5) and q the trits: ``weight / alpha``, clamped to -1..1 and
    rounded half to even. Weights that are ternary already, zeros and one magnitude for each
    scale, keep that magnitude: a trained ternary network stays what it is.

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
            result has the dtype of the input, under ``torch.autocast`` too.
        granularity: what a scale covers: ``"row"``, ``"tensor"`` (BitNet b1.58's own), or 32,
            64, 128 or 256 weights along K. With groups, the gradient of the input is a dense
            product.
        activations: ``"int8"`` quantises the activations, token by token, where
            no gradient is asked for (W1.58A8); ``"int8_torch"`` does so with the scales that
            torch computes. With ``"f32"`` they are as they are.
        train_activations: the same where a gradient is asked for. The rounding counts as the
            identity in the gradient (straight through).

    A change is seen by the weight's version counter, memory, dtype and shape,
    and by the steps of fused optimizers, which the counter does not see.
    Three kinds of change leave no trace there: writing through ``weight.data`` or
    a numpy array that shares its memory, another process writing to shared
    memory, and a fused kernel that no ``torch.optim.Optimizer`` runs (as
    ``torch.optim.adamw.adamw(fused=True)`` called as a function), or that one runs
    while the weight's ``requires_grad`` is false. Call :meth:`invalidate_packed` after
    those.
    """

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
        granularity: Granularity = "row",
        activations: Activations = "f32",
        train_activations: Activations = "f32",
    ) -> None:
        super().__init__()
        check_granularity(granularity)
        check_activations("activations", activations)
        check_activations("train_activations", train_activations)
        self.in_features = in_features
        self.out_features = out_features
        self.nm_2_4 = nm_2_4
        self.granularity: Granularity = granularity
        self.activations = activations
        self.train_activations = train_activations
        self.weight = nn.Parameter(
            torch.empty(out_features, in_features, device=device, dtype=dtype)
        )
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        nm_2_4: bool = False,
        *,
        granularity: Granularity = "row",
        activations: Activations = "f32",
        train_activations: Activations = "f32",
    ) -> BitLinear:
        """A layer that takes over the parameters of an ``nn.Linear``: the same
        objects, so that ties and optimizers keep hold of them."""
        layer = cls(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            nm_2_4=nm_2_4,
            device="meta",
            granularity=granularity,
            activations=activations,
            train_activations=train_activations,
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

    def extra_repr(self) -> str:
        """The arguments."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, nm_2_4={self.nm_2_4}, "
            f"granularity={self.granularity!r}, activations={self.activations!r}, "
            f"train_activations={self.train_activations!r}"
        )

    def _sources(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self.weight, None, self.bias

    def _kind(self) -> str:
        return f"{self.granularity}+2:4" if self.nm_2_4 else str(self.granularity)
