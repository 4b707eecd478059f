"""Files of a whole model: layers by their names."""

import json
import struct

import numpy as np
import pytest

import tritgemm
from conftest import layer, same_bits


@pytest.fixture
def layers(rng):
    shapes = [(130, 77), (1, 1), (64, 320), (3, 0), (0, 5)]
    made = [layer(rng, m, k, group=(None, 32)[i % 2], bias=i % 3 == 0) for i, (m, k) in enumerate(shapes)]
    made.append(made[2].with_rotation(64, rng.choice(np.array([-1, 1], np.int8), 320)))
    return {f"blk.{i}.größe": one for i, one in enumerate(made)}


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("verify", [False, True])
def test_what_was_saved_is_loaded(tmp_path, rng, path, layers, mmap, verify):
    file = tmp_path / "model.panels"
    tritgemm.save_model(file, layers)
    model = tritgemm.ModelFile.load(str(file), mmap=mmap, verify=verify)
    # Replacing the file does not disturb who has it open.
    tritgemm.save_model(str(file), {})
    assert model.names == list(layers) == list(model) and len(model) == 6
    assert repr(model) == "tritgemm.ModelFile(6 layers)"
    assert "blk" not in model
    loaded = {name: model[name] for name in model}
    del model
    for name, one in layers.items():
        same = loaded[name]
        assert same.to_bytes() == one.to_bytes()
        x = rng.standard_normal((3, one.in_features), dtype=np.float32)
        same_bits(tritgemm.linear(x, same, None, path), tritgemm.linear(x, one, None, path))
    empty = tritgemm.ModelFile.load(file, mmap=mmap)
    assert empty.names == [] and len(empty) == 0 and "" not in empty


def test_a_file_of_one_layer(tmp_path, layers):
    file, one = tmp_path / "layer.panels", layers["blk.0.größe"]
    one.save(file)
    model = tritgemm.ModelFile.load(file)
    assert model.names == [""]
    assert model[""].to_bytes() == one.to_bytes()


@pytest.mark.parametrize("mmap", [False, True])
def test_bad_files_and_names(tmp_path, layers, mmap):
    file = tmp_path / "model.panels"
    with pytest.raises(FileNotFoundError) as missing:
        tritgemm.ModelFile.load(file, mmap=mmap)
    assert missing.value.filename == str(file)
    with pytest.raises(FileNotFoundError):
        tritgemm.save_model(tmp_path / "no" / "where", layers)
    tritgemm.save_model(file, layers)
    model = tritgemm.ModelFile.load(file, mmap=mmap)
    with pytest.raises(KeyError, match="blk.9"):
        model["blk.9"]
    with pytest.raises(TypeError):
        model[0]
    with pytest.raises(TypeError):
        tritgemm.ModelFile()
    with pytest.raises(tritgemm.PanelFileError, match="of a model"):
        tritgemm.Linear.load(file, mmap=mmap)
    good = file.read_bytes()
    for bad, message in (
        (b"nonsense" * 100, "does not start with `TRITPANL`"),
        (good[:-1], "expected"),
        (good + b"\0", "expected"),
        (good[:20] + b"\1" + good[21:], "header checksum"),
        (good[:-1] + b"\xff", "checksum of the index"),
    ):
        file.write_bytes(bad)
        with pytest.raises(tritgemm.PanelFileError, match=message):
            tritgemm.ModelFile.load(file, mmap=mmap)
    # A layer is checked when it is taken.
    at = 64 + 200
    file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    model = tritgemm.ModelFile.load(file, mmap=mmap)
    with pytest.raises(tritgemm.PanelFileError, match="checksum of the panels"):
        model["blk.0.größe"]
    assert model["blk.2.größe"].to_bytes() == layers["blk.2.größe"].to_bytes()


def test_what_cannot_be_saved(tmp_path, layers):
    file = tmp_path / "model.panels"
    one = layers["blk.0.größe"]
    for bad, message in (
        ({1: one}, "layers: expected names of type str, got int"),
        ({"up": one, "down": one.weights}, r"layers\['down'\]: expected Linear, got .*Packed"),
        ([("up", one)], "layers"),
    ):
        with pytest.raises(TypeError, match=message):
            tritgemm.save_model(file, bad)
    assert not list(tmp_path.iterdir())


def test_a_model_of_any_format(tmp_path, layers):
    file = tmp_path / "model.panels"
    tritgemm.save_model(file, layers)
    for path in (file, str(file), tmp_path):
        model = tritgemm.Model.open(path)
        assert model.names == list(layers) == list(model) and len(model) == 6
        assert repr(model) == "tritgemm.Model(panel file, 6 matrices)"
        assert model.notes == []
        for name, one in layers.items():
            assert name in model
            assert model[name].to_bytes() == one.to_bytes()
    with pytest.raises(KeyError, match="blk.9"):
        model["blk.9"]
    with pytest.raises(OSError, match="cannot open"):
        tritgemm.Model.open(tmp_path / "none")
    with pytest.raises(tritgemm.TritgemmError, match="i2s_layout"):
        tritgemm.Model.open(file, i2s_layout="mips")
    other = tmp_path / "other"
    other.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(tritgemm.TritgemmError, match="Git LFS"):
        tritgemm.Model.open(other)


