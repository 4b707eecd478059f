"""rms_norm, and RMSNorm where there is torch."""

from __future__ import annotations

import numpy as np
import pytest

import tritgemm
from conftest import float_types, same_bits


def reference(x, gain, eps):
    x = x.astype(np.float64)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gain


@pytest.mark.parametrize("dtype", float_types())
def test_values(rng, dtype):
    x = rng.standard_normal((5, 77), dtype=np.float32).astype(dtype)
    gain = rng.standard_normal(77, dtype=np.float32)
    y = tritgemm.rms_norm(x, gain, 1e-5)
    assert y.dtype == dtype and y.shape == x.shape
    tolerance = 1e-6 if dtype == np.float32 else 1e-2
    np.testing.assert_allclose(y.astype(np.float32), reference(x, gain, 1e-5), rtol=tolerance, atol=1e-6)
    same_bits(tritgemm.rms_norm(x[3], gain, 1e-5), y[3])


def test_gradients(rng):
    x, grad_y = rng.standard_normal((2, 5, 77), dtype=np.float32)
    gain = rng.standard_normal(77, dtype=np.float32)
    grad_x, grad_gain = tritgemm.rms_norm_backward(x, grad_y, gain)
    wide, r = x.astype(np.float64), 1 / np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True) + 1e-6)
    g = grad_y * gain.astype(np.float64)
    np.testing.assert_allclose(grad_x, r * g - wide * r**3 * (g * wide).mean(1, keepdims=True), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grad_gain, (grad_y * wide * r).sum(0), rtol=1e-4, atol=1e-5)


def test_wrong_inputs():
    gain = np.ones(4, np.float32)
    with pytest.raises(tritgemm.ShapeError, match="5"):
        tritgemm.rms_norm(np.ones((2, 5), np.float32), gain)
    with pytest.raises(tritgemm.ShapeError, match="`gain` is empty"):
        tritgemm.rms_norm(np.ones((2, 0), np.float32), gain[:0])
    with pytest.raises(tritgemm.TritgemmError, match="`eps` is -1"):
        tritgemm.rms_norm(np.ones((2, 4), np.float32), gain, -1.0)
    with pytest.raises(TypeError, match="x: expected float32, float16 or bfloat16"):
        tritgemm.rms_norm(np.ones((2, 4)), gain)
    with pytest.raises(tritgemm.ShapeError, match="grad_y"):
        tritgemm.rms_norm_backward(np.ones((2, 4), np.float32), np.ones((3, 4), np.float32), gain)


def test_the_layer():
    torch = pytest.importorskip("torch")
    torch.manual_seed(2)
    norm = tritgemm.RMSNorm(77, eps=1e-5)
    assert norm.state_dict().keys() == torch.nn.RMSNorm(77).state_dict().keys()
    with torch.no_grad():
        norm.weight.normal_()
    x = torch.randn(2, 3, 77, requires_grad=True)
    y = norm(x)
    same_bits(y.detach().numpy()[1], tritgemm.rms_norm(x.detach().numpy()[1], norm.weight.detach().numpy(), 1e-5))
    grad_y = torch.randn(y.shape)
    y.backward(grad_y)
    twin = x.detach().double().requires_grad_()
    gain = norm.weight.detach().double().requires_grad_()
    torch.nn.functional.rms_norm(twin, (77,), gain, 1e-5).backward(grad_y.double())
    torch.testing.assert_close(x.grad.double(), twin.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.weight.grad.double(), gain.grad, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        half = norm(x.bfloat16())
        assert half.dtype == torch.bfloat16 and torch.equal(half, norm(x.bfloat16().float()).bfloat16())
        assert norm(torch.zeros(0, 77)).shape == (0, 77)
    assert repr(norm) == "RMSNorm(77, eps=1e-05)"
    with pytest.raises(tritgemm.ShapeError, match=r"x: expected \[..., 77\], got \[2, 7\]"):
        norm(torch.zeros(2, 7))
    with pytest.raises(TypeError, match="floating-point"):
        norm(torch.zeros(2, 77, dtype=torch.int32))
    with pytest.raises(tritgemm.TritgemmError, match="weight: expected a tensor on the CPU"):
        tritgemm.RMSNorm(4, device="meta")(torch.zeros(2, 4))


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_the_operator():
    torch = pytest.importorskip("torch")
    if not hasattr(torch.library, "custom_op"):
        pytest.skip("needs torch 2.4")
    x, gain = torch.randn(3, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.tritgemm.rms_norm.default, (x, gain, 1e-6), test_utils=tests)
