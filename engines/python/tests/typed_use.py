"""Not a test to run: mypy --strict checks the types of an ordinary use."""

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import tritgemm

trits = np.ones((4, 8), np.int8)
assert_type(tritgemm.pack(trits), NDArray[np.uint8])
assert_type(tritgemm.unpack(tritgemm.pack(trits), 8), NDArray[np.int8])
values, scales = tritgemm.ternarize(np.ones((4, 8), np.float32), 64, sparsity="2:4")
assert_type(scales, NDArray[np.float32])
packed = tritgemm.Packed.from_trits(values, scales, group=64)
assert_type(packed.gemm_i8(trits), NDArray[np.int32])
assert_type(packed.unpack_row(0), NDArray[np.int8])
assert_type(packed.shape, tuple[int, int])
layer = tritgemm.Linear(packed, np.zeros(4, np.float32))
assert_type(layer.unpack_row(0), NDArray[np.float32])
rotated = layer.with_rotation(4, np.ones(8, np.int8))
assert_type(rotated, tritgemm.Linear)
assert_type(rotated.rotation, tuple[int, NDArray[np.int8] | None] | None)
assert_type(rotated.unrotate(rotated.unpack_row(0)), NDArray[np.float32])
x = layer.prepare_int8(np.ones((2, 8), np.float32))
assert_type(layer.forward_int8(x, weights_in_cache=True), NDArray[np.float32])
assert_type(tritgemm.linear(x, packed, activations="int8"), NDArray[np.float32])
half: NDArray[np.float16] = np.zeros((2, 4), np.float16)
assert_type(tritgemm.linear(half, packed, None, "int8", x_group=64), NDArray[np.float32])
assert_type(layer.forward_int8(x, out=half, add=True), NDArray[np.float16])
assert_type(layer.prepare_int8(half, into=x), tritgemm.PreparedActivations)
assert_type(tritgemm.forward_many_int8([layer, layer], x), list[NDArray[np.float32]])
assert_type(tritgemm.forward_many_int8([layer], x, out=[half]), list[NDArray[np.float16]])
assert_type(tritgemm.rms_norm(half, np.ones(4, np.float32)), NDArray[np.float16])
assert_type(packed.to_hf("autobitlinear", "bfloat16"), tuple[NDArray[np.uint8], float])
assert_type(layer.forward_int8(half, x_group=32, non_finite="propagate"), NDArray[np.float32])
tritgemm.save_model("model.panels", {"up": layer})
model = tritgemm.ModelFile.load("model.panels", mmap=True)
opened: tritgemm.Model = tritgemm.Model.open("model.panels", i2s_layout="x86")
notes: list[str] = opened.notes
assert_type(tritgemm.open("model.gguf").tensor("norm"), NDArray[np.float32])
assert_type(model.names, list[str])
assert_type(model["up"], tritgemm.Linear)
experts = tritgemm.Experts([layer])
routed = experts.prepare_int8(half, np.array([0, 1]), np.array([2], np.uint8))
assert_type(experts.forward(routed), NDArray[np.float32])
assert_type(experts.forward(routed, out=half), NDArray[np.float16])
assert_type(routed.counts, NDArray[np.int64])
sums = np.zeros((2, 4), np.float32)
assert_type(experts.scatter(routed, routed.counts, sums), NDArray[np.float32])
tritgemm.pin("scalar")
tritgemm.pin(None)
try:
    tritgemm.pack(trits, strict=False)
except tritgemm.EncodingError as error:
    raise SystemExit(str(error)) from error

# What numpy cannot name.
bfloat16: NDArray[Any] = np.zeros((2, 8), "bfloat16")
layer.forward_int8(bfloat16, out=bfloat16)

# Each of these is an error, and mypy says so if it is not.
wide = np.ones((2, 8))
layer.prepare_int8(wide)  # type: ignore[arg-type]
layer.forward_int8(wide)  # type: ignore[arg-type]
layer.forward_int8(x, out=wide)  # type: ignore[type-var]
tritgemm.linear(wide, packed)  # type: ignore[arg-type]
tritgemm.quantize_activations(wide)  # type: ignore[arg-type]
tritgemm.pin(2)  # type: ignore[arg-type]
tritgemm.ternarize(values)  # type: ignore[arg-type]
tritgemm.linear(x, packed, activations="int4")  # type: ignore[call-overload]
tritgemm.linear(x, packed, x_group=16)  # type: ignore[call-overload]
layer.prepare_int8(half, x_group=16)  # type: ignore[arg-type]
layer.forward_f32(x, add=True)  # type: ignore[call-overload]
experts.scatter(routed, sums, sums)  # type: ignore[arg-type]
