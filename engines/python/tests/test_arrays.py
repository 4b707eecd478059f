"""Arrays are used where they are: strides, out=, aliasing."""

import re
import tracemalloc

import numpy as np
import pytest

import tritgemm


@pytest.fixture
def packed(rng):
    return tritgemm.Packed.from_trits(rng.integers(-1, 2, (6, 8), dtype=np.int8))


@pytest.fixture
def x(rng):
    return rng.integers(-128, 128, (5, 8), dtype=np.int8)


def test_rows_a_stride_apart(packed, x):
    expected = packed.gemm_i8(x)
    wide = np.full((10, 20), 99, np.int8)
    for view in (wide[:5, 3:11], wide[::2, 3:11], wide[5:, 12:], wide[1:6, :8]):
        view[...] = x
        assert not view.flags.c_contiguous
        np.testing.assert_array_equal(packed.gemm_i8(view), expected)
    # A view of a view belongs to the same owner; so does one of a transpose.
    inner = wide[1:, 1:][2:7, 3:11]
    inner[...] = x
    np.testing.assert_array_equal(packed.gemm_i8(inner), expected)
    turned = np.asfortranarray(wide).T.copy(order="F").T
    part = turned[:5, :8] if turned.flags.c_contiguous else turned.T[:5, :8]
    part[...] = x
    np.testing.assert_array_equal(packed.gemm_i8(part), expected)


def test_out_a_stride_apart_leaves_what_lies_between(packed, x):
    expected = packed.gemm_i8(x)
    wide = np.full((7, 10), -7, np.int32)
    out = wide[1:6, 2:8]
    assert packed.gemm_i8(x, out) is out
    np.testing.assert_array_equal(out, expected)
    wide[1:6, 2:8] = -7
    assert (wide == -7).all()


def test_other_strides_are_errors(packed, x):
    views = [
        np.asfortranarray(x),
        np.repeat(x, 2, axis=1)[:, ::2],
        x[::-1],
        np.broadcast_to(x[:1], (5, 8)),
        np.frombuffer(b"\0" * 200, np.int8).reshape(10, 20)[:, :8].view(np.ndarray),
    ]
    for view in views[:-1]:
        with pytest.raises(tritgemm.ShapeError, match=r"x: strides .* \(numpy.ascontiguousarray copies it"):
            packed.gemm_i8(view)
    # The last one's memory is that of an array after all: of frombuffer's.
    assert packed.gemm_i8(views[-1]).shape == (10, 6)
    with pytest.raises(tritgemm.ShapeError, match="out: strides"):
        packed.gemm_i8(x, np.empty((6, 5), np.int32).T)


def misaligned(array):
    """A copy whose elements lie a byte beside where they should."""
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
    moved = memory.view(array.dtype).reshape(array.shape)
    moved[...] = array
    assert moved.flags.c_contiguous and not moved.flags.aligned
    return moved


def test_following_the_advice_aligns_memory(rng):
    weights = rng.standard_normal((6, 64), dtype=np.float32)
    packed = tritgemm.Packed.quantize(weights)
    layer = tritgemm.Linear(packed)
    routed = tritgemm.Experts([layer]).prepare_f32(weights, np.zeros(1, int), np.ones(1, int))
    trits, row = packed.to_trits(), np.ones(6, np.float32)
    uses = {
        "x": lambda x: layer.forward_int8(x),
        "bias": lambda bias: tritgemm.Linear(packed, bias),
        "weights": lambda weights: tritgemm.Packed.quantize(weights),
        "scales": lambda scales: tritgemm.Packed.from_trits(trits, scales),
        "group": lambda scales: tritgemm.Packed.from_trits(trits, scales, group=32),
        "out": lambda out: layer.forward_f32(weights, out=out),
        "out[1]": lambda out: tritgemm.forward_many_int8([layer, layer], weights, out=[out.copy(), out]),
        "routed": lambda out: tritgemm.Experts([layer]).scatter(routed, np.zeros(1, int), out),
        "gradient": lambda gradient: packed.close_gate(gradient, weights),
    }
    shapes = {"bias": 6, "scales": 6, "group": (6, 2), "out": (6, 6), "out[1]": (6, 6), "routed": (6, 6)}
    for argument, use in uses.items():
        array = misaligned(np.resize(row, shapes.get(argument, (6, 64))))
        name = {"group": "scales", "routed": "out"}.get(argument, argument)
        message = re.escape(f"{name}: expected memory that is aligned to its elements, as that of a copy is (.copy()")
        with pytest.raises(tritgemm.ShapeError, match=message):
            use(array)
        with pytest.raises(tritgemm.ShapeError, match=message):
            use(np.ascontiguousarray(array))
        use(array.copy())


