"""Mixtures of experts: the bits that each layer computes of its tokens alone."""

import numpy as np
import pytest

import tritgemm
from conftest import float_types, layer, same_bits

M, K, E = 70, 150, 4


def prepare(path, experts, x, tokens, counts, **said):
    call = experts.prepare_int8 if path == "int8" else experts.prepare_f32
    return call(x, tokens, counts, **said)


def routes(n):
    """Each token to two of three experts; the fourth gets none."""
    lists = [[t for t in reversed(range(n)) if t % 3 != skipped] for skipped in range(3)] + [[]]
    return np.array(sum(lists, []), np.int64), np.array([len(one) for one in lists])


def alone(path, layers, x, tokens, counts):
    """What each layer makes of its tokens by itself."""
    ys, start = [], 0
    for one, count in zip(layers, counts):
        rows = x[tokens[start : start + count]]
        ys.append(one.forward_int8(rows) if path == "int8" else one.forward_f32(rows))
        start += count
    return np.concatenate(ys)


@pytest.mark.parametrize("group", [None, 64])
@pytest.mark.parametrize("n", [0, 1, 8, 40])
def test_experts_give_the_bits_of_each_layer(rng, defaults, path, group, n):
    layers = [layer(rng, M, K, group=group, bias=i % 2 == 0) for i in range(E)]
    experts = tritgemm.Experts(layers)
    assert (len(experts), experts.in_features, experts.out_features) == (E, K, M)
    assert experts.group == group
    tokens, counts = routes(n)
    x = rng.standard_normal((n, K), dtype=np.float32)
    expected = alone(path, layers, x, tokens, counts)
    weights = rng.standard_normal(len(tokens), dtype=np.float32)
    for name in tritgemm.available():
        tritgemm.pin(name)
        routed = prepare(path, experts, x, tokens, counts)
        assert (routed.rows, routed.cols) == (len(tokens), K)
        same_bits(routed.counts, counts.astype(np.int64))
        same_bits(experts.forward(routed), expected)

        # Into every other row, from the last one on.
        to = 2 * (len(tokens) - np.arange(len(tokens)))
        y = np.full((2 * len(tokens) + 1, M), 7, np.float32)
        assert experts.scatter(routed, to, y) is y
        same_bits(y[to], expected)
        others = np.setdiff1d(np.arange(len(y)), to)
        assert (y[others] == 7).all()

        y = np.arange(n * M, dtype=np.float32).reshape(n, M)
        sums = y.copy()
        for row, weight, one in zip(tokens, weights, expected):
            sums[row] += weight * one
        assert experts.add_weighted(routed, tokens, weights, y) is y
        same_bits(y, sums)


@pytest.mark.parametrize("dtype", float_types(), ids=str)
def test_outputs_of_any_type(rng, path, dtype):
    layers = [layer(rng, M, K) for _ in range(E)]
    experts, (tokens, counts) = tritgemm.Experts(layers), routes(9)
    x = rng.standard_normal((9, K), dtype=np.float32)
    routed = prepare(path, experts, x, tokens, counts)
    expected = experts.forward(routed)
    out = np.full((len(tokens), M + 2), 3, dtype)[:, 1:-1]
    assert experts.forward(routed, out=out) is out
    same_bits(out.copy(), expected.astype(dtype))
    out[...] = 3
    experts.forward(routed, out=out, add=True)
    same_bits(out.copy(), (expected + np.float32(3)).astype(dtype))
    if path == "int8":
        half = x.astype(dtype)
        routed = experts.prepare_int8(half, tokens, counts)
        same_bits(experts.forward(routed), alone(path, layers, half, tokens, counts))


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4", "intp"])
def test_numbers_of_any_integer_type(rng, path, dtype):
    layers = [layer(rng, M, K) for _ in range(E)]
    experts, (tokens, counts) = tritgemm.Experts(layers), routes(9)
    x = rng.standard_normal((9, K), dtype=np.float32)
    expected = alone(path, layers, x, tokens, counts)
    # With a stride, and backwards in memory.
    wide = np.repeat(tokens.astype(dtype), 2)[::2]
    backwards = counts[::-1].astype(dtype)[::-1]
    routed = prepare(path, experts, x, wide, backwards)
    y = np.empty((len(tokens), M), np.float32)
    experts.scatter(routed, np.arange(len(tokens)).astype(dtype), y)
    same_bits(y, expected)


