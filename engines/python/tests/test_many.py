"""Several layers on one input, outputs in 16 bits, outputs that are added to, and
activations prepared again in place: the bits of the plain calls."""

import numpy as np
import pytest

import tritgemm
from conftest import float_types, layer, same_bits

ROWS = [200, 1, 64, 0, 127]
K = 150


def forward(path, one, x, **said):
    return (one.forward_int8 if path == "int8" else one.forward_f32)(x, **said)


def forward_many(path, layers, x, **said):
    many = {"int8": tritgemm.forward_many_int8, "f32": tritgemm.forward_many_f32}[path]
    return many(layers, x, **said)


def prepare(path, one, x, **said):
    return (one.prepare_int8 if path == "int8" else one.prepare_f32)(x, **said)


@pytest.mark.parametrize("group", [None, 64])
@pytest.mark.parametrize("n", [0, 1, 3, 40, None])
def test_many_layers_give_the_bits_of_each(rng, defaults, path, group, n):
    layers = [layer(rng, m, K, group=group, bias=m != 64) for m in ROWS]
    x = rng.standard_normal(K if n is None else (n, K), dtype=np.float32)
    expected = [forward(path, one, x) for one in layers]
    prepared = prepare(path, layers[0], x)
    for name in tritgemm.available():
        tritgemm.pin(name)
        for given in (x, prepared):
            ys = forward_many(path, layers, given, weights_in_cache=name == "scalar")
            assert isinstance(ys, list) and len(ys) == len(layers)
            for y, wanted in zip(ys, expected):
                same_bits(y, wanted)
        tritgemm.pin(None)
    out = [np.full_like(y, 7) for y in expected]
    found = forward_many(path, tuple(layers), x, out=tuple(out))
    assert all(a is b for a, b in zip(found, out))
    for y, wanted in zip(out, expected):
        same_bits(y, wanted)


def test_many_layers_share_the_threads(rng, defaults, path):
    layers = [layer(rng, 512, 1024) for _ in range(3)]
    x = rng.standard_normal((33, 1024), dtype=np.float32)
    tritgemm.set_num_threads(1)
    expected = [forward(path, one, x) for one in layers]
    tritgemm.set_num_threads(3)
    for y, wanted in zip(forward_many(path, layers, x), expected):
        same_bits(y, wanted)


def test_activations_of_16_bits(rng):
    layers = [layer(rng, m, K) for m in ROWS]
    for dtype in float_types():
        x = rng.standard_normal((5, K)).astype(dtype)
        for one, y in zip(layers, tritgemm.forward_many_int8(layers, x)):
            same_bits(y, one.forward_int8(x))


def test_no_layers_are_no_outputs(path):
    x = np.ones((2, 3), np.float32)
    assert forward_many(path, [], x) == []
    assert forward_many(path, [], x, out=[]) == []


@pytest.mark.parametrize("dtype", float_types(), ids=str)
@pytest.mark.parametrize("n", [1, 3, 40, None])
def test_outputs_are_rounded_once_and_added_in_float32(rng, path, dtype, n):
    layers = [layer(rng, m, K) for m in ROWS]
    x = rng.standard_normal(K if n is None else (n, K), dtype=np.float32)
    expected = [forward(path, one, x) for one in layers]
    before = [(10 * rng.standard_normal(y.shape)).astype(dtype) for y in expected]
    replaced = [y.astype(dtype) for y in expected]
    added = [(b.astype(np.float32) + y).astype(dtype) for b, y in zip(before, expected)]
    for given in (x, prepare(path, layers[0], x)):
        for add, wanted in ((False, replaced), (True, added)):
            out = [b.copy() for b in before]
            found = forward_many(path, layers, given, out=out, add=add)
            for y, found_y, wanted_y, one, b in zip(out, found, wanted, layers, before):
                assert found_y is y
                same_bits(y, wanted_y)
                single = b.copy()
                assert forward(path, one, given, out=single, add=add) is single
                same_bits(single, wanted_y)
    single = np.empty(expected[0].shape, dtype)
    tritgemm.linear(x, layers[0], None, path, out=single)
    same_bits(single, replaced[0])


def test_outputs_with_a_stride(rng, path):
    layers = [layer(rng, 64, K), layer(rng, 60, K)]
    x = rng.standard_normal((5, K), dtype=np.float32)
    # Rows with room between them.
    wide = [np.full((5, 70), 2, np.float32) for _ in layers]
    out = [wide[0][:, :64], wide[1][:, 3:63]]
    forward_many(path, layers, x, out=out, add=True)
    for one, y in zip(layers, out):
        same_bits(np.ascontiguousarray(y), forward(path, one, x) + np.float32(2))
        y[...] = 2
    assert all((w == 2).all() for w in wide)
    # Whole rows of one array; it is a sequence of them, too.
    both = np.empty((2, 5, 64), np.float32)
    forward_many(path, [layers[0]] * 2, x, out=both)
    for y in both:
        same_bits(y, forward(path, layers[0], x))


