"""gemm_i8, linear and prepared activations against plain numpy."""

import numpy as np
import pytest

import tritgemm
from conftest import summation_error

SHAPES = [(1, 1, 1), (3, 5, 2), (64, 240, 1), (65, 241, 7), (130, 333, 40), (0, 8, 3), (8, 0, 3), (8, 8, 0)]


def integers(rng, shape):
    return rng.integers(-128, 128, shape, dtype=np.int8)


def weights(rng, m, k, **kwargs):
    trits = rng.integers(-1, 2, (m, k), dtype=np.int8)
    return trits, tritgemm.Packed.from_trits(trits, **kwargs)


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_the_integer_product_is_exact(rng, m, k, n):
    trits, packed = weights(rng, m, k)
    x = integers(rng, (n, k))
    y = tritgemm.gemm_i8(packed, x)
    assert y.dtype == np.int32
    expected = x.astype(np.int64) @ trits.T.astype(np.int64)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(packed.gemm_i8(x), expected)
    np.testing.assert_array_equal(tritgemm.gemm_i8(tritgemm.pack(trits), x), expected)
    np.testing.assert_array_equal(tritgemm.gemm_i8(tritgemm.Linear(packed), x), expected)
    prepared = tritgemm.PreparedActivations.from_int8(x)
    np.testing.assert_array_equal(tritgemm.gemm_i8(packed, prepared), expected)


def test_the_extremes_do_not_overflow():
    k = 65536
    packed = tritgemm.Packed.from_trits(np.full((3, k), -1, np.int8))
    y = packed.gemm_i8(np.full((2, k), -128, np.int8))
    assert (y == 128 * k).all()


def test_vectors_give_vectors(rng):
    trits, packed = weights(rng, 70, 130)
    x = integers(rng, 130)
    y = packed.gemm_i8(x)
    assert y.shape == (70,)
    np.testing.assert_array_equal(y, trits.astype(np.int64) @ x)
    out = np.empty(70, np.int32)
    assert packed.gemm_i8(x, out) is out
    np.testing.assert_array_equal(out, y)
    assert tritgemm.linear(x.astype(np.float32), packed).shape == (70,)
    prepared = tritgemm.Linear(packed).prepare_int8(x.astype(np.float32))
    assert tritgemm.linear(prepared, packed).shape == (70,)


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_the_float_path_within_the_error_of_summation(rng, m, k, n):
    scales = rng.standard_normal(m, dtype=np.float32)
    bias = rng.standard_normal(m, dtype=np.float32)
    trits, packed = weights(rng, m, k, scales=scales)
    x = rng.standard_normal((n, k), dtype=np.float32)
    dense = trits * scales[:, None].astype(np.float64)
    exact = x.astype(np.float64) @ dense.T + bias
    size = np.abs(x.astype(np.float64)) @ np.abs(dense).T + np.abs(bias)
    y = tritgemm.linear(x, packed, bias)
    assert y.dtype == np.float32 and y.shape == (n, m)
    assert (np.abs(y - exact) <= summation_error(k + 2) * size).all()
    layer = tritgemm.Linear(packed, bias)
    np.testing.assert_array_equal(layer.forward_f32(x), y)
    np.testing.assert_array_equal(tritgemm.linear(x, layer), y)
    prepared = layer.prepare_f32(x)
    np.testing.assert_array_equal(layer.forward_f32(prepared), y)
    np.testing.assert_array_equal(tritgemm.linear(prepared, layer), y)
    np.testing.assert_array_equal(tritgemm.linear(prepared, layer, None, "f32"), y)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_int8_path_is_the_quantised_product(rng, dtype):
    scales = rng.uniform(0.1, 2, 66).astype(np.float32)
    bias = rng.standard_normal(66, dtype=np.float32)
    trits, packed = weights(rng, 66, 259, scales=scales)
    x = rng.standard_normal((9, 259)).astype(dtype)
    values, token_scales = tritgemm.quantize_activations(x)
    sums = values.astype(np.int64) @ trits.T.astype(np.int64)
    product = sums * scales.astype(np.float64) * token_scales[:, None].astype(np.float64)
    y = tritgemm.linear(x, packed, bias, activations="int8")
    error = summation_error(5) * (np.abs(product) + np.abs(bias))
    assert (np.abs(y - (product + bias)) <= error).all()
    layer = tritgemm.Linear(packed, bias)
    np.testing.assert_array_equal(layer.forward_int8(x), y)
    for prepared in (
        layer.prepare_int8(x),
        tritgemm.PreparedActivations.from_int8(values, token_scales),
    ):
        assert prepared.activations == "int8" and prepared.shape == (9, 259)
        np.testing.assert_array_equal(tritgemm.linear(prepared, packed, bias), y)
        np.testing.assert_array_equal(layer.forward_int8(prepared), y)


