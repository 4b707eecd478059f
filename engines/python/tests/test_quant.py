"""ternarize and quantize_activations."""

import numpy as np
import pytest

import tritgemm
from conftest import naive_ternarize


def test_rows_are_scaled_by_their_mean_magnitude(rng):
    weights = rng.standard_normal((37, 300), dtype=np.float32)
    weights[3] = 0
    trits, scales = tritgemm.ternarize(weights)
    expected, alpha = naive_ternarize(weights)
    assert trits.dtype == np.int8 and scales.dtype == np.float32
    np.testing.assert_array_equal(trits, expected)
    np.testing.assert_allclose(scales, alpha, rtol=2.0**-23)
    assert scales[3] == np.float32(1e-5)


def test_granularities(rng):
    weights = rng.standard_normal((6, 300), dtype=np.float32)
    magnitude = np.abs(weights.astype(np.float64))
    trits, scale = tritgemm.ternarize(weights, "tensor")
    assert scale.shape == (1,)
    np.testing.assert_allclose(scale, magnitude.mean(), rtol=2.0**-23)
    np.testing.assert_array_equal(trits, np.rint(np.clip(weights / scale, -1, 1)))
    for size in (64, 128, 256):
        trits, scales = tritgemm.ternarize(weights, size)
        starts = range(0, 300, size)
        assert scales.shape == (6, len(starts))
        for g, start in enumerate(starts):
            part = slice(start, start + size)
            np.testing.assert_allclose(scales[:, g], magnitude[:, part].mean(1), rtol=2.0**-23)
            nearest = np.rint(np.clip(weights[:, part] / scales[:, g : g + 1], -1, 1))
            np.testing.assert_array_equal(trits[:, part], nearest)


def test_2_4_sparsity_keeps_the_two_larger_of_four(rng):
    weights = rng.standard_normal((9, 203), dtype=np.float32)
    dense, _ = tritgemm.ternarize(weights)
    trits, _ = tritgemm.ternarize(weights, sparsity="2:4")
    for row in range(9):
        for start in range(0, 203, 4):
            before, after = dense[row, start : start + 4], trits[row, start : start + 4]
            # Of equal magnitudes the later ones stay.
            kept = np.flatnonzero(before)[-2:]
            expected = np.zeros_like(before)
            expected[kept] = before[kept]
            np.testing.assert_array_equal(after, expected)


def test_what_is_not_finite_is_named():
    weights = np.ones((4, 8), np.float32)
    weights[2, 5] = np.nan
    with pytest.raises(tritgemm.QuantizationError, match="row 2, column 5 is NaN"):
        tritgemm.ternarize(weights)
    with pytest.raises(tritgemm.QuantizationError, match="activation 5 of token 2 is NaN"):
        tritgemm.quantize_activations(weights)


@pytest.mark.parametrize("granularity", ["column", 100, 0, -1, 64.0, [64]])
def test_granularity_is_checked(granularity):
    with pytest.raises(tritgemm.TritgemmError, match="expected .*64, 128 or 256"):
        tritgemm.ternarize(np.ones((2, 2), np.float32), granularity)


def test_sparsity_is_checked():
    with pytest.raises(tritgemm.TritgemmError, match="sparsity: expected None or '2:4', got '1:4'"):
        tritgemm.ternarize(np.ones((2, 2), np.float32), sparsity="1:4")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_activations_by_their_absolute_maximum(rng, dtype):
    x = rng.standard_normal((5, 77)).astype(dtype)
    x[4] = 0
    values, scales = tritgemm.quantize_activations(x)
    wide = x.astype(np.float32)
    largest = np.maximum(np.abs(wide).max(axis=1), np.float32(1e-5))
    np.testing.assert_allclose(scales, largest / 127, rtol=2.0**-23)
    expected = np.rint(wide * (np.float32(127) / largest)[:, None])
    np.testing.assert_array_equal(values, expected.astype(np.int8))


def test_activations_of_another_type():
    with pytest.raises(TypeError, match=r"float32, float16 or bfloat16 \[N, K\], got float64"):
        tritgemm.quantize_activations(np.zeros((2, 2)))


def test_reference_values(golden):
    sparsity = "2:4" if golden["nm_2_4"][0] else None
    trits, scales = tritgemm.ternarize(golden["weight"], sparsity=sparsity)
    np.testing.assert_array_equal(trits, golden["q"])
    np.testing.assert_allclose(scales, golden["alpha"], rtol=2 * 2.0**-23)
    np.testing.assert_array_equal(tritgemm.pack(trits), golden["packed"])
    assert golden["mask"].astype(bool).tolist() == (trits != 0).tolist()