@pytest.mark.parametrize("dtype", float_types(), ids=str)
@pytest.mark.parametrize("n", [0, 1, 5, None])
def test_outputs_side_by_side(rng, path, dtype, n):
    layers = [layer(rng, m, K) for m in (64, 0, 60, 1)]
    x = rng.standard_normal(K if n is None else (n, K), dtype=np.float32)
    rows = 1 if n is None else n
    for add in (False, True):
        # In any order, with a column between them, and beside an array of its own.
        whole, own = np.full((rows, 130), 2, dtype), np.full((rows, 1), 2, dtype)
        out = [whole[:, 60:124], whole[:, 3:3], whole[:, :60], own]
        out = [y[0] for y in out] if n is None else out
        found = forward_many(path, layers, x, out=out, add=add)
        assert all(a is b for a, b in zip(found, out))
        for one, y in zip(layers, out):
            wanted = np.full(y.shape, 2, dtype)
            forward(path, one, x, out=wanted, add=add)
            same_bits(np.ascontiguousarray(y), wanted)
        assert (whole[:, 124:] == 2).all()


def test_what_outputs_in_one_array_have_in_common(rng, path):
    layers = [layer(rng, 64, K), layer(rng, 60, K)]
    x = rng.standard_normal((5, K), dtype=np.float32)
    expected = [forward(path, one, x) for one in layers]
    flat = np.full(1600, 3, np.float32)

    def block(start, cols):
        return flat[start : start + 5 * 130].reshape(5, 130)[:, :cols]

    apart = 0
    # All the places of the second beside the first, rows above and below it included.
    for start in range(0, 900, 3):
        first, second = block(660, 64), block(start, 60)
        if np.shares_memory(first, second):
            with pytest.raises(tritgemm.OverlapError, match=r"out\[1\]: shares memory with out\[0\]"):
                forward_many(path, layers, x, out=[first, second])
            assert (flat == 3).all()
        else:
            forward_many(path, layers, x, out=[first, second])
            for y, wanted in zip((first, second), expected):
                same_bits(np.ascontiguousarray(y), wanted)
                y[...] = 3
            assert (flat == 3).all()
            apart += 1
    assert apart > 30
    # An input in the array of an output is refused even where they are apart.
    wide = np.full((5, 300), 3, np.float32)
    with pytest.raises(tritgemm.OverlapError, match=r"out\[0\]: shares memory"):
        forward_many(path, layers, wide[:, :K], out=[wide[:, 150:214], wide[:, 214:274]])
    # An output that does not fit is an error before any is written.
    with pytest.raises(tritgemm.ShapeError, match=r"out\[1\]: expected float32 \[5, 60\]"):
        forward_many(path, layers, x, out=[block(0, 64), block(64, 61)])
    assert (flat == 3).all() and (wide == 3).all()
    flat += 1
    wide += 1


def test_outputs_that_do_not_fit(rng, path):
    layers = [layer(rng, 6, K), layer(rng, 8, K)]
    x = np.ones((5, K), np.float32)
    first, second = np.full((5, 6), 3, np.float32), np.full((5, 8), 3, np.float32)

    def fails(kind, match, out, x=x, **said):
        with pytest.raises(kind, match=match):
            forward_many(path, layers, x, out=out, **said)

    fails(tritgemm.ShapeError, "out: 1 arrays, expected 2, one a layer", [first])
    fails(tritgemm.ShapeError, r"out\[1\]: expected float32 \[5, 8\], got float32 \[5, 6\]", [first, first])
    fails(tritgemm.ShapeError, r"out\[0\]: expected float32 \[6\], got float32 \[5, 6\]", [first, second], x[0])
    half = second.astype(np.float16)
    fails(TypeError, r"out\[1\]: expected float32 \[5, 8\], got float16 \[5, 8\]", [first, half])
    double = first.astype(np.float64)
    fails(TypeError, r"out\[0\]: expected float32, float16 or bfloat16 \[5, 6\], got float64", [double, second])
    fails(TypeError, "out: expected a sequence of arrays, got int", 5)
    fails(TypeError, r"out\[0\]: expected float32, .* got str", "no")
    fails(tritgemm.TritgemmError, "add: expected `out` to add to, got None", None, add=True)
    frozen = second.copy()
    frozen.flags.writeable = False
    fails(tritgemm.TritgemmError, r"out\[1\]: the array is not writeable", [first, frozen])
    assert (first == 3).all() and (second == 3).all()
    one = layers[0]
    with pytest.raises(TypeError, match=r"out: expected float32, .* \[5, 6\], got float64"):
        forward(path, one, x, out=double)
    with pytest.raises(TypeError, match=r"out: expected .* \[6\], got int8 \[6\]"):
        forward(path, one, x[0], out=np.empty(6, np.int8))
    with pytest.raises(tritgemm.TritgemmError, match="add: expected `out`"):
        forward(path, one, x, add=True)


