"""Not a test to run: mypy --strict checks the types of an ordinary use of torch's names."""

from typing import assert_type

import torch
from torch import Tensor, nn

import tritgemm
from tritgemm import BitLinear, Int8Embedding, Int8Linear, LinearStack, PackedLinear, RMSNorm

layer = BitLinear(8, 4, granularity="tensor", activations="int8", train_activations="int8")
model = nn.Sequential(RMSNorm(8), layer, nn.Linear(4, 4))
assert_type(tritgemm.replace_linear(model, exclude=["head"], granularity=64), int)
assert_type(tritgemm.set_activations(model, "int8_torch", train="f32"), int)
assert_type(tritgemm.freeze(model), int)
y: Tensor = model(torch.ones(2, 8))
packed = PackedLinear.from_hf(torch.zeros(2, 8, dtype=torch.uint8), 1.0, rows=7)
assert_type(packed, PackedLinear)
assert_type(packed.to_hf("autobitlinear", torch.bfloat16), tuple[Tensor, Tensor])
assert_type(packed.to_native(), tritgemm.Linear)
assert_type(tritgemm.stack([packed, layer]), LinearStack)
assert_type(Int8Linear.from_linear(nn.Linear(8, 4)), Int8Linear)
assert_type(Int8Embedding.from_embedding(nn.Embedding(8, 4)), Int8Embedding)

# Each of these is an error, and mypy says so if it is not.
tritgemm.replace_linear(model, granularity=16)  # type: ignore[arg-type]
BitLinear(8, 4, activations="int4")  # type: ignore[arg-type]
tritgemm.stack([nn.Linear(8, 4)])  # type: ignore[list-item]
