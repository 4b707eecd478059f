"""BitLinear and replace_linear. Skipped where torch is missing."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import tritgemm
from conftest import summation_error

torch = pytest.importorskip("torch")
nn = torch.nn
BitLinear = tritgemm.BitLinear


class Clamp(torch.autograd.Function):
    """round(clamp(w)), with the clamp's gradient: 0 at -1 and 1 themselves."""

    @staticmethod
    def forward(ctx, w):
        ctx.save_for_backward(w)
        return w.clamp(-1, 1).round()

    @staticmethod
    def backward(ctx, grad):
        (w,) = ctx.saved_tensors
        return grad * (w.abs() < 1)


def reference(x, weight, bias, sparse=False):
    """The layer in plain torch operations, in f64, its alphas and quotients as
    in f32."""
    alpha = weight.detach().double().abs().mean(1, keepdim=True).clamp_min(1e-5).float()
    quotient = weight / alpha
    q = Clamp.apply(quotient)
    if sparse:
        _, k = q.shape
        groups = nn.functional.pad(q.detach().abs(), (0, -k % 4)).view(q.shape[0], -1, 4)
        # Of equal magnitudes the later ones stay: a tiny bonus for position.
        order = (groups + torch.arange(4) * 1e-3).argsort(-1, descending=True)
        keep = torch.zeros_like(groups).scatter_(-1, order[..., :2], 1.0)
        # What is 0 takes no gradient, whether it was dropped or rounded to it.
        q = q * keep.view(q.shape[0], -1)[:, :k] * (q.detach() != 0)
    y = x.double() @ (q.double() * alpha.double()).t()
    return y if bias is None else y + bias.double()


def layer_of(k=203, m=70, **kwargs):
    torch.manual_seed(3)
    return BitLinear(k, m, **kwargs)


def test_constructor_and_state_dict_are_those_of_linear():
    for bias in (True, False):
        torch.manual_seed(5)
        ours = BitLinear(7, 3, bias)
        torch.manual_seed(5)
        theirs = nn.Linear(7, 3, bias)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name
        ours.load_state_dict(theirs.state_dict())
        theirs.load_state_dict(ours.state_dict())
    half = BitLinear(7, 3, dtype=torch.bfloat16)
    assert half.weight.dtype == half.bias.dtype == torch.bfloat16
    assert BitLinear(7, 3, device="meta").weight.is_meta
    assert "nm_2_4=True" in repr(BitLinear(7, 3, nm_2_4=True))
    with pytest.raises(ValueError, match="expected 'f32', 'int8' or 'int8_torch', got 'int4'"):
        BitLinear(7, 3, activations="int4")


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(203,), (5, 203), (2, 3, 203), (0, 203)])
def test_forward_and_gradients_are_the_straight_through_formulas(sparse, bias, shape):
    layer = layer_of(bias=bias, nm_2_4=sparse)
    x = torch.randn(shape, requires_grad=True)
    y = layer(x)
    assert y.shape == (*shape[:-1], 70) and y.dtype == torch.float32
    grad_y = torch.randn(y.shape)
    y.backward(grad_y)
    got = [y.detach(), x.grad, layer.weight.grad] + ([layer.bias.grad] if bias else [])

    x2 = x.detach().clone().requires_grad_()
    weight = layer.weight.detach().clone().requires_grad_()
    offset = layer.bias.detach().clone().requires_grad_() if bias else None
    expected_y = reference(x2, weight, offset, sparse)
    expected_y.backward(grad_y.double())
    expected = [expected_y.detach(), x2.grad, weight.grad] + ([offset.grad] if bias else [])
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=2e-5, atol=2e-5)
    # The gates themselves are exact.
    assert torch.equal(got[2] == 0, expected[2] == 0)
    if x.numel():
        assert 0 < (got[2] == 0).sum() < got[2].numel()


