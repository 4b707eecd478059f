"""Ternary neural networks on CPUs: 2-bit packed weights, products by additions
and subtractions only, the same bits on every instruction set.

Arrays are numpy's, used where they are: never copied, never converted. What
does not fit raises a TypeError or a subclass of TritgemmError (a ValueError)
that says what was expected. Every call on large data releases the GIL; until it
returns, no other thread may write to its arrays.

With torch installed, ``tritgemm.BitLinear``, ``tritgemm.PackedLinear`` and so on are
those of :mod:`tritgemm.torch`, which is imported when one is first used. Without torch
there are none: install ``tritgemm[torch]``. ``from tritgemm import *`` leaves them out, so
that it does not import torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._tritgemm import (
    EncodingError,
    Experts,
    IsaError,
    Linear,
    Model,
    ModelFile,
    OverlapError,
    Packed,
    PanelFileError,
    PreparedActivations,
    QuantizationError,
    RoutedActivations,
    ShapeError,
    TritgemmError,
    __version__,
    available,
    backend,
    cpu_features,
    forward_many_f32,
    forward_many_int8,
    gemm_i8,
    get_num_threads,
    kernels,
    linear,
    pack,
    pin,
    quantize_activations,
    rms_norm,
    rms_norm_backward,
    save_model,
    set_num_threads,
    ternarize,
    unpack,
)

# `as` says to type checkers that they are this module's, too.
if TYPE_CHECKING:
    from .torch import (
        BitLinear as BitLinear,
        Int8Embedding as Int8Embedding,
        Int8Linear as Int8Linear,
        LinearStack as LinearStack,
        PackedLinear as PackedLinear,
        RMSNorm as RMSNorm,
        freeze as freeze,
        replace_linear as replace_linear,
        set_activations as set_activations,
        stack as stack,
    )

__all__ = [
    "EncodingError",
    "Experts",
    "IsaError",
    "Linear",
    "Model",
    "ModelFile",
    "OverlapError",
    "Packed",
    "PanelFileError",
    "PreparedActivations",
    "QuantizationError",
    "RoutedActivations",
    "ShapeError",
    "TritgemmError",
    "__version__",
    "available",
    "backend",
    "cpu_features",
    "forward_many_f32",
    "forward_many_int8",
    "gemm_i8",
    "get_num_threads",
    "kernels",
    "linear",
    "pack",
    "pin",
    "quantize_activations",
    "rms_norm",
    "rms_norm_backward",
    "save_model",
    "set_num_threads",
    "ternarize",
    "unpack",
]

# Not among what * imports: it would hide Python's own.
open = Model.open

_FROM_TORCH = (
    "BitLinear",
    "Int8Embedding",
    "Int8Linear",
    "LinearStack",
    "PackedLinear",
    "RMSNorm",
    "freeze",
    "replace_linear",
    "set_activations",
    "stack",
)


def __getattr__(name: str) -> Any:
    if name not in _FROM_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(".torch", __name__), name)
    except Exception as error:  # A torch that is broken may raise any.
        # `from tritgemm import` would drop the text of an AttributeError, and hasattr knows
        # nothing else.
        importing = sys._getframe(1).f_code.co_name == "_handle_fromlist"
        kind = ImportError if importing else AttributeError
        raise kind(f"{__name__}.{name}: {error}") from error