def test_experts_share_the_threads(rng, defaults, path):
    layers = [layer(rng, 512, 1024) for _ in range(E)]
    experts, (tokens, counts) = tritgemm.Experts(layers), routes(30)
    x = rng.standard_normal((30, 1024), dtype=np.float32)
    tritgemm.set_num_threads(1)
    expected = alone(path, layers, x, tokens, counts)
    weights = rng.standard_normal(len(tokens), dtype=np.float32)
    for threads in (1, 3):
        tritgemm.set_num_threads(threads)
        routed = prepare(path, experts, x, tokens, counts)
        same_bits(experts.forward(routed), expected)
        y = np.zeros((30, 512), np.float32)
        experts.add_weighted(routed, tokens, weights, y)
        if threads == 1:
            sums = y
        same_bits(y, sums)


def test_prepared_again_in_place(rng, path):
    layers = [layer(rng, M, K) for _ in range(E)]
    experts = tritgemm.Experts(layers)
    routed = experts.prepare_f32(np.ones((1, K), np.float32), np.zeros(1, int), np.eye(1, E, dtype=int)[0])
    for n in (40, 0, 7):
        x, (tokens, counts) = rng.standard_normal((n, K), dtype=np.float32), routes(n)
        assert prepare(path, experts, x, tokens, counts, into=routed) is routed
        same_bits(experts.forward(routed), alone(path, layers, x, tokens, counts))
    # Bad routes leave it as it was; what cannot be quantised does not.
    with pytest.raises(tritgemm.TritgemmError):
        prepare(path, experts, x, tokens + 1, counts, into=routed)
    same_bits(experts.forward(routed), alone(path, layers, x, tokens, counts))
    x[0, 0] = np.nan
    with pytest.raises(tritgemm.QuantizationError, match="activation 0 of token 0"):
        experts.prepare_int8(x, tokens, counts, into=routed)
    assert routed.rows == 0 and len(routed.counts) == 0
    with pytest.raises(tritgemm.ShapeError, match="`counts of the activations` has length 0, expected 4"):
        experts.forward(routed)


def test_bad_routes(rng, path):
    experts = tritgemm.Experts([layer(rng, M, K) for _ in range(2)])
    x = np.ones((3, K), np.float32)

    def fails(kind, match, tokens, counts, x=x):
        with pytest.raises(kind, match=match):
            prepare(path, experts, x, tokens, counts)

    some, one = np.array([0, 2, 1]), np.array([2, 1])
    error, shape = tritgemm.TritgemmError, tritgemm.ShapeError
    fails(shape, "`counts` has length 1, expected 2", some, one[:1])
    fails(shape, "`tokens` has length 3, expected 4", some, one + [0, 1])
    fails(error, r"`tokens\[1\]` is 3, expected the number of one of 3 rows", some + [0, 1, 0], one)
    fails(error, "tokens: number 2 is -1, expected 0 to", some - [0, 0, 2], one)
    fails(error, "counts: number 1 is -1, expected 0 to", some, one - [0, 2])
    large = np.array([2**64 - 1, 4], np.uint64)
    fails(shape, "`tokens` has length 3, expected 18446744073709551615", some, large)
    fails(error, r"`tokens\[0\]` is 18446744073709551615, expected", large, np.array([1, 1]))
    fails(TypeError, r"tokens: expected integers \[rows\], got float64 \[3\]", some * 1.0, one)
    fails(TypeError, r"tokens: expected integers \[rows\], got bool \[3\]", some > 1, one)
    fails(TypeError, r"tokens: expected integers \[rows\], got list", [0, 2, 1], one)
    fails(TypeError, r"counts: expected integers \[E\], got timedelta64", some, one.astype("m8[s]"))
    fails(shape, r"counts: expected integers \[E\], got int64 \[2, 1\]", some, one[:, None])
    fails(shape, r"149 columns for a matrix of 150 \(K\)", some, one, x[:, :-1])
    fails(shape, r"x: expected float32 \[N, K\], got float32 \[150\]", some, one, x[0])
    fails(TypeError, r"x: expected float32.* \[N, K\], got float64 \[3, 150\]", some, one, x * np.float64(1))


