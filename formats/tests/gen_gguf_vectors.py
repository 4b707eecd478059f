#!/usr/bin/env python3
"""Makes tests/vectors/python.gguf with the `gguf` package of PyPI, and checks
with it a file that the crate's tests wrote.

    pip install gguf numpy
    python gen_gguf_vectors.py                     # writes vectors/python.gguf
    python gen_gguf_vectors.py --check FILE.gguf   # reads one of ours

The file holds, for each of TQ1_0 and TQ2_0, tensor NAME as quantised from random
weights and NAME.f32 as dequantised, both by the package, and NAME.any, NAME.any.f32
made of random bytes (without code 3 for TQ2_0); the latter also for the types of
embeddings and heads, Q4_0, Q8_0, Q4_K, Q5_K, Q6_K and BF16. A check dequantises
each ternary tensor NAME and wants NAME.f32 bit for bit.

Of every type that the package knows, kind.TYPE has two rows of random bytes, and the key
len.TYPE how many. A check wants every tensor of vectors/python.gguf in the file, as the
package reads it there.
"""

import sys
from pathlib import Path

import gguf
import numpy as np
from gguf.constants import GGMLQuantizationType as Type

ROWS, COLS = 3, 768
HERE = Path(__file__).parent


def random_blocks(rng, kind):
    """Random bytes under random scales, one of them 0 and one negative."""
    size = {Type.TQ1_0: 54, Type.TQ2_0: 66}[kind]
    blocks = rng.integers(0, 256, (ROWS * COLS // 256, size), dtype=np.uint8)
    if kind == Type.TQ2_0:
        low, high = blocks & 0x55, (blocks >> 1) & 0x55
        blocks = low | ((high & ~low) << 1)
    scales = rng.normal(0, 1, len(blocks)).astype(np.float16)
    scales[0], scales[1] = 0, -abs(scales[1])
    scales[2] = np.float16(6e-8)  # the smallest there is
    blocks[:, -2:] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(ROWS, -1)


# The types of embeddings and heads, and where in a block their f16s are.
OTHERS = {
    Type.Q4_0: [0],
    Type.Q8_0: [0],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
    Type.BF16: [],
}


def random_values(rng, kind, halves):
    """Random bytes, whose scales are numbers."""
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (2 * 256 // weights, size), dtype=np.uint8)
    for at in halves:
        scales = rng.normal(0, 1, len(blocks)).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    if kind == Type.BF16:
        # No exponent of all ones.
        blocks[:, 1] &= 0xBF
    return blocks.reshape(2, -1)


def make(path):
    rng = np.random.default_rng(20250101)
    writer = gguf.GGUFWriter(path, "test")
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -100)
    writer.add_uint16("a.u16", 60000)
    writer.add_int16("a.i16", -30000)
    writer.add_uint32("a.u32", 4000000000)
    writer.add_int32("a.i32", -2000000000)
    writer.add_float32("a.f32", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "drei größer zwei")
    writer.add_uint64("a.u64", 1 << 63)
    writer.add_int64("a.i64", -(1 << 62))
    writer.add_float64("a.f64", 0.1)
    writer.add_array("a.strings", ["", "a", "bc"])
    writer.add_array("a.ints", [1, -2, 3])
    writer.add_tensor("norm", rng.normal(0, 1, 5).astype(np.float32))
    writer.add_tensor("half", rng.normal(0, 1, (2, 3)).astype(np.float16))
    for name, kind in [("tq1_0", Type.TQ1_0), ("tq2_0", Type.TQ2_0)]:
        weights = rng.normal(0, 0.3, (ROWS, COLS)).astype(np.float32)
        weights[1, 256:512] = 0  # a block whose scale is 0
        for name, blocks in [
            (name, gguf.quantize(weights, kind)),
            (f"{name}.any", random_blocks(rng, kind)),
        ]:
            writer.add_tensor(name, blocks, raw_dtype=kind)
            writer.add_tensor(f"{name}.f32", gguf.dequantize(blocks, kind))
    for kind, halves in OTHERS.items():
        blocks = random_values(rng, kind, halves)
        name = f"{kind.name.lower()}.any"
        writer.add_tensor(name, blocks, raw_dtype=kind)
        writer.add_tensor(f"{name}.f32", gguf.dequantize(blocks, kind))
    for kind, (_, size) in gguf.GGML_QUANT_SIZES.items():
        blocks = rng.integers(0, 256, (2, size), dtype=np.uint8)
        writer.add_tensor(f"kind.{kind.name}", blocks, raw_dtype=kind)
        writer.add_uint32(f"len.{kind.name}", blocks.size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check(path):
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    checked = 0
    for name, tensor in tensors.items():
        ternary = tensor.tensor_type in (Type.TQ1_0, Type.TQ2_0)
        if not ternary or name.startswith("kind."):
            continue
        ours = np.asarray(tensors[f"{name}.f32"].data).reshape(-1)
        theirs = gguf.dequantize(np.asarray(tensor.data), tensor.tensor_type).reshape(-1)
        # Nothing says whether 0 * scale is +0 or -0.
        assert np.array_equal(ours + 0.0, theirs + 0.0), name
        checked += 1
    assert checked, "no ternary tensor"
    copied = gguf.GGUFReader(HERE / "vectors" / "python.gguf").tensors
    for theirs in copied:
        ours = tensors[theirs.name]
        assert ours.tensor_type == theirs.tensor_type, theirs.name
        assert list(ours.shape) == list(theirs.shape), theirs.name
        assert ours.data.tobytes() == theirs.data.tobytes(), theirs.name
    kinds = {tensor.tensor_type for tensor in copied if tensor.name.startswith("kind.")}
    print(f"{len(copied)} tensors of {len(kinds)} types are as the package wrote them")
    keys = [key for key in reader.fields if not key.startswith("GGUF.")]
    print(f"{checked} ternary tensors agree; metadata: {', '.join(keys)}")


if len(sys.argv) == 3 and sys.argv[1] == "--check":
    check(sys.argv[2])
else:
    (HERE / "vectors").mkdir(exist_ok=True)
    make(HERE / "vectors" / "python.gguf")
