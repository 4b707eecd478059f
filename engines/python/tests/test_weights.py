"""Packed and Linear: making, taking apart, files, pickles."""

import copy
import pickle

import numpy as np
import pytest

import tritgemm
from conftest import layer as any_layer
from conftest import same_bits


@pytest.fixture
def trits(rng):
    return rng.integers(-1, 2, (130, 77), dtype=np.int8)


@pytest.fixture
def scales(rng):
    return rng.uniform(0.5, 2, 130).astype(np.float32)


def test_every_way_in_and_out(trits, scales):
    one = tritgemm.Packed.from_trits(trits, scales)
    other = tritgemm.Packed.from_packed(tritgemm.pack(trits), 77, scales)
    for packed in (one, other):
        assert packed.shape == (130, 77) and packed.granularity == "row"
        assert packed.nbytes == 192 * 4 * 21 // 4
        np.testing.assert_array_equal(packed.to_trits(), trits)
        np.testing.assert_array_equal(packed.to_packed(), tritgemm.pack(trits))
        np.testing.assert_array_equal(packed.scales, scales)
        np.testing.assert_array_equal(packed.dequantize(), trits * scales[:, None])
        assert repr(packed) == "tritgemm.Packed(shape=(130, 77), granularity='row')"


def test_quantize_is_ternarize(rng):
    weights = rng.standard_normal((70, 300), dtype=np.float32)
    for granularity in ("tensor", "row", 32, 64, 128, 256):
        for sparsity in (None, "2:4"):
            packed = tritgemm.Packed.quantize(weights, granularity, sparsity=sparsity)
            trits, scales = tritgemm.ternarize(weights, granularity, sparsity=sparsity)
            np.testing.assert_array_equal(packed.to_trits(), trits)
            np.testing.assert_array_equal(packed.scales, scales)
            assert packed.granularity == granularity
    weights[69, 299] = -np.inf
    with pytest.raises(tritgemm.QuantizationError, match="row 69, column 299 is -inf"):
        tritgemm.Packed.quantize(weights)


@pytest.mark.parametrize("scale", [0.5, 2, np.float32(0.25), np.full(1, 4, np.float32)])
def test_one_scale(trits, scale):
    packed = tritgemm.Packed.from_trits(trits, scale)
    assert packed.granularity == "tensor"
    assert packed.scales.tolist() == [float(np.float32(scale).reshape(-1)[0])]
    assert tritgemm.Packed.from_trits(trits).scales.tolist() == [1.0]


def test_scales_are_checked(trits, scales):
    make = tritgemm.Packed.from_trits
    with pytest.raises(tritgemm.ShapeError, match="`scales` has length 129, expected 130"):
        make(trits, scales[:129].copy())
    with pytest.raises(tritgemm.QuantizationError, match="scale 4 is NaN"):
        make(trits, np.where(np.arange(130) == 4, np.nan, scales).astype(np.float32))
    with pytest.raises(TypeError, match=r"scales: expected float32 \[1\] or \[M\], got float64"):
        make(trits, scales.astype(np.float64))
    with pytest.raises(tritgemm.ShapeError, match=r"scales: .*\[1\] or \[M\], got float32 \[130, 1\]"):
        make(trits, scales[:, None])
    with pytest.raises(tritgemm.ShapeError, match=r"scales: .*\[M, G\], got float32 \[130\]"):
        make(trits, scales, group=64)
    wide = np.ones((130, 5), np.float32)
    with pytest.raises(tritgemm.ShapeError, match=r"scales: expected C-contiguous float32 \[M, G\], got float32 \[130, 2\]"):
        make(trits, wide[:, 1:3], group=64)
    with pytest.raises(tritgemm.ShapeError, match="scales: 2 rows, expected 130"):
        make(trits, np.ones((2, 2), np.float32), group=64)
    with pytest.raises(tritgemm.ShapeError, match="`scales` has length 390, expected 260"):
        make(trits, np.ones((130, 3), np.float32), group=64)
    with pytest.raises(tritgemm.ShapeError, match="got None"):
        make(trits, group=64)
    with pytest.raises(tritgemm.TritgemmError, match="group: expected 32, 64, 128 or 256, got 16"):
        make(trits, scales, group=16)


