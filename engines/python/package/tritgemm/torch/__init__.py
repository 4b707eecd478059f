"""Ternary layers for PyTorch, on the CPU.

:class:`BitLinear` keeps latent weights and computes with ternary ones, in training too
(BitNet b1.58, arXiv:2402.17764). :class:`PackedLinear` has the ternary weights alone, at 2 bits
each, :class:`Int8Linear` int8 ones for heads. :func:`replace_linear` puts the first in the place of the ``nn.Linear`` of a model,
:func:`freeze` the second in the place of the first. :class:`RMSNorm` is the norm that such
networks have before their linear layers.

While torch compiles, exports, traces or maps (``torch.vmap``), a layer is the operator
``tritgemm::linear``, from torch 2.4 on. The bits are those of a direct call.
"""

try:
    import torch as _torch
except ModuleNotFoundError as missing:
    if missing.name != "torch":
        raise
    hint = "tritgemm.torch needs PyTorch: pip install 'tritgemm[torch]'"
    raise ModuleNotFoundError(hint, name="torch") from missing
del _torch

from .. import _tritgemm
from ._bit_linear import BitLinear
from ._int8 import Int8Embedding, Int8Linear
from ._layer import HAS_OPERATORS
from ._models import freeze, replace_linear, set_activations
from ._norm import RMSNorm
from ._packed_linear import LinearStack, PackedLinear, stack
from ._product import Activations, Granularity

_tritgemm._use_openmp()  # torch's, loaded by now

if HAS_OPERATORS:
    from . import _operators as _operators

__all__ = [
    "Activations",
    "BitLinear",
    "Granularity",
    "Int8Embedding",
    "Int8Linear",
    "LinearStack",
    "PackedLinear",
    "RMSNorm",
    "freeze",
    "replace_linear",
    "set_activations",
    "stack",
]
