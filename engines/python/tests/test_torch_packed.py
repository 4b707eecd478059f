"""PackedLinear, freeze and stack. Skipped where torch is missing."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import tritgemm
from conftest import same_bits

torch = pytest.importorskip("torch")
nn = torch.nn
BitLinear, PackedLinear = tritgemm.BitLinear, tritgemm.PackedLinear
ACTIVATIONS = ["f32", "int8", "int8_torch"]
GRANULARITIES = ["tensor", "row", 32]


def latent(m=70, k=203, bias=True, granularity="row", activations="int8"):
    torch.manual_seed(3)
    return BitLinear(k, m, bias, granularity=granularity, activations=activations)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_the_same_bits_as_bit_linear(granularity, activations, bias):
    layer = latent(70, 203, bias, granularity, activations)
    packed = PackedLinear.from_linear(layer)
    assert packed.granularity == granularity and packed.activations == activations
    for shape in ((203,), (5, 203), (2, 3, 203), (0, 203)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            x = torch.randn(shape).to(dtype)
            with torch.no_grad():
                y = packed(x)
                assert y.dtype == dtype and torch.equal(y, layer(x))


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_state_dicts(tmp_path, granularity):
    packed = PackedLinear.from_linear(latent(granularity=granularity))
    state = packed.state_dict()
    shape = {"tensor": [1], "row": [70]}.get(granularity, [70, 7])
    assert list(state) == ["bias", "weight", "scales"]
    assert state["weight"].dtype == torch.uint8 and list(state["weight"].shape) == [70, 51]
    assert state["scales"].dtype == torch.float32 and list(state["scales"].shape) == shape
    x = torch.randn(4, 203)
    with torch.no_grad():
        y = packed(x)
        fresh = PackedLinear(203, 70, granularity=granularity)
        assert torch.equal(fresh(x), torch.zeros(4, 70))
        fresh.load_state_dict(state, strict=True)
        assert torch.equal(fresh(x), y), "a new state is packed anew"
        empty = PackedLinear(203, 70, granularity=granularity, device="meta")
        empty.load_state_dict(state, strict=True, assign=True)
        assert empty.weight is state["weight"] and torch.equal(empty(x), y)
        torch.save(state, tmp_path / "state")
        fresh.load_state_dict(torch.load(tmp_path / "state", mmap=True), assign=True)
        assert torch.equal(fresh(x), y)
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_model(packed, str(tmp_path / "model"))
        again = PackedLinear(203, 70, granularity=granularity)
        safetensors.load_model(again, str(tmp_path / "model"), strict=True)
        assert torch.equal(again(x), y)
    with pytest.raises(RuntimeError, match="Missing key.*scales"):
        fresh.load_state_dict({k: v for k, v in state.items() if k != "scales"})
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        PackedLinear(200, 70, granularity=granularity).load_state_dict(state)


def test_changes_are_seen():
    packed, x = PackedLinear.from_linear(latent()), torch.randn(4, 203)
    with torch.no_grad():
        y = packed(x)
        kept = packed._ternary
        assert torch.equal(packed(x), y) and packed._ternary is kept, "packed once"
        packed.scales.mul_(2)
        torch.testing.assert_close(packed(x) - packed.bias, 2 * (y - packed.bias))
        packed.weight.zero_()
        assert torch.equal(packed(x), packed.bias.expand(4, 70))
        packed.weight[3, 5] = 0b11_00_00_00
        with pytest.raises(tritgemm.EncodingError, match="row 3, column 20"):
            packed(x)
        with pytest.raises(tritgemm.TritgemmError, match="weight: expected a tensor on the CPU, got one on meta"):
            PackedLinear(203, 70, device="meta")(x)


def test_dtypes_leave_the_scales_alone():
    packed, x = PackedLinear.from_linear(latent()), torch.randn(4, 203)
    scales = packed.scales.clone()
    for convert in (nn.Module.half, nn.Module.bfloat16, nn.Module.double):
        assert convert(packed) is packed
        assert torch.equal(packed.scales, scales) and packed.weight.dtype == torch.uint8
    assert packed.bias.dtype == torch.float64
    with torch.no_grad():
        assert packed(x.double()).dtype == torch.float64
    assert packed.to("meta").scales.is_meta


@pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
@pytest.mark.parametrize(("m", "k"), [(8, 5), (70, 203)])
def test_hugging_face(rng, linear_class, m, k):
    trits = rng.integers(-1, 2, (m, k))
    rows = -(-m // 4)
    codes = np.zeros((4 * rows, k), np.int64)
    codes[:m] = trits + 1
    weight = sum(codes[i * rows : (i + 1) * rows] << (2 * i) for i in range(4)).astype(np.uint8)
    stored = torch.tensor([2.25 if linear_class == "bitlinear" else 0.4375], dtype=torch.bfloat16)
    bias = nn.Parameter(torch.randn(m))
    layer = PackedLinear.from_hf(torch.from_numpy(weight), stored, linear_class, bias, rows=m)
    assert layer.bias is bias and layer.granularity == "tensor" and layer.activations == "int8_torch"
    scale = 1 / stored.float() if linear_class == "bitlinear" else stored.float()
    assert torch.equal(layer.scales, scale)
    layer.activations = "f32"
    with torch.no_grad():
        expected = torch.from_numpy(trits).float().T * scale + bias
        assert torch.equal(layer(torch.eye(k)), expected)
    again, weight_scale = layer.to_hf(linear_class, torch.bfloat16)
    same_bits(again.numpy(), weight)
    assert weight_scale.dtype == torch.bfloat16 and torch.equal(weight_scale, stored)


def test_what_is_no_hugging_face_layer():
    packed = torch.zeros(2, 4, dtype=torch.uint8)
    with pytest.raises(tritgemm.TritgemmError, match="linear_class: expected 'bitlinear' or 'autobitlinear'"):
        PackedLinear.from_hf(packed, 1.0, "linear")
    with pytest.raises(tritgemm.TritgemmError, match="rows|row"):
        PackedLinear.from_hf(packed, 1.0, rows=3)
    with pytest.raises(tritgemm.EncodingError, match="row 1, column 2"):
        bad = packed.clone()
        bad[1, 2] = 0b11
        PackedLinear.from_hf(bad, 1.0)
    with pytest.raises(tritgemm.TritgemmError, match="one scale a tensor"):
        PackedLinear.from_linear(latent(granularity="row")).to_hf()
    layer = PackedLinear.from_linear(latent(granularity="tensor"))
    with pytest.raises(tritgemm.TritgemmError, match="bf16"):
        layer.to_hf("autobitlinear", torch.bfloat16)
    weight, scale = layer.to_hf("autobitlinear", torch.bfloat16, exact=False)
    assert torch.equal(scale, layer.scales.bfloat16())
    again = PackedLinear.from_hf(weight, scale, "autobitlinear", rows=70)
    assert torch.equal(again.weight, layer.weight)
    with pytest.raises(tritgemm.TritgemmError, match="dtype: expected 'float32'"):
        layer.to_hf("autobitlinear", torch.float64)


@pytest.mark.parametrize("scales", ["tensor", "row"])
def test_from_a_dense_layer_that_is_ternary(scales):
    linear = nn.Linear(64, 6)
    with torch.no_grad():
        alpha = torch.full((6, 1), 0.3) if scales == "tensor" else torch.rand(6, 1) + 0.1
        linear.weight.copy_(torch.randint(-1, 2, (6, 64)) * alpha)
        layer = PackedLinear.from_linear(linear, activations="f32")
        assert layer.granularity == scales and layer.bias is linear.bias
        torch.testing.assert_close(layer(torch.eye(64)), linear(torch.eye(64)))
        linear.weight[2, 7] = 1.7
        with pytest.raises(tritgemm.QuantizationError, match="not ternary; use BitLinear"):
            PackedLinear.from_linear(linear)


def test_native_layers(rng):
    packed = tritgemm.Packed.quantize(rng.standard_normal((70, 203), dtype=np.float32), 64)
    native = tritgemm.Linear(packed, rng.standard_normal(70, dtype=np.float32))
    layer = PackedLinear.from_native(native)
    x = rng.standard_normal((3, 203), dtype=np.float32)
    with torch.no_grad():
        same_bits(layer(torch.from_numpy(x)).numpy(), native.forward_int8(x))
    assert layer.to_native().to_bytes() == native.to_bytes()
    rotated = tritgemm.Linear(tritgemm.Packed.quantize(np.ones((4, 8), np.float32))).with_rotation(8)
    with pytest.raises(tritgemm.TritgemmError, match="rotates its input"):
        PackedLinear.from_native(rotated)


def test_bytes_of_hugging_face_are_told_apart():
    layer = PackedLinear(64, 8, bias=False)
    layer.weight = layer.to_hf()[0]
    with pytest.raises(tritgemm.ShapeError, match="PackedLinear.from_hf"):
        layer(torch.ones(1, 64))


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_gradients_reach_what_is_around(activations):
    layer = latent(activations=activations)
    layer.train_activations = activations
    packed = PackedLinear.from_linear(layer)
    x = torch.randn(4, 203)
    grads = []
    for one in (layer, packed):
        inputs = x.clone().requires_grad_()
        layer.bias.grad = None
        one(inputs).square().sum().backward()
        grads.append((inputs.grad, layer.bias.grad))
    for ours, theirs in zip(*grads, strict=True):
        assert torch.equal(ours, theirs)
    assert packed.bias is layer.bias


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = latent(64, 32, bias=False)
        self.again = self.up
        self.down = latent(32, 64, granularity="tensor", activations="f32")
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        return self.head(self.down(torch.relu(self.up(x) + self.again(x))))


def test_freeze():
    model, x = Model().eval(), torch.randn(3, 32)
    with torch.no_grad():
        expected = model(x)
        assert tritgemm.freeze(model) == 2
        assert type(model.up) is PackedLinear and model.again is model.up and not model.up.training
        assert torch.equal(model(x), expected)
    assert type(model.head) is nn.Linear
    size = sum(t.nbytes for t in model.up.state_dict().values())
    assert size == 64 * 32 // 4 + 4 * 64
    assert tritgemm.freeze(model) == 0
    assert tritgemm.set_activations(model, "int8_torch") == 2
    assert model.down.train_activations == "int8_torch"
    hooked = Model()
    hooked.up.register_forward_hook(lambda *_: None)
    assert tritgemm.freeze(hooked) == 1 and type(hooked.up) is BitLinear
    with pytest.raises(TypeError, match="PackedLinear.from_linear"):
        tritgemm.freeze(latent())


def test_an_int8_head_keeps_int8_activations():
    model = nn.Sequential(latent(), tritgemm.Int8Linear(70, 4))
    assert tritgemm.set_activations(model, "int8_torch") == 2
    assert tritgemm.set_activations(model, "f32") == 1
    assert [layer.activations for layer in model] == ["f32", "int8_torch"]


@pytest.mark.parametrize("assign", [False, True])
def test_scales_are_loaded_in_float32(assign):
    layer = PackedLinear.from_linear(latent())
    layer.scales = layer.scales.half().float()
    state = {**layer.state_dict(), "scales": layer.scales.half()}
    fresh = PackedLinear(203, 70, granularity="row", activations="f32")
    fresh.load_state_dict(state, assign=assign)
    assert fresh.scales.dtype == torch.float32 and torch.equal(fresh.scales, layer.scales)
    fresh(torch.randn(2, 203))


def test_copies_and_pickles():
    packed, x = PackedLinear.from_linear(latent()), torch.randn(2, 203)
    with torch.no_grad():
        y = packed(x)
        for again in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
            assert again._ternary is None and torch.equal(again(x), y)


@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("granularity", ["row", 64])
def test_a_stack_has_the_bits_of_its_layers(activations, granularity):
    layers = [latent(m, 128, bias, granularity, activations) for m, bias in ((70, True), (3, False), (64, True))]
    layers[1] = PackedLinear.from_linear(layers[1])
    both = tritgemm.stack(layers)
    for x in (torch.randn(128), torch.randn(2, 3, 128), torch.randn(5, 128).bfloat16()):
        with torch.no_grad():
            for ours, layer in zip(both(x), layers, strict=True):
                assert ours.dtype == x.dtype and torch.equal(ours, layer(x))
    x = torch.randn(2, 128, requires_grad=True)
    sum(y.sum() for y in both(x)).backward()
    assert x.grad is not None and layers[0].weight.grad is not None
    assert len(both.state_dict()) == 2 + 2 + 2
    with torch.no_grad(), pytest.raises(tritgemm.ShapeError):
        both(torch.randn(2, 127))


def test_what_cannot_be_stacked():
    with pytest.raises(ValueError, match="at least one"):
        tritgemm.stack([])

    class Doubled(PackedLinear):
        def forward(self, x):
            return 2 * super().forward(x)

    for other in (tritgemm.Int8Linear(203, 70), nn.Linear(203, 70), Doubled(203, 70)):
        with pytest.raises(TypeError, match=f"expected BitLinear and PackedLinear, got {type(other).__name__}"):
            tritgemm.stack([latent(), other])
    for other in (latent(70, 200), latent(activations="f32"), latent(granularity=64)):
        with pytest.raises(ValueError, match="one in_features, one kind of activations and one group size"):
            tritgemm.stack([latent(), other])


@pytest.mark.skipif(not hasattr(torch.library, "custom_op"), reason="needs torch 2.4")
@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_compiled_and_exported(activations):
    torch._dynamo.reset()
    model = Model().eval()
    tritgemm.freeze(model)
    tritgemm.set_activations(model, activations)
    both = nn.Sequential(model, tritgemm.stack([latent(6, 5), latent(7, 5)]))
    x = torch.randn(3, 32)
    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        expected = both(x)
        for ours, theirs in zip(compiled(x), expected, strict=True):
            assert torch.equal(ours, theirs)
        exported = torch.export.export(both, (x,))
        for ours, theirs in zip(exported.module()(x), expected, strict=True):
            assert torch.equal(ours, theirs)
        model.up.scales.mul_(-1)
        assert not torch.equal(compiled(x)[0], expected[0])
        assert torch.equal(compiled(x)[0], both(x)[0])
        assert torch.equal(torch.vmap(model.up)(x), model.up(x))
    grads = []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        inputs = x.clone().requires_grad_()
        run(inputs).sum().backward()
        grads.append(inputs.grad)
    assert torch.equal(*grads)


@pytest.mark.skipif(not hasattr(torch.library, "custom_op"), reason="needs torch 2.4")
def test_the_operator_of_packed_weights():
    layer = PackedLinear.from_linear(latent(8, 12, granularity="row"))
    args = (torch.randn(3, 12), layer.weight, layer.scales, layer.bias.detach(), "row", "int8", layer._number)
    torch.library.opcheck(torch.ops.tritgemm.linear.default, args)


def test_options_of_an_earlier_call_do_not_stay(rng):
    """The scratch memory of a thread is kept from call to call, what a call asked for is not."""
    packed = tritgemm.Packed.from_trits(np.ones((4, 8), np.int8))
    x = np.full((1, 8), np.nan, np.float32)
    y = tritgemm.Linear(packed).forward_int8(x, non_finite="propagate")
    assert np.isnan(y).all()
    with pytest.raises(tritgemm.QuantizationError), torch.no_grad():
        PackedLinear.from_native(packed)(torch.from_numpy(x))