def test_illegal_packed_bytes():
    with pytest.raises(tritgemm.EncodingError, match="row 1, column 2: code 11"):
        tritgemm.Packed.from_packed(np.array([[0], [0b1100]], np.uint8), 4)
    with pytest.raises(tritgemm.EncodingError, match="row 0: the padding"):
        tritgemm.Packed.from_packed(np.array([[1]], np.uint8), 3)


def test_there_is_no_constructor():
    with pytest.raises(TypeError):
        tritgemm.Packed()


def test_bytes_of_hugging_face_are_told_apart(trits):
    stored, scale = tritgemm.Packed.from_trits(trits).to_hf()
    assert stored.shape == (33, 77)
    uses = [
        lambda: tritgemm.Packed.from_packed(stored, 77),
        lambda: tritgemm.unpack(stored, 77),
        lambda: tritgemm.gemm_i8(stored, np.ones((1, 77), np.int8)),
    ]
    for use in uses:
        with pytest.raises(tritgemm.ShapeError, match="rows of 77 bytes, expected 20 for k = 77; .* Packed.from_hf and"):
            use()
    back = tritgemm.Packed.from_hf(stored, scale, rows=130)
    np.testing.assert_array_equal(back.to_trits(), trits)
    with pytest.raises(tritgemm.ShapeError, match="expected 19 for k = 76$"):
        tritgemm.Packed.from_packed(stored, 76)


def test_transpose(rng, trits, scales):
    packed = tritgemm.Packed.from_trits(trits, scales).transpose()
    assert packed.shape == (77, 130) and packed.scales.tolist() == [1.0]
    np.testing.assert_array_equal(packed.to_trits(), trits.T)
    grad = rng.integers(-128, 128, (3, 130), dtype=np.int8)
    np.testing.assert_array_equal(packed.gemm_i8(grad), grad.astype(np.int64) @ trits)
    for shape in ((0, 5), (5, 0), (1, 1), (63, 65), (256, 3)):
        trits = rng.integers(-1, 2, shape, dtype=np.int8)
        back = tritgemm.Packed.from_trits(trits).transpose().to_trits()
        np.testing.assert_array_equal(back, trits.T)


def test_row_slices_are_shards(trits, scales, rng):
    packed = tritgemm.Packed.from_trits(trits, scales)
    layer = tritgemm.Linear(packed, scales)
    x = rng.standard_normal((4, 77), dtype=np.float32)
    whole = layer.forward_f32(x)
    for start, stop in ((0, 64), (64, 128), (64, 130), (128, 130), (0, 130), (64, 64)):
        np.testing.assert_array_equal(packed.slice_rows(start, stop).to_trits(), trits[start:stop])
        np.testing.assert_array_equal(layer.slice_rows(start, stop).forward_f32(x), whole[:, start:stop])
    with pytest.raises(tritgemm.ShapeError, match="multiples of 64, not at 63"):
        packed.slice_rows(63, 130)
    with pytest.raises(tritgemm.ShapeError, match="rows 0..131 of a matrix of 130"):
        layer.slice_rows(0, 131)


def test_linear_properties(trits, scales):
    packed = tritgemm.Packed.from_trits(trits, scales)
    layer = tritgemm.Linear(packed, scales)
    assert (layer.in_features, layer.out_features) == (77, 130)
    np.testing.assert_array_equal(layer.bias, scales)
    np.testing.assert_array_equal(layer.weights.to_trits(), trits)
    assert tritgemm.Linear(packed).bias is None
    assert repr(layer) == "tritgemm.Linear(in_features=77, out_features=130, bias=True)"
    with pytest.raises(tritgemm.ShapeError, match=r"bias: expected float32 \[M\], got float32 \[130, 1\]"):
        tritgemm.Linear(packed, scales[:, None])
    with pytest.raises(TypeError):
        tritgemm.Linear(trits)