def test_rows_apart_by_parts_of_elements_are_misaligned(packed):
    wide = np.zeros((5, 8 * 4 + 1), np.uint8)
    view = np.lib.stride_tricks.as_strided(wide.view(), (5, 33), wide.strides)[:, :32].view(np.float32)
    assert view.strides == (33, 4)
    with pytest.raises(tritgemm.ShapeError, match=r"x: expected memory that is aligned"):
        tritgemm.linear(view, packed)
    tritgemm.linear(view.copy(), packed)


def test_out_must_have_the_shape_and_type(packed, x):
    with pytest.raises(tritgemm.ShapeError, match=r"out: expected int32 \[5, 6\], got int32 \[6, 5\]"):
        packed.gemm_i8(x, np.empty((6, 5), np.int32))
    with pytest.raises(tritgemm.ShapeError, match=r"out: expected int32 \[5, 6\], got int32 \[30\]"):
        packed.gemm_i8(x, np.empty(30, np.int32))
    with pytest.raises(TypeError, match=r"out: expected int32 \[5, 6\], got int64 \[5, 6\]"):
        packed.gemm_i8(x, np.empty((5, 6), np.int64))
    with pytest.raises(TypeError, match="out: expected int32 .*, got str"):
        packed.gemm_i8(x, "out")
    wide = np.empty((5, 9), np.int32)
    frozen = wide[:, :6]
    frozen.flags.writeable = False
    with pytest.raises(tritgemm.TritgemmError, match="out: the array is not writeable"):
        packed.gemm_i8(x, frozen)


def test_out_may_not_overlap_an_input(rng):
    packed = tritgemm.Packed.from_trits(rng.integers(-1, 2, (8, 8), dtype=np.int8))
    both = np.zeros((5, 8), np.float32)
    with pytest.raises(tritgemm.OverlapError, match="out: shares memory"):
        tritgemm.linear(both, packed, out=both)
    buffer = np.zeros(200, np.float32)
    first, second = buffer[:40].reshape(5, 8), buffer[32:72].reshape(5, 8)
    with pytest.raises(tritgemm.OverlapError, match="out: shares memory"):
        tritgemm.linear(first, packed, out=second)
    tritgemm.linear(first, packed, out=buffer[40:80].reshape(5, 8))
    # Two arrays that do not know of each other, on the same bytes.
    memory = bytearray(160)
    one, other = (np.frombuffer(memory, np.float32).reshape(5, 8) for _ in range(2))
    with pytest.raises(tritgemm.OverlapError, match="out: shares memory with x"):
        tritgemm.linear(one, packed, out=other)
    # Every borrow has ended.
    both += 1


def test_the_same_array_can_be_read_twice(rng):
    packed = tritgemm.Packed.from_trits(rng.integers(-1, 2, (8, 8), dtype=np.int8))
    x = np.ones((8, 8), np.float32)
    np.testing.assert_array_equal(tritgemm.linear(x, packed, x[0]), tritgemm.linear(x, packed) + 1)


def test_nothing_large_is_copied(rng):
    m, k, n = 64, 4096, 256
    packed = tritgemm.Packed.from_trits(np.ones((m, k), np.int8))
    x = np.ones((n, k), np.float32)
    out = np.empty((n, m), np.float32)
    tracemalloc.start()
    try:
        tritgemm.linear(x, packed, out=out)
        tritgemm.linear(x[:, :], packed, out=out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 16, "numpy allocates through tracemalloc: a copy would show"
    assert (out == k).all()
