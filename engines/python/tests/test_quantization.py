"""int8 activations by groups along K, and those that are not finite."""

import numpy as np
import pytest

import tritgemm
from conftest import float_types, layer, same_bits

M, K = 70, 300
GROUPS = [32, 64, 128, 256]


def by_groups(rng, n, size):
    """Activations, and what they are once quantised: each group by itself, as the token of
    a layer of so many inputs is."""
    x = rng.standard_normal((n, K), dtype=np.float32) * rng.uniform(0.01, 9, K).astype(np.float32)
    parts = [tritgemm.quantize_activations(np.ascontiguousarray(x[:, i : i + size])) for i in range(0, K, size)]
    return x, parts


@pytest.mark.parametrize("n", [1, 5, 40])
@pytest.mark.parametrize("size", GROUPS)
def test_groups_of_activations_are_scaled_alone(rng, defaults, n, size):
    x, parts = by_groups(rng, n, size)
    trits = rng.integers(-1, 2, (M, K), dtype=np.int8)
    one = tritgemm.Linear(tritgemm.Packed.from_trits(trits))
    expected = np.zeros((n, M), np.float32)
    for i, (values, scales) in enumerate(parts):
        sums = values.astype(np.int32) @ trits[:, i * size : i * size + values.shape[1]].T.astype(np.int32)
        expected += scales[:, None] * sums.astype(np.float32)
    for name in tritgemm.available():
        tritgemm.pin(name)
        y = one.forward_int8(x, x_group=size)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-4)
        if name == tritgemm.available()[0]:
            first = y
        same_bits(y, first)


@pytest.mark.parametrize("group", [None, 32, 128])
@pytest.mark.parametrize("size", GROUPS)
@pytest.mark.parametrize("dtype", float_types(), ids=str)
def test_every_way_to_groups_gives_the_same_bits(rng, group, size, dtype):
    layers = [layer(rng, m, K, group=group) for m in (M, 64)]
    x = rng.standard_normal((5, K)).astype(dtype)
    expected = [one.forward_int8(x, x_group=size) for one in layers]
    assert expected[0].tobytes() != layers[0].forward_int8(x).tobytes()
    prepared = layers[0].prepare_int8(x, x_group=size)
    found = tritgemm.forward_many_int8(layers, x, x_group=size)
    for one, y, wanted in zip(layers, found, expected):
        same_bits(y, wanted)
        same_bits(one.forward_int8(prepared), wanted)
        same_bits(one.forward_int8(x[2], x_group=size), wanted[2])
        same_bits(tritgemm.linear(x, one, None, "int8", x_group=size), wanted)
    for y, wanted in zip(tritgemm.forward_many_int8(layers, prepared), expected):
        same_bits(y, wanted)
    experts = tritgemm.Experts([layers[0]] * 2)
    routed = experts.prepare_int8(x, np.array([3, 0, 1]), np.array([1, 2]), x_group=size)
    same_bits(experts.forward(routed), expected[0][[3, 0, 1]])
    # Prepared again without them.
    layers[0].prepare_int8(x, into=prepared)
    same_bits(layers[0].forward_int8(prepared), layers[0].forward_int8(x))