def test_bfloat16_activations(rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    _, packed = weights(rng, 66, 259)
    x = rng.standard_normal((9, 259)).astype(ml_dtypes.bfloat16)
    y = tritgemm.linear(x, packed, activations="int8")
    np.testing.assert_array_equal(y, tritgemm.linear(x.astype(np.float32), packed, activations="int8"))


@pytest.mark.parametrize("group", [64, 128, 256])
def test_scales_per_group(rng, group):
    groups = -(-300 // group)
    scales = rng.standard_normal((70, groups), dtype=np.float32)
    trits, packed = weights(rng, 70, 300, scales=scales, group=group)
    assert packed.granularity == group
    np.testing.assert_array_equal(packed.scales, scales)
    dense = trits * np.repeat(scales, group, axis=1)[:, :300].astype(np.float64)
    np.testing.assert_array_equal(packed.dequantize(), dense.astype(np.float32))
    x = rng.standard_normal((5, 300), dtype=np.float32)
    exact = x.astype(np.float64) @ dense.T
    size = np.abs(x.astype(np.float64)) @ np.abs(dense).T
    y = tritgemm.linear(x, packed)
    assert (np.abs(y - exact) <= summation_error(300 + 2 * groups) * size).all()
    layer = tritgemm.Linear(packed)
    for path, prepared in (("f32", layer.prepare_f32(x)), ("int8", layer.prepare_int8(x))):
        assert prepared.activations == path
        np.testing.assert_array_equal(
            tritgemm.linear(prepared, packed), tritgemm.linear(x, packed, activations=path)
        )
    ungrouped = tritgemm.Linear(tritgemm.Packed.from_trits(trits))
    with pytest.raises(tritgemm.TritgemmError, match="prepared for no groups"):
        tritgemm.linear(ungrouped.prepare_f32(x), packed)
    values, token_scales = tritgemm.quantize_activations(x)
    prepared = tritgemm.PreparedActivations.from_int8(values, token_scales, group=group)
    np.testing.assert_array_equal(layer.forward_int8(prepared), layer.forward_int8(x))


def test_a_zero_weight_never_touches_its_activation():
    packed = tritgemm.Packed.from_trits(np.array([[0, 1], [1, 0]], np.int8))
    y = tritgemm.linear(np.array([np.nan, 3], np.float32), packed)
    assert y[0] == 3 and np.isnan(y[1])


@pytest.mark.parametrize("n", [1, 3, 40])
def test_weights_in_the_cache_change_no_bit(rng, defaults, n):
    trits, packed = weights(rng, 130, 333)
    layer = tritgemm.Linear(packed)
    x = rng.standard_normal((n, 333), dtype=np.float32)
    values, _ = tritgemm.quantize_activations(x)
    calls = [
        lambda **said: packed.gemm_i8(values, **said),
        lambda **said: tritgemm.gemm_i8(layer, values, **said),
        lambda **said: layer.forward_int8(x, **said),
        lambda **said: layer.forward_int8(layer.prepare_int8(x), **said),
        lambda **said: layer.forward_f32(x, **said),
        lambda **said: tritgemm.linear(x, packed, activations="int8", **said),
    ]
    expected = [call().tobytes() for call in calls]
    for name in tritgemm.available():
        tritgemm.pin(name)
        for said in (True, False):
            found = [call(weights_in_cache=said).tobytes() for call in calls]
            assert found == expected, (name, said)


def test_results_depend_neither_on_threads_nor_on_the_backend(rng, defaults):
    _, packed = weights(rng, 700, 1300)
    x = rng.standard_normal((33, 1300), dtype=np.float32)
    tritgemm.set_num_threads(1)
    tritgemm.pin("scalar")
    expected = tritgemm.linear(x, packed).tobytes()
    for name in tritgemm.available():
        tritgemm.pin(name)
        for threads in (1, 2, 3, 8):
            tritgemm.set_num_threads(threads)
            assert tritgemm.linear(x, packed).tobytes() == expected, (name, threads)


def test_wrong_widths_and_types(rng):
    _, packed = weights(rng, 6, 8)
    with pytest.raises(tritgemm.ShapeError, match=r"activations of 9 columns for a matrix of 8 \(K\)"):
        packed.gemm_i8(np.zeros((2, 9), np.int8))
    with pytest.raises(tritgemm.ShapeError, match="9 columns"):
        tritgemm.linear(tritgemm.PreparedActivations.from_int8(np.zeros((2, 9), np.int8)), packed)
    for prepare in (tritgemm.Linear(packed).prepare_int8, tritgemm.Linear(packed).prepare_f32):
        with pytest.raises(tritgemm.ShapeError, match="9 columns"):
            prepare(np.zeros((2, 9), np.float32))
    with pytest.raises(TypeError, match=r"x: expected int8 \[N, K\] or \[K\], got float32 \[2, 8\]"):
        packed.gemm_i8(np.zeros((2, 8), np.float32))
    with pytest.raises(TypeError, match=r"x: expected float32 .* got float64 \[2, 8\]"):
        tritgemm.linear(np.zeros((2, 8)), packed)
    with pytest.raises(TypeError, match="x: expected float32 .* got >f4"):
        tritgemm.linear(np.zeros((2, 8), ">f4"), packed)
    with pytest.raises(TypeError, match=r"float32, float16 or bfloat16 .* got int8 \[2, 8\]"):
        tritgemm.linear(np.zeros((2, 8), np.int8), packed, activations="int8")
    with pytest.raises(TypeError, match="weights: expected Packed or Linear, got list"):
        tritgemm.linear(np.zeros((2, 8), np.float32), [1])
    with pytest.raises(TypeError, match="weights: expected uint8 .*Packed or Linear"):
        tritgemm.gemm_i8(np.zeros((2, 8), np.float32), np.zeros((2, 8), np.int8))
    with pytest.raises(tritgemm.ShapeError, match="rows of 3 bytes, expected 2 for k = 8"):
        tritgemm.gemm_i8(np.zeros((2, 3), np.uint8), np.zeros((2, 8), np.int8))
    with pytest.raises(tritgemm.TritgemmError, match="expected 'f32', 'int8' or 'int8_torch', got 'int4'"):
        tritgemm.linear(np.zeros((2, 8), np.float32), packed, activations="int4")
    prepared = tritgemm.Linear(packed).prepare_f32(np.zeros((2, 8), np.float32))
    with pytest.raises(tritgemm.TritgemmError, match="prepared as f32, expected int8"):
        tritgemm.linear(prepared, packed, activations="int8")
    with pytest.raises(tritgemm.TritgemmError, match="prepared as int8, expected f32"):
        layer = tritgemm.Linear(packed)
        layer.forward_f32(layer.prepare_int8(np.zeros((2, 8), np.float32)))
    with pytest.raises(tritgemm.TritgemmError, match="prepared as f32, expected int8"):
        packed.gemm_i8(prepared)
    with pytest.raises(tritgemm.TritgemmError, match="has its own"):
        tritgemm.linear(prepared, tritgemm.Linear(packed), np.zeros(6, np.float32))
    with pytest.raises(tritgemm.ShapeError, match="`bias` has length 5, expected 6"):
        tritgemm.linear(prepared, packed, np.zeros(5, np.float32))
    with pytest.raises(tritgemm.QuantizationError, match="activation 3 of token 1 is inf"):
        x = np.zeros((2, 8), np.float32)
        x[1, 3] = np.inf
        tritgemm.linear(x, packed, activations="int8")


def test_reference_forward(golden):
    alpha, q = golden["alpha"], golden["q"]
    packed = tritgemm.Packed.from_packed(golden["packed"], q.shape[1], alpha)
    np.testing.assert_array_equal(packed.dequantize(), golden["dense"])
    x, bias = golden["x"], golden.get("bias")
    y = tritgemm.linear(x, packed, bias)
    size = np.abs(x.astype(np.float64)) @ np.abs(golden["dense"].astype(np.float64)).T
    size += 0 if bias is None else np.abs(bias)
    assert (np.abs(y - golden["infer_y_f64"]) <= summation_error(q.shape[1] + 2) * size).all()
