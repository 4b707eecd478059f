"""What BitLinear does with weights and activations. Skipped where torch is missing."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import tritgemm
from conftest import same_bits

torch = pytest.importorskip("torch")
nn = torch.nn
BitLinear = tritgemm.BitLinear


def torch_values(x):
    """What torch makes of activations, as transformers' AutoBitLinear asks it to."""
    x = x.float()
    scale = 127 / x.abs().max(dim=-1, keepdim=True).values.clamp_(min=1e-5)
    return (x * scale).round().clamp(-128, 127).to(torch.int8), 1 / scale.flatten()


def all_alpha(weight, granularity):
    """A scale for each weight, in f64 but for the last rounding."""
    size = weight.detach().double().abs()
    if granularity == "tensor":
        alpha = size.mean().expand_as(size)
    elif granularity == "row":
        alpha = size.mean(1, keepdim=True).expand_as(size)
    else:
        alpha = torch.cat([g.mean(1, keepdim=True).expand_as(g) for g in size.split(granularity, 1)], 1)
    return alpha.clamp_min(1e-5).float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_int8_torch_has_the_values_of_torch(dtype):
    torch.manual_seed(0)
    x = torch.randn(500, 256).to(dtype)
    x[0] = 0
    x[1] = 1e-7
    x[2, 3] = -4000
    values, scales = torch_values(x)
    given = x.numpy() if dtype != torch.bfloat16 else x.float().numpy()
    q, s = tritgemm.quantize_activations(given, as_torch=True)
    same_bits(q, values.numpy())
    same_bits(s, scales.numpy())
    layer = tritgemm.PackedLinear.from_linear(BitLinear(256, 20), activations="int8_torch")
    prepared = tritgemm.PreparedActivations.from_int8(values.numpy(), scales.numpy())
    with torch.no_grad():
        assert torch.equal(layer(x), torch.from_numpy(layer.to_native().forward_int8(prepared)).to(dtype))
    # Or nothing would be tested: ours are others in some tokens.
    _, exact = tritgemm.quantize_activations(given)
    assert 0.02 < (exact != s).mean() < 0.9


def test_int8_torch_values_that_are_none():
    x = np.ones((2, 8), np.float32)
    x[1, 5] = np.inf
    with pytest.raises(tritgemm.QuantizationError, match="token 1"):
        tritgemm.quantize_activations(x, as_torch=True)


@pytest.mark.parametrize("granularity", ["tensor", "row", 32, 256])
def test_int8_torch_products(rng, granularity):
    weights = rng.standard_normal((70, 203), dtype=np.float32)
    packed = tritgemm.Packed.quantize(weights, granularity)
    x = rng.standard_normal((9, 203), dtype=np.float32)
    q, s = tritgemm.quantize_activations(x, as_torch=True)
    group = granularity if isinstance(granularity, int) else None
    prepared = tritgemm.PreparedActivations.from_int8(q, s, group=group)
    y = tritgemm.linear(x, packed, None, "int8_torch")
    same_bits(y, tritgemm.linear(prepared, packed))
    same_bits(tritgemm.linear(x[4], packed, None, "int8_torch"), y[4])
    dense = packed.dequantize().astype(np.float64)
    np.testing.assert_allclose(y, (q * s[:, None].astype(np.float64)) @ dense.T, rtol=1e-4, atol=1e-4)
    with pytest.raises(tritgemm.TritgemmError, match="not for PreparedActivations"):
        tritgemm.linear(prepared, packed, None, "int8_torch")
    with pytest.raises(tritgemm.TritgemmError, match="one scale a token"):
        tritgemm.linear(x, packed, None, "int8_torch", x_group=32)
    rotated = tritgemm.Linear(tritgemm.Packed.quantize(np.ones((4, 8), np.float32))).with_rotation(8)
    with pytest.raises(tritgemm.TritgemmError, match="rotates its input"):
        tritgemm.linear(np.ones((1, 8), np.float32), rotated, None, "int8_torch")


@pytest.mark.parametrize("granularity", ["tensor", "row", 64])
@pytest.mark.parametrize("activations", ["f32", "int8", "int8_torch"])
def test_training_is_straight_through(granularity, activations):
    torch.manual_seed(4)
    layer = BitLinear(203, 70, granularity=granularity, activations=activations, train_activations=activations)
    x = torch.randn(6, 203, requires_grad=True)
    y = layer(x)
    with torch.no_grad():
        assert torch.equal(layer(x), y), "training and inference give the same bits"
    grad_y = torch.randn(y.shape)
    y.backward(grad_y)

    alpha = all_alpha(layer.weight, granularity)
    ternary = (layer.weight.detach() / alpha).clamp(-1, 1).round().double() * alpha.double()
    inputs = x.detach().double()
    if activations != "f32":
        q, s = tritgemm.quantize_activations(x.detach().numpy(), as_torch=activations == "int8_torch")
        inputs = torch.from_numpy(q * s[:, None].astype(np.float64))
        assert not torch.equal(inputs, x.detach().double())
    gate = layer.weight.detach().abs() < alpha
    expected = {
        "y": (y, inputs @ ternary.T + layer.bias.double()),
        "x": (x.grad, grad_y.double() @ ternary),
        "weight": (layer.weight.grad, grad_y.double().T @ inputs * gate),
        "bias": (layer.bias.grad, grad_y.double().sum(0)),
    }
    for name, (ours, theirs) in expected.items():
        torch.testing.assert_close(ours.double(), theirs, rtol=2e-5, atol=2e-5, msg=name)
    assert torch.equal(layer.weight.grad == 0, ~gate) and 0 < gate.sum() < gate.numel()


