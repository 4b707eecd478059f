"""Types of the compiled module. Shapes: M outputs, K inputs, N tokens, E experts."""

from collections.abc import Iterable, Iterator
from os import PathLike
from typing import Any, Literal, TypeAlias, TypeVar, final, overload

import numpy as np
from numpy.typing import NDArray

# bfloat16 arrays, for the int8 path and outputs, are ml_dtypes', which types them as
# NDArray[Any]. That is any of these.
_Float: TypeAlias = NDArray[np.float32] | NDArray[np.float16]
_Out = TypeVar("_Out", bound=_Float)
_Integers: TypeAlias = NDArray[np.integer[Any]]
_Granularity: TypeAlias = Literal["tensor", "row", 32, 64, 128, 256]
_Group: TypeAlias = Literal[32, 64, 128, 256]
_NonFinite: TypeAlias = Literal["error", "propagate"]
_Path: TypeAlias = Literal["f32", "int8", "int8_torch"]
_LinearClass: TypeAlias = Literal["bitlinear", "autobitlinear"]
_Scales: TypeAlias = float | NDArray[np.float32]

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
    "run_command",
    "save_model",
    "set_num_threads",
    "ternarize",
    "unpack",
]

__version__: str

class TritgemmError(ValueError): ...
class ShapeError(TritgemmError): ...
class EncodingError(TritgemmError): ...
class QuantizationError(TritgemmError): ...
class IsaError(TritgemmError): ...
class PanelFileError(TritgemmError): ...
class OverlapError(TritgemmError): ...

def pack(
    trits: NDArray[np.int8], *, strict: bool = True, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]: ...