def write_safetensors(file, tensors, metadata):
    """By hand: names, types and shapes in a JSON header, then the bytes."""
    names = {np.float32: "F32", np.uint8: "U8"}
    header, data = {"__metadata__": metadata}, b""
    for name, value in tensors.items():
        offsets = [len(data), len(data) + value.nbytes]
        header[name] = {"dtype": names[value.dtype.type], "shape": list(value.shape), "data_offsets": offsets}
        data += value.tobytes()
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_hugging_face_files(tmp_path, rng):
    trits = rng.integers(-1, 2, (8, 6), dtype=np.int8)
    weight, scale = tritgemm.Packed.from_trits(trits, 0.25).to_hf()
    assert weight.shape == (2, 6) and scale == 4
    norm = rng.standard_normal((2, 3), dtype=np.float32)
    tensors = {"up.weight": weight, "up.weight_scale": np.array([scale], np.float32), "norm": norm}
    write_safetensors(tmp_path / "model.safetensors", tensors, {"format": "pt"})
    config = {"quantization_config": {"quant_method": "bitnet", "linear_class": "bitlinear"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = tritgemm.open(tmp_path)
    assert model.names == ["up.weight"] and model.format("up.weight") == "HF BitNet"
    assert model.metadata == {"format": "pt"} and model.other_names == ["norm"]
    same_bits(model.tensor("norm"), norm)
    np.testing.assert_array_equal(model["up.weight"].weights.to_trits(), trits)
    np.testing.assert_array_equal(model["up.weight"].weights.scales, np.array([0.25], np.float32))
    for wrong in ("up.weight", "none"):
        with pytest.raises(KeyError):
            model.tensor(wrong)
    with pytest.raises(KeyError):
        model.format("norm")


def test_gguf_files(tmp_path, rng):
    def text(value):
        raw = value if isinstance(value, bytes) else value.encode()
        return struct.pack("<Q", len(raw)) + raw

    strings = struct.pack("<IQ", 8, 2) + text("a") + text(b"\xff")
    metadata = {
        "general.architecture": (8, text("bitnet")),
        "n": (4, struct.pack("<I", 7)),
        "i": (11, struct.pack("<q", -5)),
        "eps": (6, struct.pack("<f", 0.5)),
        "on": (7, b"\1"),
        "tokens": (9, strings),
        "nested": (9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 1, 2) + b"\1\xff"),
    }
    norm = rng.standard_normal(64, dtype=np.float32)
    trits = rng.integers(-1, 2, (3, 256))
    # TQ2_0: 64 bytes of codes, 32 weights apart in a byte, and an f16.
    codes = (trits + 1).reshape(3, 2, 4, 32)
    packed = sum(codes[:, :, n] << (2 * n) for n in range(4)).astype(np.uint8).reshape(3, 64)
    blocks = b"".join(row.tobytes() + np.float16(0.5).tobytes() for row in packed)
    file = b"GGUF" + struct.pack("<IQQ", 3, 2, len(metadata))
    for key, (kind, value) in metadata.items():
        file += text(key) + struct.pack("<I", kind) + value
    file += text("norm") + struct.pack("<IQIQ", 1, 64, 0, 0)
    file += text("w") + struct.pack("<IQQIQ", 2, 256, 3, 35, 256)
    file += b"\0" * (-len(file) % 32) + norm.tobytes() + blocks
    (tmp_path / "model.gguf").write_bytes(file)
    model = tritgemm.open(tmp_path / "model.gguf")
    assert model.names == ["w"] and model.format("w") == "TQ2_0" and model.other_names == ["norm"]
    assert model.metadata == {
        "general.architecture": "bitnet",
        "n": 7,
        "i": -5,
        "eps": 0.5,
        "on": True,
        "tokens": ["a", b"\xff"],
        "nested": [[1, -1]],
    }
    assert model.metadata["on"] is True
    same_bits(model.tensor("norm"), norm)
    np.testing.assert_array_equal(model["w"].weights.to_trits(), trits)
    np.testing.assert_array_equal(model["w"].weights.scales, np.array([0.5], np.float32))


def varint(value):
    """An unsigned number as protobuf writes it, seven bits a byte."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number, value):
    """A field of a protobuf message: a number, text or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def initializer(name, array):
    """A TensorProto in a GraphProto: dims, data_type, name and raw_data."""
    data_type = {np.float32: 1, np.uint8: 2}[array.dtype.type]
    dims = b"".join(field(1, size) for size in array.shape)
    return field(5, dims + field(2, data_type) + field(8, name) + field(9, array.tobytes()))


def test_onnx_files(tmp_path, rng):
    n, k, block = 8, 64, 32
    trits = rng.integers(-1, 2, (n, k), dtype=np.int8)
    # Four codes a byte, the first in the lowest bits; 1 is zero.
    codes = (trits + 1).astype(np.uint8).reshape(n, k // block, block // 4, 4)
    tensors = {
        "W": np.bitwise_or.reduce(codes << np.arange(0, 8, 2, dtype=np.uint8), axis=3),
        "S": rng.uniform(0.1, 2, (n, k // block)).astype(np.float32),
        "Z": np.full((n, 1), 0b01010101, np.uint8),
        "norm": rng.standard_normal(4, dtype=np.float32),
    }
    attributes = {"K": k, "N": n, "bits": 2, "block_size": block}
    node = b"".join(field(1, name) for name in ("x", "W", "S", "Z")) + field(2, "y") + field(4, "MatMulNBits")
    for name, value in attributes.items():
        node += field(5, field(1, name) + field(3, value) + field(20, 2))
    graph = field(1, node + field(7, "com.microsoft"))
    graph += b"".join(initializer(name, array) for name, array in tensors.items())
    (tmp_path / "model.onnx").write_bytes(field(1, 10) + field(7, graph))
    for path in (tmp_path, tmp_path / "model.onnx"):
        model = tritgemm.open(path)
        assert model.names == ["W"] and model.format("W") == "ONNX 2-bit"
        weights = model["W"].weights
        np.testing.assert_array_equal(weights.to_trits(), trits)
        assert weights.granularity == block
        same_bits(weights.scales, tensors["S"])
        same_bits(model.tensor("norm"), tensors["norm"])
