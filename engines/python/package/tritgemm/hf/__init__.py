"""Ternary models of transformers, on the kernels.

:func:`from_pretrained` loads a checkpoint and :func:`convert` takes a model that is loaded:
BitNet's own (``bitlinear`` and ``autobitlinear``, offline and online), other architectures with
its quantiser, as Falcon3's, and any model with linear layers whose weights are ternary.
Importing this module registers the quantiser "tritgemm" with transformers, so that its own
``from_pretrained`` loads such models, too::

    import tritgemm.hf
    config = tritgemm.hf.TritgemmConfig()
    model = AutoModelForCausalLM.from_pretrained(path, quantization_config=config)

and a model that was saved by ``save_pretrained`` needs no configuration again.
"""

try:
    import transformers as _transformers
except ModuleNotFoundError as missing:
    if missing.name != "transformers":
        raise
    hint = "tritgemm.hf needs transformers: pip install 'tritgemm[transformers]'"
    raise ModuleNotFoundError(hint, name="transformers") from missing
del _transformers

from ._convert import Report, convert
from ._plugin import TritgemmConfig, TritgemmHfQuantizer, from_pretrained

__all__ = ["Report", "TritgemmConfig", "TritgemmHfQuantizer", "convert", "from_pretrained"]