@pytest.mark.parametrize("group", GROUPS)
def test_groups_of_weights(rng, path, group):
    trits = rng.integers(-1, 2, (M, K), dtype=np.int8)
    scales = rng.uniform(0.1, 2, (M, -(-K // group))).astype(np.float32)
    packed = tritgemm.Packed.from_trits(trits, scales, group=group)
    assert packed.granularity == group
    weights = trits * np.repeat(scales, group, axis=1)[:, :K]
    same_bits(packed.dequantize(), weights + np.float32(0))
    x = rng.integers(-127, 128, (3, K)).astype(np.float32)
    x[:, 0] = 127
    y = tritgemm.linear(x, packed, activations=path)
    np.testing.assert_allclose(y, x @ weights.T, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("x_group", [None, 64])
@pytest.mark.parametrize("dtype", float_types(), ids=str)
def test_what_is_not_finite_is_propagated_where_asked_for(rng, x_group, dtype):
    layers = [layer(rng, m, K) for m in (M, 64)]
    experts = tritgemm.Experts([layers[0]])
    finite = rng.standard_normal((5, K)).astype(dtype)
    x = finite.copy()
    x[1, 3], x[3, K - 1] = np.nan, -np.inf
    routes = np.arange(5), np.array([5])
    said = {"x_group": x_group, "non_finite": "propagate"}
    expected = layers[0].forward_int8(finite, x_group=x_group)
    expected[[1, 3]] = np.nan
    for y in (
        layers[0].forward_int8(x, **said),
        layers[0].forward_int8(layers[0].prepare_int8(x, **said)),
        tritgemm.forward_many_int8(layers, x, **said)[0],
        experts.forward(experts.prepare_int8(x, *routes, **said)),
    ):
        same_bits(y, expected)
    # The next call has forgotten it.
    for non_finite in ({}, {"non_finite": "error"}):
        said = {"x_group": x_group, **non_finite}
        for refused in (
            lambda: layers[0].forward_int8(x, **said),
            lambda: layers[0].prepare_int8(x, **said),
            lambda: tritgemm.forward_many_int8(layers, x, **said),
            lambda: experts.prepare_int8(x, *routes, **said),
        ):
            with pytest.raises(tritgemm.QuantizationError, match="activation 3 of token 1"):
                refused()
            layers[0].prepare_int8(x, non_finite="propagate")


def test_words_that_are_none(rng):
    one = layer(rng, M, K)
    experts = tritgemm.Experts([one])
    x = np.ones((2, K), np.float32)
    prepared = one.prepare_int8(x, x_group=32)
    calls = (
        lambda **said: one.forward_int8(x, **said),
        lambda **said: one.prepare_int8(x, **said),
        lambda **said: tritgemm.forward_many_int8([one], x, **said),
        lambda **said: experts.prepare_int8(x, np.arange(2), np.array([2]), **said),
    )

    def linear(x, **said):
        return tritgemm.linear(x, one, None, "int8", **said)

    with pytest.raises(tritgemm.TritgemmError, match="x_group: expected 32, 64, 128 or 256, got 16"):
        linear(x, x_group=16)
    with pytest.raises(TypeError):
        linear(x, x_group="row")
    for activations in (None, "f32"):
        with pytest.raises(tritgemm.TritgemmError, match="x_group: expected None for the f32 pass"):
            tritgemm.linear(x, one, None, activations, x_group=32)
    for call in calls:
        with pytest.raises(tritgemm.TritgemmError, match="x_group: expected 32, 64, 128 or 256, got 16"):
            call(x_group=16)
        with pytest.raises(tritgemm.TritgemmError, match="non_finite: expected 'error' or 'propagate', got 'skip'"):
            call(non_finite="skip")
        with pytest.raises(TypeError):
            call(x_group="row")
        with pytest.raises(TypeError):
            call(non_finite=None)
    many = lambda x, **said: tritgemm.forward_many_int8([one], x, **said)
    for call in (one.forward_int8, many, linear):
        with pytest.raises(tritgemm.TritgemmError, match="x_group: expected None for PreparedActivations"):
            call(prepared, x_group=32)
    # Sums without scales are not to be had of groups.
    with pytest.raises(tritgemm.TritgemmError, match="groups of 32"):
        tritgemm.gemm_i8(one, prepared)
    with pytest.raises(TypeError, match="x_group"):
        one.forward_f32(x, x_group=32)


@pytest.mark.parametrize("granularity", ["tensor", "row", 32])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_gate_of_gradients(rng, granularity, sparse):
    weights = rng.standard_normal((70, 203), dtype=np.float32)
    packed = tritgemm.Packed.quantize(weights, granularity, sparsity="2:4" if sparse else None)
    scales = packed.scales[:, None] if granularity in ("tensor", "row") else np.repeat(packed.scales, 32, 1)[:, :203]
    # At the clamp itself nothing passes.
    weights[5, 7] = np.broadcast_to(scales, weights.shape)[5, 7]
    gradient = rng.standard_normal((70, 203), dtype=np.float32)
    gradient[3, 3] = np.inf
    open_gate = np.abs(weights) < scales
    if sparse:
        open_gate &= packed.to_trits() != 0
    expected = np.where(open_gate, gradient, np.float32(0))
    assert packed.close_gate(gradient, weights, sparse=sparse) is None
    np.testing.assert_array_equal(gradient, expected)
    assert 0 < np.count_nonzero(gradient) < gradient.size and gradient[5, 7] == 0


def test_what_the_gate_refuses():
    packed = tritgemm.Packed.quantize(np.ones((4, 8), np.float32))
    good = np.ones((4, 8), np.float32)
    with pytest.raises(tritgemm.ShapeError, match="gradient"):
        packed.close_gate(np.ones((4, 9), np.float32), good)
    with pytest.raises(tritgemm.ShapeError, match="gradient: expected C-contiguous"):
        packed.close_gate(np.ones((4, 9), np.float32)[:, :8], good)
    with pytest.raises(tritgemm.ShapeError, match="weights: 3 x 8, expected 4 x 8"):
        packed.close_gate(good, np.ones((3, 8), np.float32))
    with pytest.raises(tritgemm.OverlapError):
        packed.close_gate(good, good)


def test_scaled_transposes(rng):
    packed = tritgemm.Packed.quantize(rng.standard_normal((70, 203), dtype=np.float32), "tensor")
    np.testing.assert_array_equal(packed.transpose(scaled=True).dequantize(), packed.dequantize().T)
    np.testing.assert_array_equal(packed.transpose().to_trits(), packed.to_trits().T)
    with pytest.raises(tritgemm.TritgemmError, match="weights of one scale"):
        tritgemm.Packed.quantize(np.ones((4, 8), np.float32)).transpose(scaled=True)