def unpack(
    packed: NDArray[np.uint8],
    k: int,
    *,
    strict: bool = True,
    out: NDArray[np.int8] | None = None,
) -> NDArray[np.int8]: ...
def ternarize(
    weights: NDArray[np.float32],
    granularity: _Granularity = "row",
    *,
    sparsity: Literal["2:4"] | None = None,
) -> tuple[NDArray[np.int8], NDArray[np.float32]]: ...
def quantize_activations(
    x: _Float, *, as_torch: bool = False
) -> tuple[NDArray[np.int8], NDArray[np.float32]]: ...
def rms_norm(x: _Out, gain: NDArray[np.float32], eps: float = 1e-6) -> _Out: ...
def rms_norm_backward(
    x: NDArray[np.float32],
    grad_y: NDArray[np.float32],
    gain: NDArray[np.float32],
    eps: float = 1e-6,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
def gemm_i8(
    weights: Packed | Linear | NDArray[np.uint8],
    x: NDArray[np.int8] | PreparedActivations,
    out: NDArray[np.int32] | None = None,
    *,
    weights_in_cache: bool = False,
) -> NDArray[np.int32]: ...
@overload
def linear(
    x: _Float | PreparedActivations,
    weights: Packed | Linear,
    bias: NDArray[np.float32] | None = None,
    activations: _Path | None = None,
    *,
    out: None = None,
    weights_in_cache: bool = False,
    x_group: _Group | None = None,
) -> NDArray[np.float32]: ...
@overload
def linear(
    x: _Float | PreparedActivations,
    weights: Packed | Linear,
    bias: NDArray[np.float32] | None = None,
    activations: _Path | None = None,
    *,
    out: _Out,
    weights_in_cache: bool = False,
    x_group: _Group | None = None,
) -> _Out: ...
@overload
def forward_many_int8(
    layers: Iterable[Linear],
    x: _Float | PreparedActivations,
    *,
    out: None = None,
    add: Literal[False] = False,
    weights_in_cache: bool = False,
    x_group: _Group | None = None,
    non_finite: _NonFinite = "error",
) -> list[NDArray[np.float32]]: ...
@overload
def forward_many_int8(
    layers: Iterable[Linear],
    x: _Float | PreparedActivations,
    *,
    out: Iterable[_Out],
    add: bool = False,
    weights_in_cache: bool = False,
    x_group: _Group | None = None,
    non_finite: _NonFinite = "error",
) -> list[_Out]: ...
@overload
def forward_many_f32(
    layers: Iterable[Linear],
    x: NDArray[np.float32] | PreparedActivations,
    *,
    out: None = None,
    add: Literal[False] = False,
    weights_in_cache: bool = False,
) -> list[NDArray[np.float32]]: ...
@overload
def forward_many_f32(
    layers: Iterable[Linear],
    x: NDArray[np.float32] | PreparedActivations,
    *,
    out: Iterable[_Out],
    add: bool = False,
    weights_in_cache: bool = False,
) -> list[_Out]: ...
def run_command(args: list[str]) -> int: ...
def save_model(path: str | PathLike[str], layers: dict[str, Linear]) -> None: ...
def backend() -> str: ...
def available() -> list[str]: ...
def pin(name: str | None) -> None: ...
def kernels() -> dict[str, list[str]]: ...
def cpu_features() -> dict[str, bool]: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...

@final
class Packed:
    @staticmethod
    def from_packed(
        packed: NDArray[np.uint8],
        k: int,
        scales: _Scales | None = None,
        *,
        group: _Group | None = None,
    ) -> Packed: ...
    @staticmethod
    def from_trits(
        trits: NDArray[np.int8],
        scales: _Scales | None = None,
        *,
        group: _Group | None = None,
    ) -> Packed: ...
    @staticmethod
    def quantize(
        weights: NDArray[np.float32],
        granularity: _Granularity = "row",
        *,
        sparsity: Literal["2:4"] | None = None,
        keep_ternary: bool = False,
    ) -> Packed: ...
    @staticmethod
    def from_ternary(weights: NDArray[np.float32]) -> Packed | None: ...
    @staticmethod
    def from_hf(
        packed: NDArray[np.uint8],
        weight_scale: float,
        linear_class: _LinearClass = "bitlinear",
        *,
        rows: int | None = None,
    ) -> Packed: ...
    def to_hf(
        self,
        linear_class: _LinearClass = "bitlinear",
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        *,
        exact: bool = True,
    ) -> tuple[NDArray[np.uint8], float]: ...
    @staticmethod
    def load(
        path: str | PathLike[str], *, mmap: bool = False, verify: bool = True
    ) -> Packed: ...
    @staticmethod
    def from_bytes(data: bytes) -> Packed: ...
    def save(self, path: str | PathLike[str]) -> None: ...
    def to_bytes(self) -> bytes: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def granularity(self) -> _Granularity: ...
    @property
    def scales(self) -> NDArray[np.float32]: ...
    def to_packed(self) -> NDArray[np.uint8]: ...
    def to_trits(self) -> NDArray[np.int8]: ...
    def unpack_row(self, row: int, out: NDArray[np.int8] | None = None) -> NDArray[np.int8]: ...
    def dequantize(self) -> NDArray[np.float32]: ...
    def slice_rows(self, start: int, stop: int) -> Packed: ...
    def transpose(self, *, scaled: bool = False) -> Packed: ...
    def close_gate(
        self,
        gradient: NDArray[np.float32],
        weights: NDArray[np.float32],
        *,
        sparse: bool = False,
    ) -> None: ...
    def gemm_i8(
        self,
        x: NDArray[np.int8] | PreparedActivations,
        out: NDArray[np.int32] | None = None,
        *,
        weights_in_cache: bool = False,
    ) -> NDArray[np.int32]: ...

@final
class Linear:
    def __new__(cls, weights: Packed, bias: NDArray[np.float32] | None = None) -> Linear: ...
    @overload
    def forward_int8(
        self,
        x: _Float | PreparedActivations,
        *,
        out: None = None,
        add: Literal[False] = False,
        weights_in_cache: bool = False,
        x_group: _Group | None = None,
        non_finite: _NonFinite = "error",
    ) -> NDArray[np.float32]: ...
    @overload
    def forward_int8(
        self,
        x: _Float | PreparedActivations,
        *,
        out: _Out,
        add: bool = False,
        weights_in_cache: bool = False,
        x_group: _Group | None = None,
        non_finite: _NonFinite = "error",
    ) -> _Out: ...
    @overload
    def forward_f32(
        self,
        x: NDArray[np.float32] | PreparedActivations,
        *,
        out: None = None,
        add: Literal[False] = False,
        weights_in_cache: bool = False,
    ) -> NDArray[np.float32]: ...
    @overload
    def forward_f32(
        self,
        x: NDArray[np.float32] | PreparedActivations,
        *,
        out: _Out,
        add: bool = False,
        weights_in_cache: bool = False,
    ) -> _Out: ...
    def prepare_int8(
        self,
        x: _Float,
        *,
        into: PreparedActivations | None = None,
        x_group: _Group | None = None,
        non_finite: _NonFinite = "error",
    ) -> PreparedActivations: ...
    def prepare_f32(
        self, x: NDArray[np.float32], *, into: PreparedActivations | None = None
    ) -> PreparedActivations: ...
    def unpack_row(
        self, row: int, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]: ...
    def with_rotation(self, block: int, signs: NDArray[np.int8] | None = None) -> Linear: ...
    @property
    def rotation(self) -> tuple[int, NDArray[np.int8] | None] | None: ...
    def unrotate(
        self, x: NDArray[np.float32], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]: ...
    @staticmethod
    def load(
        path: str | PathLike[str], *, mmap: bool = False, verify: bool = True
    ) -> Linear: ...
    @staticmethod
    def from_bytes(data: bytes) -> Linear: ...
    def save(self, path: str | PathLike[str]) -> None: ...
    def to_bytes(self) -> bytes: ...
    @property
    def in_features(self) -> int: ...
    @property
    def out_features(self) -> int: ...
    @property
    def bias(self) -> NDArray[np.float32] | None: ...
    @property
    def weights(self) -> Packed: ...
    def slice_rows(self, start: int, stop: int) -> Linear: ...

@final
class Model:
    @staticmethod
    def open(
        path: str | PathLike[str],
        *,
        linear_class: _LinearClass | None = None,
        rows: int | None = None,
        i2s_layout: Literal["x86", "rows4", "arm"] | None = None,
    ) -> Model: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def other_names(self) -> list[str]: ...
    def tensor(self, name: str) -> NDArray[np.float32]: ...
    def format(self, name: str) -> str: ...
    @property
    def metadata(self) -> dict[str, Any]: ...
    @property
    def notes(self) -> list[str]: ...
    def __len__(self) -> int: ...
    def __contains__(self, name: str, /) -> bool: ...
    def __getitem__(self, name: str, /) -> Linear: ...
    def __iter__(self) -> Iterator[str]: ...

@final
class ModelFile:
    @staticmethod
    def load(
        path: str | PathLike[str], *, mmap: bool = False, verify: bool = True
    ) -> ModelFile: ...
    @property
    def names(self) -> list[str]: ...
    def __len__(self) -> int: ...
    def __contains__(self, name: str, /) -> bool: ...
    def __getitem__(self, name: str, /) -> Linear: ...
    def __iter__(self) -> Iterator[str]: ...

@final
class PreparedActivations:
    @staticmethod
    def from_int8(
        x: NDArray[np.int8],
        token_scales: NDArray[np.float32] | None = None,
        *,
        group: _Group | None = None,
    ) -> PreparedActivations: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def activations(self) -> Literal["f32", "int8"]: ...

@final
class Experts:
    def __new__(cls, layers: Iterable[Linear]) -> Experts: ...
    def __len__(self) -> int: ...
    @property
    def in_features(self) -> int: ...
    @property
    def out_features(self) -> int: ...
    @property
    def group(self) -> _Group | None: ...
    def prepare_int8(
        self,
        x: _Float,
        tokens: _Integers,
        counts: _Integers,
        *,
        into: RoutedActivations | None = None,
        x_group: _Group | None = None,
        non_finite: _NonFinite = "error",
    ) -> RoutedActivations: ...
    def prepare_f32(
        self,
        x: NDArray[np.float32],
        tokens: _Integers,
        counts: _Integers,
        *,
        into: RoutedActivations | None = None,
    ) -> RoutedActivations: ...
    @overload
    def forward(
        self, routed: RoutedActivations, *, out: None = None, add: Literal[False] = False
    ) -> NDArray[np.float32]: ...
    @overload
    def forward(self, routed: RoutedActivations, *, out: _Out, add: bool = False) -> _Out: ...
    def scatter(
        self, routed: RoutedActivations, to: _Integers, out: NDArray[np.float32]
    ) -> NDArray[np.float32]: ...
    def add_weighted(
        self,
        routed: RoutedActivations,
        to: _Integers,
        weights: NDArray[np.float32],
        out: NDArray[np.float32],
    ) -> NDArray[np.float32]: ...

@final
class RoutedActivations:
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def counts(self) -> NDArray[np.int64]: ...

# Products run on the threads of the process's OpenMP from then on, which are torch's.
def _use_openmp() -> None: ...

# On tensors' memory, addresses and numbers of elements, for tritgemm.torch alone: see src/tensors.rs.
def _forward(
    weights: Packed,
    bias: tuple[int, int] | None,
    activations: str,
    dtype: str,
    x: tuple[int, int],
    rows: int,
    y: tuple[int, int],
) -> None: ...
def _forward_digits(
    digits: Packed,
    scales: tuple[int, int],
    activations: str,
    dtype: str,
    x: tuple[int, int],
    rows: int,
    y: tuple[int, int],
) -> None: ...
def _rms_norm(
    gain: tuple[int, int],
    eps: float,
    cols: int,
    dtype: str,
    x: tuple[int, int],
    rows: int,
    y: tuple[int, int],
) -> None: ...