def test_outputs_may_not_overlap(rng, path):
    layers = [layer(rng, 8, 8), layer(rng, 8, 8)]
    x = np.ones((5, 8), np.float32)
    y = np.full((5, 8), 3, np.float32)
    for out in ([y, y], [y, x]):
        with pytest.raises(tritgemm.OverlapError, match=r"out\[1\]: shares memory"):
            forward_many(path, layers, x, out=out, add=True)
    # Arrays that do not know of each other, on the same bytes.
    memory = bytearray(4 * 60)
    views = [np.frombuffer(memory, np.float32, 40, 4 * i).reshape(5, 8) for i in (0, 16)]
    with pytest.raises(tritgemm.OverlapError, match=r"out\[1\]: shares memory with out\[0\]"):
        forward_many(path, layers, x, out=views)
    with pytest.raises(tritgemm.OverlapError, match=r"out\[0\]: shares memory with x"):
        forward_many(path, layers, views[0], out=[views[1], y])
    with pytest.raises(tritgemm.OverlapError, match="out: shares memory with x"):
        forward(path, layers[0], views[0], out=views[1], add=True)
    assert (y == 3).all() and not any(memory)
    # Every borrow has ended.
    x += 1
    y += 1


def test_layers_that_do_not_go_together(rng, path):
    x = np.ones((5, K), np.float32)
    with pytest.raises(tritgemm.ShapeError, match=r"150 columns for a matrix of 151 \(K\)"):
        forward_many(path, [layer(rng, 6, K), layer(rng, 6, 151)], x)
    with pytest.raises(tritgemm.TritgemmError, match="no groups, the matrix has groups of 64"):
        forward_many(path, [layer(rng, 6, K), layer(rng, 6, K, group=64)], x)
    with pytest.raises(TypeError, match=r"layers\[1\]: expected Linear, got .*Packed"):
        forward_many(path, [layer(rng, 6, K), layer(rng, 6, K).weights], x)
    with pytest.raises(TypeError, match=r"layers: expected a sequence of Linear, got .*Linear"):
        forward_many(path, layer(rng, 6, K), x)
    with pytest.raises(TypeError, match=r"x: expected float32.* got int8 \[5, 150\]"):
        forward_many(path, [layer(rng, 6, K)], x.astype(np.int8))
    other = prepare("f32" if path == "int8" else "int8", layer(rng, 6, K), x)
    with pytest.raises(tritgemm.TritgemmError, match="prepared as"):
        forward_many(path, [layer(rng, 6, K)], other)
    if path == "int8":
        x[2, 5] = np.nan
        with pytest.raises(tritgemm.QuantizationError, match="activation 5 of token 2"):
            forward_many(path, [layer(rng, 6, K)], x)


def test_prepared_again_in_place(rng, path):
    one = layer(rng, 70, K)
    prepared = one.prepare_f32(np.ones((2, K), np.float32))
    for n in (40, 3, None, 7):
        x = rng.standard_normal(K if n is None else (n, K), dtype=np.float32)
        assert prepare(path, one, x, into=prepared) is prepared
        assert prepared.activations == path and prepared.shape == (n or 1, K)
        same_bits(forward(path, one, prepared), forward(path, one, x))
        same_bits(tritgemm.linear(prepared, one), forward(path, one, x))
    half = x.astype(np.float16)
    one.prepare_int8(half, into=prepared)
    same_bits(one.forward_int8(prepared), one.forward_int8(half))
    grouped = layer(rng, 70, K, group=64)
    prepare(path, grouped, x, into=prepared)
    same_bits(forward(path, grouped, prepared), forward(path, grouped, x))


def test_what_cannot_be_prepared_again(rng):
    one = layer(rng, 70, K)
    x = np.ones((3, K), np.float32)
    prepared = one.prepare_int8(x)
    expected = one.forward_int8(x)
    with pytest.raises(tritgemm.ShapeError, match="149 columns"):
        one.prepare_int8(np.ones((3, K - 1), np.float32), into=prepared)
    with pytest.raises(TypeError, match="x: expected float32"):
        one.prepare_f32(x.astype(np.float64), into=prepared)
    with pytest.raises(TypeError, match="into"):
        one.prepare_int8(x, into=x)
    same_bits(one.forward_int8(prepared), expected)
    x[1, 7] = np.inf
    with pytest.raises(tritgemm.QuantizationError, match="activation 7 of token 1"):
        one.prepare_int8(x, into=prepared)
    assert prepared.shape == (0, 0)
    x[1, 7] = 1
    one.prepare_int8(x, into=prepared)
    same_bits(one.forward_int8(prepared), expected)
