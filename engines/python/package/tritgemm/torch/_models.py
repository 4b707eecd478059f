"""Layers of a whole model, exchanged in place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from torch import nn

from ._bit_linear import BitLinear
from ._int8 import Int8Linear
from ._layer import TernaryLayer
from ._packed_linear import PackedLinear
from ._product import Activations, Granularity, check_activations


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody has to be told of its passes."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return any(getattr(module, name, None) for name in names)


def patterns(argument: str, given: Iterable[str], model: nn.Module) -> list[str]:
    """Patterns of names as a list; one string is one. Warns of each that no name matches."""
    found = [given] if isinstance(given, str) else list(given)
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for pattern in found:
        if not any(fnmatchcase(name, pattern) for name in names):
            warnings.warn(f"{argument}: no module's name matches {pattern!r}", stacklevel=3)
    return found


def exchange(
    model: nn.Module, chosen: Callable[[str, nn.Module], nn.Module | None]
) -> dict[str, nn.Module]:
    """Puts what `chosen` gives for a module, by its qualified name, in its place. A module
    that occurs twice is asked for once. Returns the new ones by their first names."""
    known: dict[nn.Module, nn.Module | None] = {}
    new: dict[str, nn.Module] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if not path:
            continue
        if module not in known:
            known[module] = chosen(path, module)
            if (made := known[module]) is not None:
                new[path] = made
        if (made := known[module]) is not None:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, made)
    _call_layers(model)
    return new


def _call_layers(model: nn.Module) -> None:
    """Has torch's encoder call its layers. In inference it reads the weights of what it takes
    for ``nn.Linear`` instead, unless its activation is another than those that it fuses."""
    encoders = (nn.TransformerEncoder, nn.TransformerEncoderLayer)
    for module in model.modules():
        if isinstance(module, encoders) and any(
            isinstance(layer, TernaryLayer) for layer in module.modules()
        ):
            if isinstance(module, nn.TransformerEncoderLayer):
                module.activation_relu_or_gelu = 0
            else:
                module.use_nested_tensor = False


def replace_linear(
    model: nn.Module,
    *,
    filter: Callable[[str, nn.Linear], bool] | None = None,
    exclude: str | Iterable[str] = (),
    nm_2_4: bool = False,
    granularity: Granularity = "row",
    activations: Activations = "f32",
    train_activations: Activations = "f32",
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
        exclude: a pattern (as of :mod:`fnmatch`) of qualified names to keep, or many, as
            ``["lm_head", "*.router"]``. Warns of one that matches none.
        nm_2_4: 2:4 sparsity.
        granularity: what a scale of the weights covers.
        activations: what inference does with activations.
        train_activations: what training does with them.

    Returns:
        How many layers were replaced.
    """
    if type(model) is nn.Linear:
        raise TypeError(
            "model: expected a module that contains nn.Linear, got one; use BitLinear.from_linear"
        )
    excluded = patterns("exclude", exclude, model)

    def chosen(path: str, module: nn.Module) -> nn.Module | None:
        if type(module) is not nn.Linear or has_hooks(module):
            return None
        if any(fnmatchcase(path, pattern) for pattern in excluded):
            return None
        if filter is not None and not filter(path, module):
            return None
        return BitLinear.from_linear(
            module,
            nm_2_4,
            granularity=granularity,
            activations=activations,
            train_activations=train_activations,
        )

    return len(exchange(model, chosen))


def freeze(model: nn.Module) -> int:
    """Replaces the :class:`BitLinear` of a model by :class:`PackedLinear`, in place: what
    inference computes has the same bits, and the latent weights are gone. Layers with hooks
    are left alone. Returns how many were replaced."""
    if isinstance(model, BitLinear):
        raise TypeError(
            "model: expected a module that contains BitLinear, got one;"
            " use PackedLinear.from_linear"
        )

    def chosen(path: str, module: nn.Module) -> nn.Module | None:
        if not isinstance(module, BitLinear) or has_hooks(module):
            return None
        return PackedLinear.from_linear(module)

    return len(exchange(model, chosen))


def set_activations(
    model: nn.Module, activations: Activations, *, train: Activations | None = None
) -> int:
    """Says what all ternary layers of a model do with activations, and with `train` what
    :class:`BitLinear` does with them where a gradient is asked for. With "f32",
    :class:`Int8Linear`, which has int8 ones alone, stays as it is. Returns how many layers were
    told."""
    check_activations("activations", activations)
    if train is not None:
        check_activations("train", train)
    layers = [
        module
        for module in model.modules()
        if isinstance(module, TernaryLayer)
        and not (activations == "f32" and isinstance(module, Int8Linear))
    ]
    for layer in layers:
        layer.activations = activations
        if train is not None and isinstance(layer, BitLinear):
            layer.train_activations = train
    return len(layers)