def test_reference_values(golden):
    """Within the error of f32 summation of the reference's f64 answer, and of
    twice that between two f32 results."""
    tensors = {
        name: torch.tensor(value) for name, value in golden.items() if value.dtype == np.float32
    }
    m, k = tensors["weight"].shape
    bias, sparse = tensors.get("bias"), bool(golden["nm_2_4"][0])
    layer = BitLinear(k, m, bias is not None, sparse)
    state = {"weight": tensors["weight"]} | ({} if bias is None else {"bias": bias})
    layer.load_state_dict(state)
    x = tensors["x"].clone().requires_grad_()
    y = layer(x)
    y.backward(tensors["grad_y"])
    dense = np.abs(golden["dense"].astype(np.float64))
    size = np.abs(golden["x"].astype(np.float64)) @ dense.T
    size += 0 if bias is None else np.abs(golden["bias"])
    # The alphas may differ by 2 ulp.
    slack = 2 * 2.0**-23
    bound = (summation_error(k + 2) + slack) * size
    trained = y.detach().numpy()
    assert (np.abs(trained - golden["infer_y_f64"]) <= bound).all()
    assert (np.abs(trained - golden["train_y"]) <= 2 * bound).all()
    with torch.no_grad():
        assert torch.equal(layer.eval()(x), y)

    size = np.abs(golden["grad_y"].astype(np.float64)) @ dense
    bound = 2 * (summation_error(m + 1) + slack) * size
    assert (np.abs(x.grad.numpy() - golden["grad_x"]) <= bound).all()
    grad_w = layer.weight.grad.numpy()
    np.testing.assert_array_equal(grad_w == 0, golden["grad_w"] == 0)
    size = np.abs(golden["grad_y"].T.astype(np.float64)) @ np.abs(golden["x"])
    bound = 2 * summation_error(len(golden["x"]) + 2) * size
    assert (np.abs(grad_w - golden["grad_w"]) <= bound).all()
    mask = layer.ternary_nonzero_mask()
    assert mask.dtype == torch.bool
    np.testing.assert_array_equal(mask.numpy(), golden["mask"].astype(bool))


def test_gradients_where_only_some_are_asked_for():
    x = torch.randn(4, 203)
    layer = layer_of()
    layer(x).sum().backward()
    weight_grad = layer.weight.grad
    frozen = layer_of().requires_grad_(False)
    inputs = x.clone().requires_grad_()
    frozen(inputs).sum().backward()
    assert frozen.weight.grad is None and inputs.grad is not None
    layer = layer_of()
    layer.bias.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.bias.grad is None and torch.equal(layer.weight.grad, weight_grad)
    assert not layer_of().requires_grad_(False)(x).requires_grad
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        inputs = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(layer_of()(inputs).square().sum(), inputs, create_graph=True)
        grad.sum().backward()


def packs(layer):
    return layer._ternary and layer._ternary.packed


def test_weights_are_packed_once_and_again_after_each_change():
    layer, x = layer_of(), torch.randn(3, 203)
    assert packs(layer) is None
    first = layer(x)
    packed = packs(layer)
    layer.eval()
    with torch.no_grad():
        assert torch.equal(layer(x), first), "training and inference give the same bits"
    layer.ternary_nonzero_mask()
    assert layer.prepare_for_inference() is layer
    assert packs(layer) is packed, "unchanged weights stay packed"

    other = layer_of().state_dict()
    other["weight"] = -other["weight"]
    changes = {
        "in place": lambda: layer.weight.add_(0.1),
        "an element": lambda: layer.weight.__setitem__((0, 0), 9.0),
        "state dict": lambda: layer.load_state_dict(other),
        "new data": lambda: setattr(layer.weight, "data", torch.randn(70, 203)),
        "new parameter": lambda: setattr(layer, "weight", nn.Parameter(torch.randn(70, 203))),
        "2:4": lambda: setattr(layer, "nm_2_4", True),
        "dtype": lambda: layer.double(),
    }
    for name, change in changes.items():
        before = packs(layer)
        with torch.no_grad():
            change()
            layer(x)
        assert packs(layer) is not before, name
        with torch.no_grad():
            expected = reference(x, layer.weight.float(), layer.bias.float(), layer.nm_2_4)
            torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_a_changed_bias_counts_and_packs_nothing():
    layer, x = layer_of(), torch.randn(3, 203)
    with torch.no_grad():
        before, packed = layer(x), packs(layer)
        layer.bias.data += 1
        torch.testing.assert_close(layer(x), before + 1)
    assert packs(layer) is packed