@pytest.mark.parametrize("mmap", [False, True])
def test_files(tmp_path, trits, scales, rng, mmap):
    x = rng.standard_normal((4, 77), dtype=np.float32)
    layer = tritgemm.Linear(tritgemm.Packed.from_trits(trits, scales), scales)
    path = tmp_path / "layer.panels"
    layer.save(path)
    for verify in (True, False):
        back = tritgemm.Linear.load(path, mmap=mmap, verify=verify)
        np.testing.assert_array_equal(back.forward_f32(x), layer.forward_f32(x))
        packed = tritgemm.Packed.load(str(path), mmap=mmap, verify=verify)
        np.testing.assert_array_equal(packed.to_trits(), trits)
    # Replacing the file does not disturb who has mapped it.
    tritgemm.Packed.from_trits(trits).save(path)
    np.testing.assert_array_equal(back.forward_f32(x), layer.forward_f32(x))
    assert tritgemm.Packed.load(path, mmap=mmap).granularity == "tensor"


@pytest.mark.parametrize("mmap", [False, True])
def test_bad_files(tmp_path, trits, scales, mmap):
    path = tmp_path / "layer.panels"
    with pytest.raises(FileNotFoundError) as missing:
        tritgemm.Linear.load(path, mmap=mmap)
    assert missing.value.filename == str(path)
    with pytest.raises(FileNotFoundError):
        tritgemm.Packed.from_trits(trits).save(tmp_path / "no" / "where")
    tritgemm.Packed.from_trits(trits, scales).save(path)
    good = path.read_bytes()
    for bad, message in (
        (b"nonsense" * 100, "does not start with `TRITPANL`"),
        (good[:-1], "expected"),
        (good + b"\0", "expected"),
        (good[:20] + b"\1" + good[21:], "header checksum"),
        (good[:200] + bytes([good[200] ^ 1]) + good[201:], "checksum of the panels"),
    ):
        path.write_bytes(bad)
        for kind in (tritgemm.Packed, tritgemm.Linear):
            with pytest.raises(tritgemm.PanelFileError, match=message):
                kind.load(path, mmap=mmap)
            with pytest.raises(tritgemm.PanelFileError, match=message):
                kind.from_bytes(bad)


def test_pickles_and_copies(trits, scales, rng):
    packed = tritgemm.Packed.from_trits(trits, scales)
    layer = tritgemm.Linear(packed, scales)
    x = rng.standard_normal((4, 77), dtype=np.float32)
    for same in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        np.testing.assert_array_equal(same.forward_f32(x), layer.forward_f32(x))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(packed)).to_trits(), trits)


@pytest.mark.parametrize("group", [None, 32, 64])
def test_rows_are_unpacked(rng, group):
    layer = any_layer(rng, 130, 77, group=group)
    packed = layer.weights
    trits, weights = packed.to_trits(), packed.dequantize()
    for row in (0, 1, 63, 64, 129):
        for unpack, expected in ((packed.unpack_row, trits[row]), (layer.unpack_row, weights[row])):
            same_bits(unpack(row), expected)
            # A row of another array.
            out = np.full((2, 77), 7, expected.dtype)
            found = out[1]
            assert unpack(row, out=found) is found
            same_bits(out[1], expected)
            assert (out[0] == 7).all()
    shard = layer.slice_rows(64, 130)
    same_bits(shard.unpack_row(65), weights[129])


def test_rows_that_cannot_be_unpacked(rng):
    layer = any_layer(rng, 130, 77)
    for unpack, dtype in ((layer.unpack_row, "float32"), (layer.weights.unpack_row, "int8")):
        with pytest.raises(tritgemm.ShapeError, match="rows 130..131 of a matrix of 130"):
            unpack(130)
        with pytest.raises(OverflowError):
            unpack(-1)
        with pytest.raises(TypeError):
            unpack("0")
        for shape in (76, (1, 77)):
            with pytest.raises(tritgemm.ShapeError, match=rf"out: expected {dtype} \[77\], got {dtype}"):
                unpack(0, out=np.ones(shape, dtype))
        with pytest.raises(TypeError, match=rf"out: expected {dtype} \[77\], got float64"):
            unpack(0, out=np.ones(77))
        fixed = np.ones(77, dtype)
        fixed.flags.writeable = False
        with pytest.raises(tritgemm.TritgemmError, match="not writeable"):
            unpack(0, out=fixed)
