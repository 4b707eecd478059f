"""Int8Linear and Int8Embedding. Skipped where torch is missing."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import tritgemm

torch = pytest.importorskip("torch")
nn = torch.nn
Int8Linear, Int8Embedding = tritgemm.Int8Linear, tritgemm.Int8Embedding


@pytest.mark.parametrize("activations", ["int8", "int8_torch"])
@pytest.mark.parametrize("bias", [True, False])
def test_exact_sums(activations, bias):
    torch.manual_seed(0)
    linear = nn.Linear(203, 70, bias)
    layer = Int8Linear.from_linear(linear, activations=activations)
    assert layer.bias is linear.bias and layer.weight.dtype == torch.int8
    assert layer.weight.abs().amax(1).eq(121).all()
    x = torch.randn(2, 3, 203)
    q, s = tritgemm.quantize_activations(x.view(6, 203).numpy(), as_torch=activations == "int8_torch")
    sums = torch.from_numpy(q).long() @ layer.weight.long().T
    # Two roundings after the exact sum, and the bias'.
    expected = sums.float() * layer.scales * torch.from_numpy(s)[:, None]
    expected = (expected + linear.bias if bias else expected).view(2, 3, 70)
    with torch.no_grad():
        assert torch.equal(layer(x), expected)
        assert torch.equal(layer(x[1, 2]), expected[1, 2])
        assert layer(torch.zeros(0, 203)).shape == (0, 70)
        half = layer(x.bfloat16())
        assert half.dtype == torch.bfloat16 and torch.equal(half, layer(x.bfloat16().float()).bfloat16())
        error = (expected - linear(x)).abs().max() / linear(x).abs().max()
    assert error < 0.02


def test_all_values():
    layer = Int8Linear(1, 243, bias=False)
    with torch.no_grad():
        layer.weight[:, 0] = torch.arange(-121, 122)
        assert torch.equal(layer(torch.ones(1, 1)).mul(127).round()[0], 127.0 * torch.arange(-121, 122))
        layer.weight[3, 0] = -122
        with pytest.raises(tritgemm.EncodingError, match="from -121 to 121"):
            layer(torch.ones(1, 1))
    with pytest.raises(tritgemm.QuantizationError, match="finite"):
        linear = nn.Linear(4, 4)
        with torch.no_grad():
            linear.weight[1, 1] = float("nan")
        Int8Linear.from_linear(linear)
    with pytest.raises(ValueError, match="expected 'int8' or 'int8_torch', got 'f32'"):
        Int8Linear(4, 4, activations="f32")
    with pytest.raises(TypeError, match="ternary weights"):
        Int8Linear(4, 4).to_native()


def test_state_and_gradients():
    torch.manual_seed(1)
    layer = Int8Linear.from_linear(nn.Linear(32, 8))
    fresh = Int8Linear(32, 8, device="meta")
    fresh.load_state_dict(layer.state_dict(), strict=True, assign=True)
    x = torch.randn(4, 32, requires_grad=True)
    y = fresh(x)
    with torch.no_grad():
        assert torch.equal(y, layer(x))
        for again in (copy.deepcopy(layer), layer.bfloat16()):
            assert again.scales.dtype == torch.float32 and again.weight.dtype == torch.int8
    grad = torch.randn(4, 8)
    y.backward(grad)
    torch.testing.assert_close(x.grad, grad @ (fresh.weight.float() * fresh.scales[:, None]))
    torch.testing.assert_close(fresh.bias.grad, grad.sum(0))
    mask = fresh.ternary_nonzero_mask()
    assert torch.equal(mask, fresh.weight != 0)


@pytest.mark.skipif(not hasattr(torch.library, "custom_op"), reason="needs torch 2.4")
def test_compiled():
    torch._dynamo.reset()
    embedding = nn.Embedding(50, 32)
    head = nn.Linear(32, 50, bias=False)
    head.weight = embedding.weight
    model = nn.Sequential(Int8Embedding.from_embedding(embedding), Int8Linear.from_linear(head))
    model[1].weight, model[1].scales = model[0].weight, model[0].scales
    tokens = torch.randint(0, 50, (2, 7))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(tokens), model(tokens))


def test_embedding():
    torch.manual_seed(2)
    embedding = nn.Embedding(50, 32, dtype=torch.bfloat16)
    with torch.no_grad():
        embedding.weight[3] = 0
    made = Int8Embedding.from_embedding(embedding)
    tokens = torch.tensor([[1, 3], [49, 1]])
    y = made(tokens)
    assert y.dtype == torch.bfloat16 and y.shape == (2, 2, 32) and not y.requires_grad
    step = embedding.weight.float().abs().amax(1)[tokens] / 121
    off = (y.float() - embedding(tokens).float()).abs()
    # Half a step, and a rounding to bfloat16.
    assert (off <= step[..., None] / 2 + y.float().abs() * 2**-8).all() and off.max() > 0
    fresh = Int8Embedding(50, 32, dtype=torch.bfloat16)
    fresh.load_state_dict(made.state_dict(), strict=True)
    assert torch.equal(fresh(tokens), y)
    assert fresh.half().scales.dtype == torch.float32


def test_indices_are_those_of_an_embedding():
    embedding = nn.Embedding(50, 32)
    made = Int8Embedding.from_embedding(embedding)
    tokens = torch.tensor([[1, 3], [49, 1]])
    assert torch.equal(made(tokens.int()), made(tokens))
    assert made(tokens[:0]).shape == (0, 2, 32)
    assert torch.equal(torch.vmap(made)(tokens), made(tokens))
    for wrong in (torch.tensor([-1]), torch.tensor([50])):
        for module in (embedding, made):
            with pytest.raises(IndexError):
                module(wrong)
    for dtype in (torch.uint8, torch.bool, torch.float32):
        for module in (embedding, made):
            with pytest.raises(RuntimeError, match="[Ee]xpected tensor for argument #1 'indices'"):
                module(torch.ones(50, dtype=dtype))


def test_ternary_weights_of_any_granularity(rng):
    trits = rng.integers(-1, 2, (6, 300)).astype(np.float32)
    trits[:, 0] = 1
    scales = rng.uniform(0.5, 1, (6, 300)).astype(np.float32)
    for granularity, by in (("tensor", 0), ("row", 1), (256, 256), (128, 128), (64, 64), (32, 32)):
        column = {0: np.full((6, 300), scales[0, 0]), 1: np.repeat(scales[:, :1], 300, 1)}.get(by)
        if column is None:
            column = np.repeat(scales[:, ::by], by, 1)[:, :300]
        weights = np.ascontiguousarray(trits * column)
        packed = tritgemm.Packed.from_ternary(weights)
        assert packed.granularity == granularity
        np.testing.assert_array_equal(packed.dequantize(), weights)
    assert tritgemm.Packed.from_ternary(trits * scales) is None
    weights[2, 2] = np.nan
    assert tritgemm.Packed.from_ternary(weights) is None
    assert tritgemm.Packed.from_ternary(np.zeros((2, 5), np.float32)).granularity == "tensor"