def test_changes_behind_the_counter_need_invalidate_packed():
    layer, x = layer_of(), torch.randn(3, 203)
    with torch.no_grad():
        before = layer(x)
        layer.weight.data.neg_()
        assert torch.equal(layer(x), before), "as documented: .data is not counted"
        layer.invalidate_packed()
        assert packs(layer) is None
        torch.testing.assert_close(layer(x) - layer.bias, layer.bias - before)


OPTIMIZERS = [
    (torch.optim.SGD, {}),
    (torch.optim.SGD, {"foreach": True}),
    (torch.optim.SGD, {"fused": True}),
    (torch.optim.AdamW, {"foreach": False}),
    (torch.optim.AdamW, {"foreach": True}),
    (torch.optim.AdamW, {"fused": True}),
    (torch.optim.Adagrad, {"fused": True}),
    (torch.optim.RMSprop, {}),
]


@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)
def test_the_steps_of_optimizers_are_seen(kind, options):
    layer, x = layer_of(), torch.randn(8, 203)
    optimizer = kind(layer.parameters(), lr=0.05, **options)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        before = packs(layer)
        optimizer.step()
        layer(x)
        assert packs(layer) is not before
        fresh = BitLinear(203, 70)
        fresh.load_state_dict(layer.state_dict())
        assert torch.equal(layer(x), fresh(x))


def test_weights_of_inference_mode_count_no_versions():
    with torch.inference_mode():
        layer, x = BitLinear(16, 8), torch.randn(2, 16)
        layer(x)
        layer.weight.neg_()
        fresh = reference(x, layer.weight, layer.bias)
        torch.testing.assert_close(layer(x).double(), fresh, rtol=1e-5, atol=1e-5)
        packed = packs(layer.prepare_for_inference())
        layer(x)
        assert packs(layer) is packed, "asked for, it stays"
        layer.weight.neg_()
        assert packs(layer.prepare_for_inference()) is not packed


def test_training_learns():
    torch.manual_seed(1)
    model = nn.Sequential(BitLinear(16, 64), nn.ReLU(), BitLinear(64, 2))
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("activations", ["f32", "int8"])
def test_other_dtypes_compute_in_float32(dtype, activations):
    layer = layer_of(activations=activations).to(dtype)
    x = torch.randn(5, 203).to(dtype)
    wide = layer_of(activations=activations)
    wide.load_state_dict({k: v.float() for k, v in layer.state_dict().items()})
    with torch.no_grad():
        y = layer(x)
        assert y.dtype == dtype
        assert torch.equal(y, wide(x.float()).to(dtype))
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad.dtype == layer.weight.grad.dtype == layer.bias.grad.dtype == dtype


def test_autocast_changes_nothing():
    x = torch.randn(5, 203)
    for layer in every_layer():
        with torch.no_grad():
            expected = layer(x)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert torch.equal(layer(x), expected) and expected.dtype == x.dtype


def test_int8_activations_in_inference():
    layer = layer_of(activations="int8")
    x = torch.randn(5, 203)
    with torch.no_grad():
        y = layer(x)
    native = layer.to_native()
    np.testing.assert_array_equal(y.numpy(), native.forward_int8(x.numpy()))
    np.testing.assert_array_equal(layer(x).detach().numpy(), native.forward_f32(x.numpy()))


