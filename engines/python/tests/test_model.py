"""Files of a whole model: layers by their names."""

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