@pytest.mark.skipif(not hasattr(torch.library, "custom_op"), reason="needs torch 2.4")
@pytest.mark.parametrize(("granularity", "train"), [("tensor", "int8_torch"), (32, "int8")])
def test_they_compile_to_the_same_bits(granularity, train):
    torch._dynamo.reset()
    torch.manual_seed(5)
    layers = [
        BitLinear(k, m, granularity=granularity, activations=train, train_activations=train)
        for k, m in ((40, 64), (64, 40))
    ]
    model = nn.Sequential(layers[0], tritgemm.RMSNorm(64), layers[1])
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(3, 40)
    with torch.no_grad():
        assert torch.equal(compiled(x), model(x))
    grads = []
    for run in (model, compiled):
        model.zero_grad()
        inputs = x.clone().requires_grad_()
        run(inputs).square().sum().backward()
        grads.append([inputs.grad, *(p.grad.clone() for p in model.parameters())])
    for ours, theirs in zip(*grads, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("granularity", ["tensor", "row", 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ternary_weights_keep_their_scale(granularity, dtype):
    torch.manual_seed(6)
    layer = BitLinear(96, 10, bias=False, granularity=granularity, dtype=dtype)
    scales = torch.rand(10, 1) if granularity != "tensor" else torch.full((1, 1), 0.37)
    with torch.no_grad():
        weight = torch.randint(-1, 2, (10, 96)) * scales.to(dtype)
        weight[3] = 0
        layer.weight.copy_(weight)
        eye = torch.eye(96, dtype=dtype)
        assert torch.equal(layer(eye).T, layer.weight)
        # One weight of another magnitude, and the mean is the scale again.
        layer.weight[2, 1] = 2.5
        assert not torch.equal(layer(eye).T[0], layer.weight[0])


def test_where_the_scale_is_kept():
    keep = dict(keep_ternary=True)
    weights = np.array([[0.5, 0, -0.5, 0], [0, 0, 0, 0], [0, 0.25, 0, 0]], np.float32)
    rows = tritgemm.Packed.quantize(weights, **keep)
    np.testing.assert_array_equal(rows.scales, np.array([0.5, 1e-5, 0.25], np.float32))
    np.testing.assert_array_equal(rows.dequantize(), weights)
    # Two magnitudes for one scale are latent weights: all scales are means then.
    tensor = tritgemm.Packed.quantize(weights, "tensor", **keep)
    same_bits(tensor.scales, tritgemm.Packed.quantize(weights, "tensor").scales)
    assert tritgemm.Packed.quantize(np.zeros((0, 4), np.float32), **keep).shape == (0, 4)
    assert tritgemm.Packed.quantize(np.zeros((3, 0), np.float32), "tensor", **keep).shape == (3, 0)


def test_arguments():
    with pytest.raises(ValueError, match="granularity: expected 'tensor', 'row', 32, 64, 128 or 256, got 16"):
        BitLinear(4, 4, granularity=16)
    with pytest.raises(ValueError, match="train_activations: expected 'f32', 'int8' or 'int8_torch', got 8"):
        BitLinear(4, 4, train_activations=8)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8))
    made = tritgemm.replace_linear(model, granularity=64, activations="int8", train_activations="int8")
    assert made == 2 and model[0].granularity == model[1].granularity == 64
    assert tritgemm.set_activations(model, "int8_torch") == 2
    assert {(m.activations, m.train_activations) for m in model} == {("int8_torch", "int8")}
    assert tritgemm.set_activations(model, "f32", train="f32") == 2
    assert {(m.activations, m.train_activations) for m in model} == {("f32", "f32")}
    with pytest.raises(ValueError, match="train: expected"):
        tritgemm.set_activations(model, "f32", train="f16")
    again = copy.deepcopy(model)
    x = torch.randn(2, 64)
    assert torch.equal(again(x), model(x))


def test_training_with_int8_activations_learns():
    torch.manual_seed(1)
    kind = dict(granularity="tensor", activations="int8", train_activations="int8")
    model = nn.Sequential(
        tritgemm.RMSNorm(16), BitLinear(16, 64, **kind), nn.ReLU(), tritgemm.RMSNorm(64), BitLinear(64, 2, **kind)
    )
    x = torch.randn(256, 16)
    target = (x[:, :4].sum(1) > 0).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        loss = nn.functional.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0], losses[::30]