def test_strided_and_transposed_inputs():
    layer = layer_of()
    x = torch.randn(6, 400)
    with torch.no_grad():
        for view in (x[:, 7:210], x[::2, :203]):
            assert torch.equal(layer(view), layer(view.contiguous()))
        turned = torch.randn(203, 6).t()
        assert torch.equal(layer(turned), layer(turned.contiguous()))


def test_wrong_inputs():
    layer = layer_of()
    with pytest.raises(tritgemm.ShapeError, match=r"x: expected \[..., 203\], got \[2, 204\]"):
        layer(torch.randn(2, 204))
    with pytest.raises(tritgemm.ShapeError, match=r"got \[\]"):
        layer(torch.tensor(1.0))
    with pytest.raises(TypeError, match="floating-point tensor, got torch.int64"):
        layer(torch.zeros(2, 203, dtype=torch.int64))
    with pytest.raises(tritgemm.TritgemmError, match="x: expected a tensor on the CPU, got one on meta"):
        layer(torch.randn(2, 203, device="meta"))
    with pytest.raises(tritgemm.TritgemmError, match="weight: expected a tensor on the CPU"):
        BitLinear(4, 4, device="meta").prepare_for_inference()
    with torch.no_grad():
        layer.weight[3, 5] = float("nan")
    with pytest.raises(tritgemm.QuantizationError, match="row 3, column 5 is NaN"):
        layer(torch.randn(2, 203))


def test_empty_layers():
    for k, m in ((0, 5), (5, 0)):
        layer = BitLinear.from_linear(nn.Linear(4, 4))
        layer.weight, layer.bias = nn.Parameter(torch.zeros(m, k)), nn.Parameter(torch.ones(m))
        layer.in_features, layer.out_features = k, m
        x = torch.randn(3, k, requires_grad=True)
        y = layer(x)
        y.sum().backward()
        assert torch.equal(y, torch.ones(3, m)) and x.grad.shape == (3, k)


def test_copies_and_pickles():
    layer, x = layer_of(), torch.randn(2, 203)
    y = layer(x)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert packs(again) is None
        assert torch.equal(again(x), y)


def test_to_native_saves_what_inference_computes(tmp_path):
    layer, x = layer_of(), torch.randn(2, 203)
    layer.to_native().save(tmp_path / "layer")
    y = tritgemm.Linear.load(tmp_path / "layer", mmap=True).forward_f32(x.numpy())
    np.testing.assert_array_equal(y, layer(x).detach().numpy())


def test_under_compile():
    layer, x = layer_of().eval(), torch.randn(2, 203)
    model = nn.Sequential(layer, nn.ReLU())
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(x), model(x))
        layer.weight.neg_()
        assert torch.equal(compiled(x), model(x))
    inputs = x.clone().requires_grad_()
    compiled(inputs).sum().backward()
    expected = x.clone().requires_grad_()
    model(expected).sum().backward()
    assert torch.equal(inputs.grad, expected.grad)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(16, 32), "down": nn.Linear(32, 16, bias=False)})
            for _ in range(2)
        )
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.shared = nn.Linear(16, 16)
        self.again = self.shared
        self.lm_head = nn.Linear(16, 11, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, tokens):
        h = self.embed(tokens)
        for block in self.blocks:
            h = h + block["down"](torch.relu(block["up"](h)))
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.lm_head(self.again(self.shared(h)))


