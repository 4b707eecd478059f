"""What layers read and write in the memory of tensors: the bits of the numpy functions, whatever
lies where, and errors where there is no memory to read."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tritgemm  # noqa: E402
from tritgemm import BitLinear, Int8Linear, PackedLinear, RMSNorm  # noqa: E402

PATHS = ["f32", "int8", "int8_torch"]


def layer_of(activations: str, bias: bool = True) -> PackedLinear:
    torch.manual_seed(1)
    made = BitLinear(67, 21, bias, granularity="row")
    return PackedLinear.from_linear(made, activations=activations).eval()  # type: ignore[arg-type]


def expected(layer: PackedLinear, x: torch.Tensor) -> torch.Tensor:
    native = layer.to_native()
    dense = x.detach().float().reshape(-1, x.shape[-1]).numpy().copy()
    if layer.activations == "int8_torch":
        y = tritgemm.linear(dense, native, activations="int8_torch")
    else:
        y = getattr(native, f"forward_{layer.activations}")(dense)
    return torch.from_numpy(y).view(*x.shape[:-1], layer.out_features).to(x.dtype)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(67,), (1, 67), (2, 3, 67), (0, 67), (2, 0, 67)])
@pytest.mark.parametrize("bias", [False, True])
def test_bits(path: str, dtype: torch.dtype, shape: tuple[int, ...], bias: bool) -> None:
    layer = layer_of(path, bias)
    x = torch.randn(shape).to(dtype)
    with torch.no_grad():
        y = layer(x)
    assert y.dtype == dtype and y.shape == (*shape[:-1], 21)
    assert torch.equal(y, expected(layer, x))


@pytest.mark.parametrize("path", PATHS)
def test_memory_in_any_order(path: str) -> None:
    layer = layer_of(path)
    norm = RMSNorm(67)
    wide = torch.randn(9, 140)
    complex_values = torch.complex(torch.randn(4, 67), torch.randn(4, 67))
    inputs = {
        "columns": wide[:, 3:70],
        "every other": wide[:, :134:2],
        "transposed": torch.randn(67, 5).t(),
        "expanded": torch.randn(1, 67).expand(6, 67),
        "from the end": wide.flatten()[-67:],
        "negated when read": complex_values.conj().imag,
        "asks for a gradient": torch.randn(2, 67, requires_grad=True),
    }
    assert inputs["negated when read"].is_neg()
    for name, x in inputs.items():
        dense = x.detach().clone().resolve_neg().contiguous()
        with torch.no_grad():
            assert torch.equal(layer(x), expected(layer, dense)), name
            rows = norm(x)
        assert torch.equal(rows, torch.from_numpy(tritgemm.rms_norm(dense.numpy(), np.ones(67, np.float32)))), name


def test_int8_weights() -> None:
    torch.manual_seed(2)
    layer = Int8Linear.from_linear(torch.nn.Linear(35, 11))
    x = torch.randn(3, 35)
    values, scales = tritgemm.quantize_activations(x.numpy())
    sums = layer.weight.int() @ torch.from_numpy(values).int().t()
    whole = sums.t().float() * layer.scales * torch.from_numpy(scales)[:, None] + layer.bias
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        with torch.no_grad():
            y = layer(x.to(dtype).view(1, 3, 35))
        assert y.dtype == dtype and y.shape == (1, 3, 11)
        if dtype == torch.float32:
            assert torch.equal(y[0], whole)
    with torch.no_grad():
        assert layer(torch.empty(0, 35)).shape == (0, 11)


def test_int8_weights_whose_sums_might_overflow() -> None:
    longest = (2**31 - 1) // (121 * 127)
    layer = Int8Linear(longest, 1, bias=False)
    layer.weight.fill_(121)
    with torch.no_grad():
        assert layer(torch.ones(1, longest)).item() == pytest.approx(121 * longest)
        with pytest.raises(tritgemm.ShapeError, match=f"at most {longest}"):
            Int8Linear(longest + 1, 1, bias=False)(torch.ones(1, longest + 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_norm_of_other_types(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 67).to(dtype)
    norm = RMSNorm(67)
    with torch.no_grad():
        norm.weight.normal_()
        y = norm(x)
        assert y.dtype == dtype
        assert torch.equal(y, norm(x.float()).to(dtype))
        assert norm(x[:, :0]).shape == (2, 0, 67)


def test_no_memory() -> None:
    layer, norm = layer_of("int8"), RMSNorm(67)
    freed = torch.randn(2, 67)
    freed.untyped_storage().resize_(0)
    with torch.no_grad():
        for call in (layer, norm, layer_of("f32")):
            with pytest.raises((tritgemm.TritgemmError, RuntimeError)):
                call(freed)


def misaligned(tensor: torch.Tensor) -> torch.Tensor:
    """A copy whose elements lie a byte beside where they should."""
    buffer = torch.zeros(4 * tensor.numel() + 1, dtype=torch.uint8)
    array = buffer.numpy()[1:].view(np.float32).reshape(tensor.shape)
    array[...] = tensor.detach().numpy()
    moved = torch.from_numpy(array)
    assert moved.data_ptr() % 4
    return moved


def test_following_the_advice_aligns_memory() -> None:
    x, gain = torch.randn(2, 64), torch.ones(64)
    latent = BitLinear(64, 8)
    packed = PackedLinear.from_linear(latent)
    norm = RMSNorm(64)
    stacked = tritgemm.stack([packed, packed])

    def with_weight(weight: torch.Tensor) -> torch.Tensor:
        latent.weight = torch.nn.Parameter(weight)
        return latent(x)

    def with_scales(scales: torch.Tensor) -> torch.Tensor:
        packed.scales = scales
        return packed(x)

    def with_bias(bias: torch.Tensor) -> torch.Tensor:
        latent.bias = torch.nn.Parameter(bias)
        return latent(x)

    def with_gain(gain: torch.Tensor) -> torch.Tensor:
        norm.weight = torch.nn.Parameter(gain)
        return norm(x)

    uses = [
        ("x", latent, x),
        ("x", stacked, x),
        ("weights", with_weight, latent.weight),
        ("scales", with_scales, packed.scales),
        ("bias", with_bias, torch.zeros(8)),
        ("gain", with_gain, gain),
    ]
    with torch.no_grad():
        for name, use, tensor in uses:
            moved = misaligned(tensor)
            with pytest.raises(tritgemm.ShapeError, match=rf"{name}: expected memory that is aligned .*\.clone\(\)"):
                use(moved)
            use(moved.clone())


def test_operators_check_every_size() -> None:
    if not hasattr(torch.library, "custom_op"):
        pytest.skip("this torch has no custom operators")
    operator, none = torch.ops.tritgemm.linear, torch.tensor(-1)
    x, weight = torch.ones(2, 8), torch.ones(4, 16)
    int8 = torch.ones(4, 8, dtype=torch.int8)
    for path in PATHS:
        with pytest.raises(tritgemm.ShapeError, match="x: expected 2 x 16 elements, got 16"):
            operator(x, weight, None, None, "row", path, none)
        with pytest.raises(tritgemm.ShapeError, match="bias: expected 1 x 4 elements, got 3"):
            operator(x, weight[:, :8], None, torch.ones(3), "row", path, none)
    with pytest.raises(tritgemm.ShapeError, match="scales: expected 1 x 4 elements, got 3"):
        operator(x, int8, torch.ones(3), None, "int8", "int8", none)
    with pytest.raises(tritgemm.ShapeError, match="x: expected 2 x 16 elements, got 16"):
        torch.ops.tritgemm.rms_norm(x, torch.ones(16), 1e-6)
    with pytest.raises(tritgemm.TritgemmError, match="on the CPU, got one on meta"):
        layer = layer_of("int8")
        layer.bias = torch.nn.Parameter(torch.ones(21, device="meta"))
        with torch.no_grad():
            layer(torch.ones(1, 67))
