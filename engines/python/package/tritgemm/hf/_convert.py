"""A loaded model's layers, exchanged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from .. import _tritgemm as native
from ..torch import Activations, Int8Embedding, Int8Linear
from ..torch._layer import TernaryLayer
from ..torch._models import exchange, has_hooks, patterns
from ..torch._product import check_activations
from ._layers import Left, describe, norm, replacement


@dataclass
class Report:
    """What :func:`convert` did."""

    #: What layers were, by their names.
    replaced: dict[str, str] = field(default_factory=dict)
    #: Modules with weights that stay, by their names, and why: all that have a floating
    #: parameter of two dimensions or more.
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        kinds = Counter(self.replaced.values())
        lines = [f"{len(self.replaced)} layers replaced, {len(self.left)} left"]
        lines += [f"  replaced: {count} of {kind}" for kind, count in kinds.items()]
        lines += [f"  left: {name} ({why})" for name, why in self.left.items()]
        return "\n".join(lines)


def _int8(layer: nn.Module, activations: Activations) -> nn.Module | None:
    if type(layer) is nn.Embedding:
        if layer.max_norm is not None:
            raise Left("an embedding with max_norm")
        return Int8Embedding.from_embedding(layer)
    if type(layer) is nn.Linear:
        kind: Activations = "int8" if activations == "f32" else activations
        return Int8Linear.from_linear(layer, activations=kind)
    return None


def _dense(module: nn.Module) -> str:
    """The names of its own weights that are dense, none of an embedding."""
    if isinstance(module, nn.Embedding):
        return ""
    own = module.named_parameters(recurse=False)
    return ", ".join(name for name, p in own if p.dim() >= 2 and p.is_floating_point())


def convert(
    model: nn.Module,
    *,
    activations: Activations = "int8_torch",
    exclude: str | Iterable[str] = (),
    int8: str | Iterable[str] = (),
    norms: bool = False,
    progress: bool = False,
) -> Report:
    """Replaces a model's ternary linear layers by :class:`tritgemm.PackedLinear`, in place.

    These are transformers' ``BitLinear`` and ``AutoBitLinear``, :class:`tritgemm.BitLinear`,
    and every ``nn.Linear`` whose weights are ternary already: zeros and one magnitude for the
    whole, for each row, or for each 256, 128, 64 or 32 along K. The inputs of the last are not
    quantised. Layers with hooks are left, and so is all that is not on the CPU.

    A model of transformers can be saved by ``save_pretrained`` afterwards, at 2 bits a weight,
    and loaded wherever :mod:`tritgemm.hf` is imported.

    Args:
        model: the model, or a part of one; not itself a layer.
        activations: what BitNet's layers do with activations. ``"int8_torch"`` has the int8
            values of transformers' ``AutoBitLinear``, and of its ``BitLinear`` in float32;
            ``"int8"`` our own, of which a few differ by one.
        exclude: a pattern (as of :mod:`fnmatch`) of names to leave, or many. Warns of one that
            matches none, here and in `int8`.
        int8: the same of names of ``nn.Linear`` and ``nn.Embedding`` that become
            :class:`tritgemm.Int8Linear` and :class:`tritgemm.Int8Embedding`, which rounds their
            weights: as ``["lm_head", "model.embed_tokens"]``. Those that were tied share them.
        norms: whether norms become :class:`tritgemm.RMSNorm`, which is faster for a few
            tokens. Their last bits are others then, and so are a few int8 values.
        progress: whether to show a progress bar.

    Returns:
        What was replaced and what was left.

    Raises:
        TypeError: if `model` is a layer.
    """
    check_activations("activations", activations)
    if isinstance(model, nn.Linear | nn.Embedding | TernaryLayer) or hasattr(model, "weight_scale"):
        raise TypeError(
            f"model: expected a module that contains layers, got a {type(model).__name__}; use"
            " PackedLinear.from_linear or PackedLinear.from_hf"
        )
    excluded, rounded = patterns("exclude", exclude, model), patterns("int8", int8, model)
    report = Report()
    shared: dict[int, Any] = {}
    bar = None
    if progress:
        from tqdm.auto import tqdm

        total = sum(isinstance(m, nn.Linear) or hasattr(m, "weight_scale") for m in model.modules())
        bar = tqdm(total=total, desc="Packing ternary weights", unit="layer")

    def new(name: str, module: nn.Module) -> nn.Module | None:
        if any(fnmatchcase(name, pattern) for pattern in rounded):
            made = _int8(module, activations)
            if made is None:
                return None
            weight: Any = module.weight
            # Tied ones are rounded once, and stay tied.
            known = shared.setdefault(id(weight), made)
            if known is not made:
                made.weight, made.scales = known.weight, known.scales.clone()
            report.replaced[name] = f"{type(module).__name__} in int8"
            return made
        if norms and (faster := norm(module)) is not None:
            report.replaced[name] = type(module).__name__
            return faster
        found = replacement(module, activations)
        if found is None:
            return None
        report.replaced[name] = found[0]
        return found[1]

    def chosen(name: str, module: nn.Module) -> nn.Module | None:
        linear = isinstance(module, nn.Linear) or hasattr(module, "weight_scale")
        if bar is not None and linear:
            bar.update()
        try:
            if any(fnmatchcase(name, pattern) for pattern in excluded):
                raise Left("excluded")
            if linear and has_hooks(module):
                raise Left("it has hooks")
            made = new(name, module)
            if made is None and (weights := _dense(module)):
                raise Left(f"{type(module).__name__} is no layer that is converted: {weights}")
            return made
        except Left as why:
            reason = str(why)
        except native.TritgemmError as error:
            reason = str(error)
        if linear or isinstance(module, nn.Embedding) or _dense(module):
            report.left[name] = reason
        return None

    try:
        layers = exchange(model, chosen)
    finally:
        if bar is not None:
            bar.close()
    if isinstance(model, PreTrainedModel) and layers:
        from ._plugin import adopt

        said = {name: describe(layer) for name, layer in layers.items()}
        adopt(model, activations, said)
    return report