def test_replace_linear():
    model = Model().to(torch.float64).eval()
    state, parameters = list(model.state_dict()), list(model.parameters())
    model.blocks[1]["up"].requires_grad_(False)
    hooked = model.blocks[1]["down"]
    hooked.register_forward_hook(lambda *_: None)
    assert tritgemm.replace_linear(model, exclude=["lm_*"], nm_2_4=True) == 4
    assert list(model.state_dict()) == state
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert type(model.blocks[0]["down"]) is BitLinear and model.blocks[0]["down"].bias is None
    assert model.blocks[0]["up"].nm_2_4 and not model.blocks[0]["up"].training
    assert not model.blocks[1]["up"].weight.requires_grad
    assert model.blocks[1]["down"] is hooked, "a layer with hooks is left alone"
    assert model.again is model.shared and type(model.shared) is BitLinear
    assert type(model.lm_head) is nn.Linear
    assert type(model.attention.out_proj) is not BitLinear
    out = model(torch.arange(11)[None])
    assert out.shape == (1, 11, 11) and out.dtype == torch.float64

    assert tritgemm.replace_linear(model) == 1, "the excluded one"
    assert model.lm_head.weight is model.embed.weight
    assert tritgemm.replace_linear(model) == 0
    model(torch.arange(11)[None]).sum().backward()

    model = Model()
    chosen = tritgemm.replace_linear(model, filter=lambda name, layer: layer.bias is None)
    assert chosen == 3 and type(model.shared) is nn.Linear
    with pytest.warns(UserWarning, match="exclude: no module's name matches 'head'"):
        assert tritgemm.replace_linear(model, exclude="head") == 3
    with pytest.raises(TypeError, match="BitLinear.from_linear"):
        tritgemm.replace_linear(nn.Linear(2, 2))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_encoders_of_torch_call_the_layers(whole, masked):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2) if whole else layer
    model.eval()
    x = torch.randn(3, 5, 16)
    hidden = torch.arange(5) >= torch.tensor([5, 3, 4])[:, None] if masked else None
    with torch.no_grad():
        dense = model(x, src_key_padding_mask=hidden)
    assert tritgemm.replace_linear(model) == (4 if whole else 2)
    expected = model(x, src_key_padding_mask=hidden).detach()
    with torch.no_grad():
        seen = ~hidden if masked else torch.ones(3, 5, dtype=torch.bool)
        assert not torch.allclose(expected[seen], dense[seen], atol=1e-2)
        # Attention is torch's own, which fuses it in inference alone.
        close = {"rtol": 1e-4, "atol": 1e-5}
        found = model(x, src_key_padding_mask=hidden)
        torch.testing.assert_close(found[seen], expected[seen], **close)
        tritgemm.freeze(model)
        assert torch.equal(model(x, src_key_padding_mask=hidden), found)


def test_parametrized_weights_are_read_once_a_pass():
    from torch.nn.utils import parametrize

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(70, 1))

        def forward(self, weight):
            return weight * self.factor

    layer, x = layer_of(), torch.randn(2, 203)
    parametrize.register_parametrization(layer, "weight", Scaled())
    reads = []
    layer.parametrizations.weight[0].register_forward_hook(lambda *_: reads.append(1))
    for step in range(50):
        with torch.no_grad():
            layer.parametrizations.weight[0].factor.normal_()
            junk = [torch.empty(70, 203) for _ in range(step % 3)]  # moves the allocator on
            reads.clear()
            y = layer(x)
            assert len(reads) == 1
            del junk
            expected = reference(x, layer.weight, layer.bias)
        torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


operators = pytest.mark.skipif(
    not hasattr(torch.library, "custom_op"), reason="torch before 2.4 has no such operators"
)


class Block(nn.Module):
    def __init__(self, activations):
        super().__init__()
        self.up = BitLinear(32, 64, activations=activations)
        self.down = BitLinear(64, 32, bias=False, nm_2_4=True, activations=activations)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


@operators
@pytest.mark.parametrize(
    ("backend", "dtype"),
    # Inductor keeps what is between the layers in float32, whatever the dtype says.
    [("aot_eager", torch.float32), ("aot_eager", torch.bfloat16), ("inductor", torch.float32)],
)
@pytest.mark.parametrize("activations", ["f32", "int8"])
def test_a_whole_graph_compiles_to_the_same_bits(backend, activations, dtype):
    torch._dynamo.reset()
    torch.manual_seed(7)
    model = Block(activations).to(dtype)
    x = torch.randn(3, 5, 32).to(dtype)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(compiled(x), expected)
        model.up.weight.neg_()
        changed = compiled(x)
        assert torch.equal(changed, model(x)) and not torch.equal(changed, expected)
    grads = []
    for run in (model, compiled):
        model.zero_grad()
        inputs = x.clone().requires_grad_()
        run(inputs).sum().backward()
        grads.append([inputs.grad, *(p.grad.clone() for p in model.parameters())])
    for ours, theirs in zip(*grads, strict=True):
        assert torch.equal(ours, theirs)


