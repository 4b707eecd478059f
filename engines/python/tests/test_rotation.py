"""Layers whose inputs are rotated: the bits of the layer on rotated inputs."""

import copy

import numpy as np
import pytest

import tritgemm
from conftest import float_types, layer, same_bits

M, K = 70, 192
F32 = np.float32


def hadamard(x, block):
    """Sylvester's transform of each block along the last axis, in float32: the sums in
    order of the distance of their terms, then the scaling."""
    y = x.astype(F32).reshape(-1, block)
    step = 1
    while step < block:
        y = y.reshape(-1, 2, step)
        y = np.stack([y[:, 0] + y[:, 1], y[:, 0] - y[:, 1]], axis=1)
        step *= 2
    return (y.reshape(x.shape) * F32(1 / np.sqrt(np.float64(block)))).astype(F32)


@pytest.fixture(params=[False, True], ids=["plain", "signs"])
def signs(request, rng):
    return rng.choice(np.array([-1, 1], np.int8), K) if request.param else None


@pytest.mark.parametrize("block", [1, 2, 8, 64])
@pytest.mark.parametrize("n", [1, 5, 40])
def test_inputs_are_rotated(rng, defaults, path, signs, block, n):
    plain = layer(rng, M, K)
    one = plain.with_rotation(block, signs)
    x = rng.standard_normal((n, K), dtype=F32)
    turned = hadamard(x if signs is None else x * signs.astype(F32), block)
    for name in tritgemm.available():
        tritgemm.pin(name)
        if path == "int8":
            same_bits(one.forward_int8(x), plain.forward_int8(turned))
            same_bits(one.forward_int8(one.prepare_int8(x)), plain.forward_int8(turned))
            same_bits(one.forward_int8(x, x_group=32), plain.forward_int8(turned, x_group=32))
            for dtype in float_types():
                half = x.astype(dtype)
                same_bits(one.forward_int8(half), one.forward_int8(half.astype(F32)))
        else:
            same_bits(one.forward_f32(x), plain.forward_f32(turned))
            same_bits(one.forward_f32(one.prepare_f32(x)), plain.forward_f32(turned))
    assert plain.rotation is None


@pytest.mark.parametrize("n", [0, 1, 5, None])
def test_rows_are_rotated_back(rng, signs, n):
    one = layer(rng, M, K).with_rotation(64, signs)
    x = rng.standard_normal(K if n is None else (n, K), dtype=F32)
    back = hadamard(x, 64)
    if signs is not None:
        back = back * signs.astype(F32)
    same_bits(one.unrotate(x), back)
    out = np.full((*x.shape[:-1], K + 3), 7, F32)
    rows = out[..., :K]
    assert one.unrotate(x, out=rows) is rows
    same_bits(rows.copy(), back)
    assert (out[..., K:] == 7).all()
    # There and back.
    turned = hadamard(x if signs is None else x * signs.astype(F32), 64)
    np.testing.assert_allclose(one.unrotate(turned), x, rtol=1e-5, atol=1e-6)
    # A copy where nothing is rotated.
    same = layer(rng, M, K).unrotate(x)
    assert same is not x
    same_bits(same, x)


def test_the_rotation_is_kept(rng, tmp_path, signs):
    plain = layer(rng, M, K)
    one = plain.with_rotation(64, signs)
    path = tmp_path / "layer.panels"
    one.save(path)
    for same in (
        one,
        copy.deepcopy(one),
        one.slice_rows(0, 64),
        tritgemm.Linear.load(path),
        tritgemm.Linear.load(path, mmap=True),
        plain.with_rotation(2).with_rotation(64, signs),
    ):
        block, found = same.rotation
        assert block == 64
        if signs is None:
            assert found is None
        else:
            same_bits(found, signs)
        same_bits(same.unpack_row(9), plain.unpack_row(9))
    with pytest.raises(tritgemm.TritgemmError, match="rotated input"):
        tritgemm.Packed.load(path)
    with pytest.raises(tritgemm.TritgemmError, match="rotates its input"):
        one.weights


def test_rotations_that_do_not_fit(rng, path):
    plain = layer(rng, M, K)
    shape, error = tritgemm.ShapeError, tritgemm.TritgemmError

    def fails(kind, match, block, signs=None):
        with pytest.raises(kind, match=match):
            plain.with_rotation(block, signs)

    signs = np.ones(K, np.int8)
    for block in (0, 3):
        fails(shape, f"rotated blocks of {block}, expected a power of two", block)
    fails(shape, "192 columns are no whole rotated blocks of 128", 128)
    fails(shape, "`signs` has length 128, expected 192", 64, signs[:128])
    fails(shape, r"signs: expected int8 \[K\], got int8 \[1, 192\]", 64, signs[None])
    fails(TypeError, r"signs: expected int8 \[K\], got float32", 64, signs.astype(F32))
    signs[5] = 0
    fails(error, "sign 5 is 0, expected 1 or -1", 64, signs)
    fails(OverflowError, None, -1)
    # Activations of the one are not those of the other.
    one, x = plain.with_rotation(64), np.ones((2, K), F32)
    ready = plain.prepare_int8(x) if path == "int8" else plain.prepare_f32(x)
    with pytest.raises(error, match="no rotation, the matrix has rotated blocks of 64"):
        tritgemm.linear(ready, one)
    with pytest.raises(shape, match=r"191 columns for a matrix of 192 \(K\)"):
        one.unrotate(x[:, :-1])
    with pytest.raises(TypeError, match=r"x: expected float32 \[N, K\] or \[K\], got float64"):
        one.unrotate(x.astype(np.float64))
    with pytest.raises(shape, match=r"out: expected float32 \[2, 192\], got float32 \[192\]"):
        one.unrotate(x, out=x[0].copy())
    with pytest.raises(tritgemm.OverlapError, match="out: shares memory"):
        one.unrotate(x, out=x)
