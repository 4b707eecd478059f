"""The quantiser "tritgemm" of transformers."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.bitnet import AutoBitLinear, BitNetDeserialize
from transformers.integrations.bitnet import BitLinear as HfBitLinear
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.auto import AutoHfQuantizer, AutoQuantizationConfig
from transformers.quantizers.quantizer_bitnet import BitNetHfQuantizer
from transformers.utils.quantization_config import BitNetQuantConfig, QuantizationConfigMixin

from .._tritgemm import TritgemmError
from ..torch import Activations, Int8Embedding, Int8Linear
from ..torch._product import check_activations
from ._convert import Report, convert
from ._layers import CONVERTED, describe, empty


@register_quantization_config("tritgemm")
class TritgemmConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """What ``from_pretrained`` of transformers does with a ternary model: pass it as
    ``quantization_config``. A model that ``save_pretrained`` wrote after its conversion is
    loaded as it was, and takes no arguments but `progress`.

    Args:
        activations: see :func:`convert`; None is its default.
        exclude: see :func:`convert`.
        int8: see :func:`convert`.
        norms: see :func:`convert`.
        progress: see :func:`convert`.
        layers: what the layers of a saved model are, by their names: written by
            ``save_pretrained``.
        quant_method: the name of the quantiser, which the configuration of a saved model has.
    """

    def __init__(
        self,
        activations: Activations | None = None,
        exclude: str | Iterable[str] = (),
        int8: str | Iterable[str] = (),
        norms: bool = False,
        progress: bool = False,
        layers: dict[str, dict[str, Any]] | None = None,
        quant_method: Literal["tritgemm"] = "tritgemm",
    ) -> None:
        if activations is not None:
            check_activations("activations", activations)
        self.quant_method = quant_method
        self.activations = activations
        self.exclude = [exclude] if isinstance(exclude, str) else list(exclude)
        self.int8 = [int8] if isinstance(int8, str) else list(int8)
        self.norms = norms
        self.progress = progress
        self.layers = layers
        # What the checkpoint says of itself.
        self.source: BitNetQuantConfig | None = None

    def to_dict(self) -> dict[str, Any]:
        """What is saved: the layers as they are, not how they were made."""
        return {
            "quant_method": self.quant_method,
            "activations": self.activations,
            "layers": copy.deepcopy(self.layers),
        }


@register_quantizer("tritgemm")
class TritgemmHfQuantizer(HfQuantizer):  # type: ignore[misc]
    """Loads BitNet checkpoints, dense ones that are ternary, and those that it saved."""

    requires_calibration = False
    #: What :func:`convert` did; nothing for a model that was saved converted.
    report: Report | None = None

    def __init__(self, quantization_config: TritgemmConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        source = quantization_config.source
        self._bitnet = None if source is None else BitNetHfQuantizer(source, pre_quantized=True)
        if self._bitnet is not None:
            self.serialized_names = self._bitnet.serialized_names

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        layers = self.quantization_config.layers
        if self._bitnet is not None:
            self._bitnet._process_model_before_weight_loading(model, **kwargs)
        elif layers is not None:
            for name, said in layers.items():
                model.set_submodule(name, empty(said, model.dtype))
            # Their scales stay in float32, whatever the dtype of the model.
            strict = set(model._keep_in_fp32_modules_strict or ())
            model._keep_in_fp32_modules_strict = strict | {f"{name}.scales" for name, said in layers.items() if said["class"] != "RMSNorm"}

    def get_new_dtype(self, converter: Any, param: Any, dtype: Any) -> Any:
        """That of the model, for all floats: what unpacks BitNet's weights sees every weight,
        and transformers leaves the dtype of what it sees to it."""
        return super().get_new_dtype(None, param, dtype)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        config = self.quantization_config
        _check_loaded(model, config.layers)
        if config.layers is None:
            self.report = convert(
                model,
                activations=config.activations or "int8_torch",
                exclude=config.exclude,
                int8=config.int8,
                norms=config.norms,
                progress=config.progress,
            )
        elif (tied := _tied(model)) is not None:
            head, embedding = tied
            head.weight = embedding.weight
        return model

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """What is saved: weights that a head shares with an embedding are there twice. The
        configuration, which is saved next, says what the layers are now."""
        config = self.quantization_config
        for name in config.layers or ():
            # One that an adapter wraps is saved by the adapter.
            if isinstance(layer := model.get_submodule(name), CONVERTED):
                config.layers[name] = describe(layer)
        if _tied(model) is None:
            return None, {}
        state = model.state_dict()
        head = model.get_output_embeddings()
        for name in [name for name, module in model.named_modules() if module is head]:
            state[f"{name}.weight"] = state[f"{name}.weight"].clone()
        return state, {}

    def get_load_operations(self) -> Any:
        """Those of the checkpoint's own quantiser."""
        return {} if self._bitnet is None else self._bitnet.get_load_operations()

    def is_serializable(self) -> bool:
        """``save_pretrained`` writes 2 bits a weight."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Packed weights take no gradient."""
        return False

    @property
    def is_compileable(self) -> bool:
        """Layers are operators while torch compiles."""
        return True