@operators
def test_training_under_compile_sees_every_step():
    torch.manual_seed(8)
    models = [Block("f32"), Block("f32")]
    models[1].load_state_dict(models[0].state_dict())
    runs = [models[0], torch.compile(models[1], backend="aot_eager", fullgraph=True)]
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.05) for m in models]
    for _ in range(4):
        x = torch.randn(8, 32)
        for run, optimizer in zip(runs, optimizers, strict=True):
            optimizer.zero_grad()
            run(x).square().mean().backward()
            optimizer.step()
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(a, b)


@operators
def test_one_graph_serves_all_blocks():
    torch._dynamo.reset()
    blocks, x = [Block("int8") for _ in range(4)], torch.randn(4, 32)
    compiles = []

    def backend(graph, inputs):
        compiles.append(graph)
        return graph.forward

    with torch.no_grad():
        for block in blocks:
            compiled = torch.compile(block, backend=backend, fullgraph=True)
            assert torch.equal(compiled(x), block(x))
    assert len(compiles) == 1


@operators
@pytest.mark.filterwarnings("ignore:.*jit.trace", "ignore::torch.jit.TracerWarning")
def test_exported_and_traced_models_compute_the_same_bits():
    model, x = Block("int8").eval(), torch.randn(4, 32)
    with torch.no_grad():
        expected = model(x)
        exported = torch.export.export(model, (x,))
        assert torch.equal(exported.module()(x), expected)
        traced = torch.jit.trace(model, (x,))
        other = torch.randn(4, 32)
        assert torch.equal(traced(other), model(other))
        assert not torch.equal(traced(other), expected)


@operators
def test_a_graph_outlives_its_layer():
    model, x = Block("f32").eval(), torch.randn(4, 32)
    with torch.no_grad():
        expected = model(x)
        exported = torch.export.export(model, (x,))
        del model
        assert torch.equal(exported.module()(x), expected)


@operators
def test_transforms_of_functions():
    layer, x = layer_of(), torch.randn(6, 203)
    with torch.no_grad():
        stacked = torch.randn(203, 4, 3)
        for each in every_layer():
            assert torch.equal(torch.vmap(each)(x), each(x))
            mapped = torch.vmap(each, in_dims=1)(stacked.transpose(0, 2))
            assert torch.equal(mapped, each(stacked.permute(1, 2, 0)))
        with pytest.raises(NotImplementedError, match="vmap over weights"):
            weights = torch.randn(2, 70, 203)
            torch.vmap(lambda w: torch.func.functional_call(layer, {"weight": w}, (x,)))(weights)
    for layer in every_layer():
        name = type(layer).__name__
        for transform in (torch.func.grad, torch.func.jacrev):
            with pytest.raises(NotImplementedError, match=f"{name}: torch.func takes no gradients"):
                transform(lambda x: layer(x).square().sum())(x)


def every_layer():
    """One of each kind, of 203 features."""
    torch.manual_seed(3)
    dense = nn.Linear(203, 70)
    packed = tritgemm.PackedLinear.from_linear(BitLinear.from_linear(dense))
    return [layer_of(), packed, tritgemm.Int8Linear.from_linear(dense), tritgemm.RMSNorm(203)]


class Wrapped(torch.Tensor):
    """A tensor that holds another one, and hears of operators alone."""

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        given = [arg.inner if isinstance(arg, Wrapped) else arg for arg in args]
        return Wrapped(function(*given, **(kwargs or {})))


