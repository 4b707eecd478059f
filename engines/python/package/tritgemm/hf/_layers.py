"""What replaces the layers of transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.bitnet import AutoBitLinear
from transformers.integrations.bitnet import BitLinear as HfBitLinear

from .. import _tritgemm as native
from ..torch import Activations, BitLinear, Int8Embedding, Int8Linear, PackedLinear, RMSNorm


class NormedPackedLinear(PackedLinear):
    """A layer with a norm before it, as transformers has with ``use_rms_norm``."""

    rms_norm: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """As PackedLinear, of the normalised input."""
        return super().forward(self.rms_norm(x))


class Left(Exception):
    """Why a layer is left as it is."""


def _offline(layer: Any) -> tuple[native.Packed, Tensor | None]:
    """Of transformers' BitLinear: y = (w q) / (input_scale * weight_scale) + bias."""
    rows, cols = layer.out_features, layer.in_features
    if tuple(layer.weight.shape) != (-(-rows // 4), cols):
        raise Left(f"weight {list(layer.weight.shape)} is not that of [{rows}, {cols}]")
    weight = layer.weight.detach().contiguous().numpy()
    scale = float(layer.weight_scale.detach().float())
    return native.Packed.from_hf(weight, scale, "bitlinear", rows=rows), layer.bias


def _auto_offline(layer: Any) -> tuple[native.Packed, Tensor | None]:
    """Of AutoBitLinear: y = (w x + bias) * weight_scale."""
    packed = native.Packed.from_ternary(layer.weight.detach().float().contiguous().numpy())
    if packed is None:
        raise Left("its weights are not ternary")
    factor = layer.weight_scale.detach().float()
    scales = (torch.from_numpy(packed.scales) * factor).numpy()
    group: Any = packed.granularity if isinstance(packed.granularity, int) else None
    made = native.Packed.from_packed(packed.to_packed(), layer.in_features, scales, group=group)
    bias = layer.bias
    if bias is not None:
        bias = nn.Parameter((bias.detach() * factor).to(bias.dtype), requires_grad=False)
    return made, bias


def _auto_online(layer: Any) -> tuple[native.Packed, Tensor | None]:
    """Of AutoBitLinear with latent weights, quantised as its WeightQuant does."""
    weight = layer.weight.detach().float()
    scale = 1.0 / weight.abs().mean().clamp_(min=1e-5)
    trits = (weight * scale).round_().clamp_(-1, 1).to(torch.int8)
    # Rounded to the layer's type, as the weights are there.
    alpha = float((1.0 / scale).to(layer.weight.dtype))
    return native.Packed.from_trits(trits.numpy(), alpha), layer.bias


def _dense(layer: Any) -> tuple[native.Packed, Tensor | None]:
    """Of an nn.Linear."""
    packed = native.Packed.from_ternary(layer.weight.detach().float().contiguous().numpy())
    if packed is None:
        raise Left("its weights are not ternary")
    return packed, layer.bias


def replacement(layer: nn.Module, activations: Activations) -> tuple[str, PackedLinear] | None:
    """What a linear layer becomes, with what it was. None for other modules.

    Raises:
        Left: with why the layer stays.
    """
    kind: Activations = activations
    if isinstance(layer, HfBitLinear):
        name, found = "bitlinear", _offline
    elif isinstance(layer, AutoBitLinear):
        name = "autobitlinear, online" if layer.online_quant else "autobitlinear"
        found = _auto_online if layer.online_quant else _auto_offline
    elif isinstance(layer, BitLinear):
        return "BitLinear", PackedLinear.from_linear(layer)
    elif type(layer) is nn.Linear:
        # Nothing quantises its input.
        name, found, kind = "ternary nn.Linear", _dense, "f32"
    elif isinstance(layer, nn.Linear):
        raise Left(f"{type(layer).__name__} may do more than multiply")
    else:
        return None
    weight: Any = layer.weight
    if weight.device.type != "cpu":
        raise Left(f"it is on {weight.device}")
    packed, bias = found(layer)
    norm = getattr(layer, "rms_norm", None)
    cls = PackedLinear if norm is None else NormedPackedLinear
    made = cls.from_native(packed, bias, activations=kind)
    if isinstance(made, NormedPackedLinear) and norm is not None:
        made.rms_norm = norm
    return name, made.train(layer.training)


# Those whose gain is `weight`, and no more than RMSNorm.
_NORMS = {f"{name}RMSNorm" for name in ("BitNet", "Llama", "Mistral", "Qwen2", "Qwen3")}


def norm(layer: Any) -> RMSNorm | None:
    """Ours for a norm of transformers, with its gain. None for other modules."""
    if type(layer).__name__ not in _NORMS or layer.weight.device.type != "cpu":
        return None
    made = RMSNorm(len(layer.weight), layer.variance_epsilon, device="meta")
    made.weight = layer.weight
    return made.train(layer.training)


#: The layers that a configuration describes.
CONVERTED = (PackedLinear, Int8Linear, Int8Embedding, RMSNorm)


def describe(layer: nn.Module) -> dict[str, Any]:
    """What a configuration says of a layer, so that :func:`empty` makes one for its state."""
    if isinstance(layer, Int8Embedding):
        return {
            "class": "Int8Embedding",
            "num_embeddings": layer.num_embeddings,
            "embedding_dim": layer.embedding_dim,
        }
    if isinstance(layer, RMSNorm):
        return {"class": "RMSNorm", "features": len(layer.weight), "eps": layer.eps}
    if not isinstance(layer, CONVERTED):
        raise TypeError(f"layer: expected one that was converted, got {type(layer).__name__}")
    said: dict[str, Any] = {
        "class": type(layer).__name__,
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": layer.bias is not None,
        "activations": layer.activations,
    }
    if isinstance(layer, PackedLinear):
        said["granularity"] = layer.granularity
    if isinstance(layer, NormedPackedLinear):
        before: Any = layer.rms_norm
        said["rms_norm_eps"] = before.eps if isinstance(before, RMSNorm) else before.variance_epsilon
    return said


def empty(said: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    """A layer without weights, on the device "meta"."""
    said = dict(said)
    name, eps = said.pop("class"), said.pop("rms_norm_eps", None)
    if name == "Int8Embedding":
        return Int8Embedding(**said, dtype=dtype, device="meta")
    if name == "RMSNorm":
        return RMSNorm(**said, dtype=dtype, device="meta")
    classes: dict[str, Any] = {c.__name__: c for c in (PackedLinear, NormedPackedLinear, Int8Linear)}
    if name not in classes:
        raise ValueError(f"layers: expected one of {sorted(classes)}, got {name!r}")
    layer: Any = classes[name](**said, dtype=dtype, device="meta")
    if eps is not None:
        from transformers.models.llama.modeling_llama import LlamaRMSNorm

        with torch.device("meta"):
            layer.rms_norm = LlamaRMSNorm(said["in_features"], eps=eps)
    made: nn.Module = layer
    return made