def _check_loaded(model: Any, layers: dict[str, dict[str, Any]] | None) -> None:
    """A TritgemmError if the checkpoint lacked tensors of ternary layers, or of those that were
    saved converted: transformers warns, and leaves what lies in memory."""
    missing = []
    for prefix, module in model.named_modules():
        if isinstance(module, HfBitLinear | AutoBitLinear) or prefix in (layers or ()):
            state = module.state_dict(keep_vars=True, prefix=f"{prefix}.")
            # The mark of transformers on what it loaded.
            missing += [
                name
                for name, tensor in state.items()
                if tensor.is_cpu and not getattr(tensor, "_is_hf_initialized", False)
            ]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise TritgemmError(f"the checkpoint lacks {', '.join(missing[:10])}{more}")


def adopt(model: PreTrainedModel, activations: Activations, layers: dict[str, Any]) -> None:
    """Tells transformers what the model's layers are now."""
    _untie(model)
    quantizer = getattr(model, "hf_quantizer", None)
    known = getattr(model.config, "quantization_config", None)
    if isinstance(known, TritgemmConfig) and known.layers is not None:
        layers = {**known.layers, **layers}
    config = TritgemmConfig(activations, layers=layers)
    if isinstance(quantizer, TritgemmHfQuantizer):
        quantizer.quantization_config = config
    else:
        model.hf_quantizer = TritgemmHfQuantizer(config, pre_quantized=True)
    # What unpacked BitNet's weights while loading has no way back, and needs none.
    conversions = getattr(model, "_weight_conversions", None)
    if conversions is not None:
        model._weight_conversions = [
            conversion
            for conversion in conversions
            if not any(isinstance(op, BitNetDeserialize) for op in getattr(conversion, "operations", ()))
        ]
    model.config.quantization_config = config
    model.config._is_quantized = True
    model.is_quantized = True
    model.quantization_method = config.quant_method


def _ends(model: Any) -> tuple[Any, Any]:
    """The head and the embedding, of models that have them."""
    try:
        return model.get_output_embeddings(), model.get_input_embeddings()
    except NotImplementedError:
        return None, None


def _tied(model: Any) -> tuple[Any, Any] | None:
    """The head and the embedding, where they share int8 weights."""
    head, embedding = _ends(model)
    both = isinstance(head, Int8Linear) and isinstance(embedding, Int8Embedding)
    return (head, embedding) if both and torch.equal(head.weight, embedding.weight) else None


def _untie(model: Any) -> None:
    """transformers ties parameters alone: int8 weights are buffers, and no matter of its."""
    head, embedding = _ends(model)
    if isinstance(head, Int8Linear) or isinstance(embedding, Int8Embedding):
        model.config.get_text_config(decoder=True).tie_word_embeddings = False
        model.config.tie_word_embeddings = False
        for name in [name for name, module in model.named_modules() if module is head]:
            model.all_tied_weights_keys.pop(f"{name}.weight", None)


_merge = AutoHfQuantizer.merge_quantization_configs


def _merge_ours(cls: Any, quantization_config: Any, quantization_config_from_args: Any) -> Any:
    """transformers refuses a configuration of another class than the checkpoint's. Ours reads
    what BitNet's says and goes on from there."""
    ours = quantization_config_from_args
    if not isinstance(ours, TritgemmConfig):
        return _merge(quantization_config, ours)
    said = quantization_config
    if isinstance(said, dict):
        said = AutoQuantizationConfig.from_dict(said)
    if isinstance(said, TritgemmConfig):
        options = ("activations", "exclude", "int8", "norms")
        given = [name for name in options if getattr(ours, name) not in (None, [], False)]
        if given and said.layers is not None:
            raise ValueError(
                f"{', '.join(given)}: the layers of this checkpoint were converted before it was"
                " saved; load it without, and use set_activations or convert afterwards"
            )
        return said
    if not isinstance(said, BitNetQuantConfig):
        raise ValueError(
            "quantization_config: TritgemmConfig reads checkpoints of BitNet's quantiser, and this"
            f" one is of {type(said).__name__}"
        )
    ours = copy.copy(ours)
    ours.source = said
    return ours


AutoHfQuantizer.merge_quantization_configs = classmethod(_merge_ours)


def from_pretrained(
    path: str | os.PathLike[str],
    *,
    activations: Activations | None = None,
    exclude: str | Iterable[str] = (),
    int8: str | Iterable[str] = (),
    norms: bool = False,
    progress: bool = True,
    auto_class: Any = AutoModelForCausalLM,
    **kwargs: Any,
) -> Any:
    """Loads a ternary model, of one file or of many, and converts it: see :func:`convert`. One
    that was saved converted is loaded as it was.

    Args:
        path: a folder, or a name that transformers knows.
        activations: see :func:`convert`; None is its default.
        exclude: see :func:`convert`.
        int8: see :func:`convert`.
        norms: see :func:`convert`.
        progress: whether to show progress bars.
        auto_class: the class that loads.
        kwargs: what its ``from_pretrained`` takes, as ``dtype``.

    Returns:
        The model. ``model.hf_quantizer.report`` says what was replaced and what was left.

    Raises:
        ValueError: if `activations`, `exclude`, `int8` or `norms` is given for a model that was
            saved converted.
    """
    config = TritgemmConfig(activations, exclude, int8, norms, progress)
    return auto_class.from_pretrained(path, quantization_config=config, **kwargs)
