"""pack and unpack."""

import numpy as np
import pytest

import tritgemm
from conftest import naive_pack


@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (5, 7), (64, 130), (2, 0), (0, 9), (70, 513)])
def test_bytes_are_those_of_the_definition(rng, shape):
    trits = rng.integers(-1, 2, shape, dtype=np.int8)
    packed = tritgemm.pack(trits)
    assert packed.dtype == np.uint8 and packed.shape == (shape[0], -(-shape[1] // 4))
    np.testing.assert_array_equal(packed, naive_pack(trits))
    back = tritgemm.unpack(packed, shape[1])
    assert back.dtype == np.int8
    np.testing.assert_array_equal(back, trits)


def test_large_matrices_round_trip(rng):
    trits = rng.integers(-1, 2, (2048, 2051), dtype=np.int8)
    np.testing.assert_array_equal(tritgemm.unpack(tritgemm.pack(trits), 2051), trits)


def test_illegal_values_name_their_place():
    trits = np.zeros((3, 5), np.int8)
    trits[1, 4] = 7
    with pytest.raises(tritgemm.EncodingError, match="row 1, column 4: 7 is not one of -1, 0, 1"):
        tritgemm.pack(trits)
    np.testing.assert_array_equal(tritgemm.pack(trits, strict=False), np.zeros((3, 2), np.uint8))

    packed = np.array([[0b01_11_10_00, 0]], np.uint8)
    with pytest.raises(tritgemm.EncodingError, match="row 0, column 1: code 11"):
        tritgemm.unpack(packed, 6)
    assert tritgemm.unpack(packed, 6, strict=False).tolist() == [[1, 0, -1, 0, 0, 0]]
    with pytest.raises(tritgemm.EncodingError, match="row 0: the padding bits"):
        tritgemm.unpack(np.array([[1]], np.uint8), 3)


def test_out_is_written_and_returned(rng):
    trits = rng.integers(-1, 2, (5, 9), dtype=np.int8)
    out = np.full((5, 3), 255, np.uint8)
    assert tritgemm.pack(trits, out=out) is out
    np.testing.assert_array_equal(out, naive_pack(trits))
    back = np.full((5, 9), 99, np.int8)
    assert tritgemm.unpack(out, 9, out=back) is back
    np.testing.assert_array_equal(back, trits)


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        (np.zeros((2, 4), np.float32), TypeError, r"trits: expected int8 \[M, K\], got float32 \[2, 4\]"),
        (np.zeros((2, 4), np.int64), TypeError, "got int64"),
        ([[0, 1]], TypeError, r"trits: expected int8 \[M, K\], got list"),
        (np.zeros(4, np.int8), tritgemm.ShapeError, r"\[M, K\], got int8 \[4\]"),
        (np.zeros((2, 3, 4), np.int8), tritgemm.ShapeError, r"got int8 \[2, 3, 4\]"),
        (np.zeros((4, 8), np.int8)[:, :4], tritgemm.ShapeError, "expected C-contiguous"),
        (np.zeros((4, 8), np.int8).T, tritgemm.ShapeError, "ascontiguousarray"),
    ],
)
def test_pack_says_what_it_expected(argument, error, message):
    with pytest.raises(error, match=message):
        tritgemm.pack(argument)


def test_unpack_checks_the_width():
    packed = np.zeros((2, 3), np.uint8)
    for k in (8, 13, 2**63):
        with pytest.raises(tritgemm.ShapeError, match=f"rows of 3 bytes, expected .* for k = {k}"):
            tritgemm.unpack(packed, k)
    with pytest.raises(OverflowError):
        tritgemm.unpack(packed, -1)


def test_bad_out():
    trits = np.zeros((2, 4), np.int8)
    with pytest.raises(tritgemm.ShapeError, match=r"out: expected uint8 \[2, 1\], got uint8 \[2, 2\]"):
        tritgemm.pack(trits, out=np.zeros((2, 2), np.uint8))
    with pytest.raises(TypeError, match=r"out: expected uint8 \[2, 1\], got int8 \[2, 1\]"):
        tritgemm.pack(trits, out=np.zeros((2, 1), np.int8))
    frozen = np.zeros((2, 1), np.uint8)
    frozen.flags.writeable = False
    with pytest.raises(tritgemm.TritgemmError, match="not writeable"):
        tritgemm.pack(trits, out=frozen)
    with pytest.raises(tritgemm.OverlapError, match="out"):
        tritgemm.pack(trits, out=trits.reshape(-1)[:2].view(np.uint8).reshape(2, 1))