def test_bad_targets(rng, path):
    layers = [layer(rng, M, K) for _ in range(2)]
    experts = tritgemm.Experts(layers)
    x = np.ones((3, K), np.float32)
    routed = prepare(path, experts, x, np.array([0, 2, 1]), np.array([2, 1]))
    y, to, ones = np.full((3, M), 7, np.float32), np.array([0, 1, 2]), np.ones(3, np.float32)
    error, shape = tritgemm.TritgemmError, tritgemm.ShapeError

    def fails(kind, match, to=to, weights=ones, y=y, routed=routed):
        with pytest.raises(kind, match=match):
            experts.add_weighted(routed, to, weights, y)
        if weights is ones:
            with pytest.raises(kind, match=match):
                experts.scatter(routed, to, y)

    fails(shape, "`to` has length 2, expected 3", to[:2])
    fails(error, r"`to\[2\]` is 3, expected the number of one of 3 rows", to + [0, 0, 1])
    fails(error, "to: number 0 is -1, expected 0 to", to - 1)
    fails(TypeError, r"to: expected integers \[rows\], got float32", ones)
    fails(shape, "`weights` has length 2, expected 3", weights=ones[:2])
    fails(shape, r"weights: expected float32 \[rows\], got float32 \[3, 1\]", weights=ones[:, None])
    fails(TypeError, r"weights: expected float32 \[rows\], got float64", weights=np.ones(3))
    fails(shape, r"out: expected float32 \[tokens, 70\], got float32 \[3, 69\]", y=np.ones((3, 69), np.float32))
    fails(shape, r"out: expected float32 \[tokens, 70\], got float32 \[70\]", y=y[0])
    fails(TypeError, r"out: expected float32 \[tokens, 70\], got float16", y=y.astype(np.float16))
    with pytest.raises(error, match=r"`to\[2\]` is 0, which is there already"):
        experts.scatter(routed, np.array([0, 1, 0]), y)
    with pytest.raises(tritgemm.OverlapError, match="out: shares memory"):
        experts.add_weighted(routed, to, y.ravel()[:3], y)
    with pytest.raises(shape, match=r"out: expected float32 \[3, 70\], got float32 \[2, 70\]"):
        experts.forward(routed, out=y[:2])
    with pytest.raises(error, match="add: expected `out`"):
        experts.forward(routed, add=True)
    with pytest.raises(shape, match="`counts of the activations` has length 2, expected 3"):
        tritgemm.Experts([*layers, layers[0]]).forward(routed)
    with pytest.raises(error, match="prepared for no groups, the matrix has groups of 64"):
        tritgemm.Experts([layer(rng, M, K, group=64)] * 2).forward(routed)
    with pytest.raises(TypeError, match="routed"):
        experts.forward(x)
    assert (y == 7).all()


def test_experts_are_alike(rng):
    one = layer(rng, M, K)
    for other, match in (
        (layer(rng, M + 1, K), "`out_features` has length 71, expected 70"),
        (layer(rng, M, K + 1), "`in_features` has length 151, expected 150"),
    ):
        with pytest.raises(tritgemm.ShapeError, match=match):
            tritgemm.Experts([one, other])
    with pytest.raises(tritgemm.TritgemmError, match="no groups"):
        tritgemm.Experts([one, layer(rng, M, K, group=64)])
    with pytest.raises(TypeError, match=r"layers\[0\]: expected Linear, got .*Packed"):
        tritgemm.Experts([one.weights])
    none = tritgemm.Experts([])
    assert (len(none), none.in_features, none.out_features, none.group) == (0, 0, 0, None)
    empty = np.zeros(0, np.int64)
    routed = none.prepare_f32(np.ones((2, 3), np.float32), empty, empty)
    assert none.forward(routed).shape == (0, 0)
    assert "counts=[]" in repr(routed) and "0 of" in repr(none)


@pytest.mark.parametrize(("m", "k"), [(0, 5), (5, 0)])
def test_nothing_to_compute(rng, path, m, k):
    layers = [layer(rng, m, k) for _ in range(2)]
    experts, x = tritgemm.Experts(layers), np.ones((3, k), np.float32)
    tokens, counts = np.array([2, 1, 0]), np.array([1, 2])
    routed = prepare(path, experts, x, tokens, counts)
    expected = alone(path, layers, x, tokens, counts)
    same_bits(experts.forward(routed), expected)
    y = np.zeros((3, m), np.float32)
    same_bits(experts.scatter(routed, np.arange(3), y), expected)
    experts.add_weighted(routed, tokens, np.ones(3, np.float32), y)