@operators
@pytest.mark.parametrize("grad", [True, False])
def test_who_looks_at_operators_sees_those_of_the_layers(grad):
    from torch.fx.experimental.proxy_tensor import make_fx

    x = torch.randn(4, 203)
    for layer in every_layer():
        with torch.set_grad_enabled(grad):
            graph, other = make_fx(layer)(x), torch.randn(4, 203)
            assert torch.equal(graph(other), layer(other))
            assert "tritgemm" in graph.code
        with torch.no_grad():
            assert torch.equal(layer(Wrapped(x)).inner, layer(x))


@pytest.mark.parametrize("grad", [True, False])
def test_forward_mode_is_refused(grad):
    from torch.autograd import forward_ad, functional

    x = torch.randn(4, 203)
    ones = torch.ones_like(x)

    def dual(layer):
        with forward_ad.dual_level():
            layer(forward_ad.make_dual(x, ones))

    def of_a_bias(layer):
        state = {name: p.detach() for name, p in layer.named_parameters()}
        name = "bias" if "bias" in state else "weight"

        def call(p):
            return torch.func.functional_call(layer, {**state, name: p}, (x,))

        torch.func.jvp(call, (state[name],), (torch.ones_like(state[name]),))

    calls = [
        dual,
        of_a_bias,
        lambda layer: torch.func.jvp(layer, (x,), (ones,)),
        lambda layer: torch.func.jacfwd(layer)(x),
        lambda layer: torch.vmap(lambda x, v: torch.func.jvp(layer, (x,), (v,)))(x, ones),
        lambda layer: torch.func.jvp(torch.vmap(layer), (x,), (ones,)),
        lambda layer: torch.func.linearize(layer, x),
    ]
    for layer in every_layer():
        layer.requires_grad_(grad)
        for call in calls:
            with pytest.raises(NotImplementedError, match=f"{type(layer).__name__}: .*forward-mode"):
                call(layer)
        with forward_ad.dual_level():
            assert layer(x).shape[0] == 4, "of what has no tangent"
        for twice in (functional.jvp, functional.hvp):
            with pytest.raises(NotImplementedError, match="no second derivatives"):
                twice(lambda x: layer(x).square().sum(), x, ones)


@operators
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("grad", [True, False])
def test_operators_keep_their_promises(grad):
    layer = layer_of(k=12, m=8, nm_2_4=True)
    x = torch.randn(3, 12, requires_grad=grad)
    weight = layer.weight.detach().requires_grad_(grad)
    bias = layer.bias.detach().requires_grad_(grad)
    args = (x, weight, None, bias, "row+2:4", "f32", layer._number)
    # Its numerical gradient is not the straight-through one: schema, fake and dispatch.
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.tritgemm.linear.default, args, test_utils=tests)
    grad_y = torch.randn(3, 8)
    plain = (grad_y, layer.weight.detach(), None, "row+2:4", 12, layer._number)
    torch.library.opcheck(torch.ops.tritgemm.linear_input_gradient.default, plain)
    plain = (grad_y, x.detach(), layer.weight.detach(), "row+2:4", "int8", layer._number)
    torch.library.opcheck(torch.ops.tritgemm.linear_weight_gradient.default, plain)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="torch's threads are used on Linux alone")
def test_products_run_on_torchs_threads():
    code = """
import glob, os, torch, tritgemm
layer = tritgemm.BitLinear(1024, 1024)
torch.set_num_threads(3)
before = len(os.listdir("/proc/self/task"))
with torch.no_grad():
    y = layer(torch.ones(64, 1024))
names = [open(path).read() for path in glob.glob("/proc/self/task/*/comm")]
print(tritgemm.get_num_threads(), len(names) - before, sum(name.startswith("tritgemm-") for name in names))
"""
    variables = {**os.environ, "TRITGEMM_NUM_THREADS": ""}
    result = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120)
    threads, started, ours = map(int, result.stdout.split())
    assert (threads, ours) == (3, 0) and started <= 2, result.stderr
