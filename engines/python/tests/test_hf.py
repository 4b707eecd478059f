"""Models of transformers. Skipped where it is missing."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

import tritgemm

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
hf = pytest.importorskip("tritgemm.hf")
nn = torch.nn
PackedLinear = tritgemm.PackedLinear

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM, BitNetConfig, LlamaConfig  # noqa: E402
from transformers.integrations.bitnet import ActQuant, BitLinear, pack_weights  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
logging.getLogger("transformers").setLevel(logging.ERROR)

# Greedy search meets no end of a text.
NO_END = dict(bos_token_id=0, eos_token_id=None, pad_token_id=0)
SIZES = dict(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)
CONFIGS = {"bitnet": BitNetConfig, "llama": LlamaConfig}
MODES = ["bitlinear", "autobitlinear", "online", "normed"]
LINEARS = 2 * 7


def checkpoint(folder, architecture="bitnet", mode="bitlinear", dtype=torch.float32, **changes):
    """A random model as the quantiser of transformers reads it."""
    torch.manual_seed(0)
    config = CONFIGS[architecture](**(SIZES | NO_END | changes))
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    state = {}
    for name, weight in model.state_dict().items():
        inside = name.endswith("_proj.weight")
        if inside and mode != "online":
            scale = weight.float().abs().mean()
            trits = (weight.float() / scale).round().clamp(-1, 1)
            state[name] = pack_weights(trits)
            stored = scale if mode == "autobitlinear" else 1 / scale
            state[f"{name}_scale"] = stored.to(dtype).reshape(1)
            if mode == "normed":
                gain = torch.rand(weight.shape[1]) + 0.5
                state[name.removesuffix("weight") + "rms_norm.weight"] = gain.to(dtype)
        elif not (name == "lm_head.weight" and config.tie_word_embeddings):
            state[name] = weight.clone()
    quantization = {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear" if mode in ("autobitlinear", "online") else "bitlinear",
        "quantization_mode": "online" if mode == "online" else "offline",
        "use_rms_norm": mode == "normed",
        "modules_to_not_convert": ["lm_head"],
    }
    folder.mkdir(exist_ok=True)
    said = config.to_dict() | {
        "quantization_config": quantization,
        "architectures": [type(model).__name__],
        "dtype": str(dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(said))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(autouse=True)
def eagerly():
    """transformers compiles its quantisers for every shape: seconds, and the same values."""
    torch._dynamo.reset()
    with torch.compiler.set_stance("force_eager"):
        yield


def tokens(n=2, length=9):
    torch.manual_seed(7)
    return torch.randint(0, 128, (n, length))


def near(ours, theirs):
    """Logits of f32 models whose int8 activations are the same: sums in another order."""
    return (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def greedy(model, count=64):
    prompt = tokens(1, 5)
    with torch.no_grad():
        made = model.generate(prompt, max_new_tokens=count, do_sample=False, attention_mask=torch.ones_like(prompt))
    assert made.shape == (1, 5 + count)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_int8_values_are_those_of_transformers(dtype):
    torch.manual_seed(0)
    x = torch.randn(500, 256).to(dtype)
    q, scales = map(torch.from_numpy, tritgemm.quantize_activations(x.float().numpy(), as_torch=True))
    # AutoBitLinear gives the values that its int8 stand for.
    scale = 127 / x.float().abs().amax(-1, keepdim=True)
    assert torch.equal(1 / scale.flatten(), scales)
    assert torch.equal((q / scale).to(dtype), ActQuant.apply(x))
    # BitLinear rounds to the dtype on the way.
    theirs, _ = BitLinear(256, 4, bias=False, dtype=dtype).activation_quant(x)
    assert (theirs.int() - q.int()).abs().max() == (dtype != torch.float32)


@pytest.mark.parametrize("architecture", ["bitnet", "llama"])
@pytest.mark.parametrize("mode", MODES)
def test_logits_and_tokens_are_those_of_transformers(tmp_path, architecture, mode):
    path = checkpoint(tmp_path / "model", architecture, mode)
    theirs = AutoModelForCausalLM.from_pretrained(path)
    ours = hf.from_pretrained(path, progress=False)
    report = ours.hf_quantizer.report
    kind = {"online": "autobitlinear, online", "normed": "bitlinear"}.get(mode, mode)
    assert set(report.replaced.values()) == {kind} and len(report.replaced) == LINEARS
    assert report.left == {"lm_head": "its weights are not ternary"}
    assert sum(isinstance(m, PackedLinear) for m in ours.modules()) == LINEARS
    with torch.no_grad():
        assert near(ours(tokens()).logits, theirs(tokens()).logits)
    assert torch.equal(greedy(ours), greedy(theirs))


def test_convert_and_its_report(tmp_path):
    path = checkpoint(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(path)
    expected = hf.from_pretrained(path, progress=False)
    model.model.layers[1].mlp.up_proj.register_forward_hook(lambda *_: None)
    report = hf.convert(model, exclude=["*.layers.0.*.k_proj"], progress=True)
    assert len(report.replaced) == LINEARS - 2
    assert report.left == {
        "model.layers.0.self_attn.k_proj": "excluded",
        "model.layers.1.mlp.up_proj": "it has hooks",
        "lm_head": "its weights are not ternary",
    }
    assert "12 layers replaced, 3 left" in str(report) and "12 of bitlinear" in str(report)
    with torch.no_grad():
        assert near(model(tokens()).logits, expected(tokens()).logits)
    assert hf.convert(nn.Sequential(nn.ReLU())).replaced == {}
    with pytest.raises(ValueError, match="activations: expected"):
        hf.convert(model, activations="int4")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_models_have_the_dtype_that_is_asked_for(tmp_path, mode, dtypes):
    stored, asked = dtypes
    path = checkpoint(tmp_path / "model", mode=mode, dtype=stored)
    ours = hf.from_pretrained(path, progress=False, dtype=asked)
    assert {p.dtype for p in ours.parameters()} == {asked} and ours.dtype == asked
    with torch.no_grad():
        assert ours(tokens()).logits.dtype == asked


@pytest.mark.parametrize("mode", [*MODES, "saved"])
def test_checkpoints_without_a_tensor_of_a_layer_are_refused(tmp_path, mode):
    path = checkpoint(tmp_path / "model", mode="bitlinear" if mode == "saved" else mode)
    layer = "model.layers.1.mlp.up_proj"
    names = {"saved": ["weight", "scales"], "online": ["weight"], "normed": ["rms_norm.weight"]}
    if mode == "saved":
        hf.from_pretrained(path, progress=False, int8="lm_head").save_pretrained(path)
    state = load_file(path / "model.safetensors")
    for name in names.get(mode, ["weight", "weight_scale"]):
        left = {key: value for key, value in state.items() if key != f"{layer}.{name}"}
        save_file(left, path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(tritgemm.TritgemmError, match=f"the checkpoint lacks {layer}.{name}$"):
            hf.from_pretrained(path, progress=False)


def test_a_saved_model_takes_no_options(tmp_path):
    hf.from_pretrained(checkpoint(tmp_path / "model"), progress=False).save_pretrained(tmp_path / "saved")
    for given in ({"activations": "int8"}, {"exclude": ["lm_head"]}, {"int8": "lm_head"}, {"norms": True}):
        with pytest.raises(ValueError, match=f"{next(iter(given))}: the layers of this checkpoint"):
            hf.from_pretrained(tmp_path / "saved", progress=False, **given)
        with pytest.raises(ValueError, match=f"{next(iter(given))}: the layers of this checkpoint"):
            config = hf.TritgemmConfig(**given)
            AutoModelForCausalLM.from_pretrained(tmp_path / "saved", quantization_config=config)
    # As the message says.
    again = hf.from_pretrained(tmp_path / "saved", progress=False)
    assert hf.convert(again, int8="lm_head").replaced == {"lm_head": "Linear in int8"}
    with pytest.raises(TypeError, match="unexpected keyword argument 'activation'"):
        hf.TritgemmConfig(activation="int8")


def test_patterns_and_bare_layers(tmp_path):
    path = checkpoint(tmp_path / "model")
    report = hf.convert(AutoModelForCausalLM.from_pretrained(path), exclude="*k_proj", int8="lm_head")
    assert len(report.replaced) == LINEARS - 2 + 1 and set(report.left.values()) == {"excluded"}
    for given in ({"exclude": "lmhead"}, {"int8": ["lm_head", "lmhead"]}):
        with pytest.warns(UserWarning, match=f"{next(iter(given))}: no module's name matches 'lmhead'"):
            hf.from_pretrained(path, progress=False, **given)
    theirs = AutoModelForCausalLM.from_pretrained(path).model.layers[0].mlp.up_proj
    for layer in (nn.Linear(4, 4), nn.Embedding(4, 4), tritgemm.BitLinear(4, 4), theirs):
        with pytest.raises(TypeError, match=f"contains layers, got a {type(layer).__name__}"):
            hf.convert(layer)


def test_the_report_names_all_weights_that_stay():
    sizes = dict(vocab_size=128, n_embd=64, n_layer=1, n_head=4, n_positions=64)
    gpt = AutoModelForCausalLM.from_config(transformers.GPT2Config(**sizes))
    stays = "Conv1D is no layer that is converted: weight"
    names = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    expected = {f"transformer.h.0.{name}": stays for name in names}
    assert hf.convert(gpt).left == {**expected, "lm_head": "its weights are not ternary"}
    assert hf.convert(gpt, exclude=["*.c_fc"]).left["transformer.h.0.mlp.c_fc"] == "excluded"

    config = transformers.MixtralConfig(**SIZES, num_local_experts=2, num_experts_per_tok=1)
    left = hf.convert(AutoModelForCausalLM.from_config(config)).left
    kind, _, weights = left["model.layers.0.mlp.experts"].partition(" is no layer that is converted: ")
    assert kind == "MixtralExperts" and weights == "gate_up_proj, down_proj"
    assert "model.layers.0.mlp.gate" in left
    assert not any("norm" in name or "embed" in name for name in left)


@pytest.mark.parametrize("mode", ["bitlinear", "autobitlinear", "normed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_models_need_no_configuration(tmp_path, mode, dtype):
    path = checkpoint(tmp_path / "model", mode=mode, dtype=dtype)
    ours = hf.from_pretrained(
        path, progress=False, int8=["lm_head", "model.embed_tokens"], norms=True, dtype=dtype
    )
    assert type(ours.model.norm) is tritgemm.RMSNorm
    ours.save_pretrained(tmp_path / "saved")
    state = load_file(tmp_path / "saved" / "model.safetensors")
    assert state["model.layers.0.mlp.up_proj.weight"].dtype == torch.uint8
    assert state["model.layers.0.mlp.up_proj.scales"].dtype == torch.float32
    native = tritgemm.open(tmp_path / "saved")
    assert len(native) == 0 and "quant_method tritgemm, whose packed weights are not read" in native.notes[0]
    for again in (
        AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=dtype),
        hf.from_pretrained(tmp_path / "saved", dtype=dtype),
    ):
        assert again.hf_quantizer.report is None
        assert again.model.layers[0].mlp.up_proj.scales.dtype == torch.float32
        with torch.no_grad():
            assert torch.equal(again(tokens()).logits, ours(tokens()).logits)


@pytest.mark.parametrize("activations", ["f32", "int8"])
def test_what_was_set_after_conversion_is_saved(tmp_path, activations):
    ours = hf.from_pretrained(checkpoint(tmp_path / "model"), progress=False)
    for _ in range(2):
        tritgemm.set_activations(ours, activations)
        ours.save_pretrained(tmp_path / "saved")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
        assert again.model.layers[0].mlp.up_proj.activations == activations
        with torch.no_grad():
            assert torch.equal(again(tokens()).logits, ours(tokens()).logits)
        # What was loaded is saved with what is set then, too.
        ours, activations = again, "int8_torch"


def test_shards(tmp_path):
    path = checkpoint(tmp_path / "model")
    expected = hf.from_pretrained(path, progress=False)
    state = load_file(path / "model.safetensors")
    names = sorted(state)
    (path / "model.safetensors").unlink()
    # A weight and its scale lie in different ones.
    where = {name: f"model-0000{i % 3 + 1}-of-00003.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(where.values())):
        save_file({n: state[n] for n in names if where[n] == file}, path / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    ours = hf.from_pretrained(path, progress=True)
    with torch.no_grad():
        assert torch.equal(ours(tokens()).logits, expected(tokens()).logits)
    native = tritgemm.open(path)
    name = "model.layers.1.mlp.down_proj.weight"
    assert native[name].weights.to_trits().any() and len(native) == LINEARS
    assert native[name].weights.to_packed().tobytes() == ours.get_submodule(name[:-7]).weight.numpy().tobytes()


def test_the_quantiser_of_transformers(tmp_path):
    path = checkpoint(tmp_path / "model", mode="autobitlinear")
    config = hf.TritgemmConfig(activations="int8", exclude=["*.o_proj"])
    ours = AutoModelForCausalLM.from_pretrained(path, quantization_config=config)
    assert ours.model.layers[0].mlp.up_proj.activations == "int8"
    assert len(ours.hf_quantizer.report.replaced) == LINEARS - 2
    assert ours.config.quantization_config.quant_method == "tritgemm"
    # Without ours, transformers does as it did.
    theirs = AutoModelForCausalLM.from_pretrained(path)
    assert type(theirs.model.layers[0].mlp.up_proj).__name__ == "AutoBitLinear"
    said = json.loads((path / "config.json").read_text())
    said["quantization_config"] = {"quant_method": "fp8"}
    (path / "config.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match="TritgemmConfig reads checkpoints of BitNet's quantiser"):
        AutoModelForCausalLM.from_pretrained(path, quantization_config=config)


@pytest.mark.parametrize("group", [None, 32])
def test_dense_checkpoints_that_are_ternary(tmp_path, group):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**(SIZES | NO_END))).eval()
    for layer in model.modules():
        if type(layer) is nn.Linear and layer is not model.lm_head:
            packed = tritgemm.Packed.quantize(layer.weight.detach().numpy(), group or "row")
            layer.weight.data = torch.from_numpy(packed.dequantize())
    model.save_pretrained(tmp_path / "model")
    ours = hf.from_pretrained(tmp_path / "model", progress=False)
    assert ours.hf_quantizer.report.replaced["model.layers.0.mlp.up_proj"] == "ternary nn.Linear"
    up = ours.model.layers[0].mlp.up_proj
    assert up.activations == "f32" and up.granularity == (group or "row")
    with torch.no_grad():
        assert near(ours(tokens()).logits, model(tokens()).logits)
    # One that was trained here, by our own layer.
    tritgemm.replace_linear(model, exclude=["lm_head"], granularity=group or "row")
    report = hf.convert(model)
    assert set(report.replaced.values()) == {"BitLinear"} and len(report.replaced) == LINEARS


def test_the_hint_says_what_to_install():
    code = "import sys; sys.modules['transformers'] = None\ntry: import tritgemm.hf\nexcept ImportError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "tritgemm.hf needs transformers: pip install 'tritgemm[transformers]'"


def test_norms(tmp_path):
    path = checkpoint(tmp_path / "model")
    theirs, ours = (hf.from_pretrained(path, progress=False, norms=norms) for norms in (False, True))
    kinds = list(ours.hf_quantizer.report.replaced.values())
    assert kinds.count("BitNetRMSNorm") == 2 * 4 + 1 and kinds.count("bitlinear") == LINEARS
    gains = [m.weight for m in ours.modules() if isinstance(m, tritgemm.RMSNorm)]
    with torch.no_grad():
        for gain in gains:
            gain.uniform_(0.5, 1.5)
        theirs.load_state_dict(ours.state_dict())
        expected, logits = theirs(tokens()).logits, ours(tokens()).logits
    # An int8 value at a tie may be another.
    assert (logits - expected).abs().max() < 1e-2 * expected.abs().max()


def test_int8_heads(tmp_path):
    for tied in (False, True):
        path = checkpoint(tmp_path / str(tied), tie_word_embeddings=tied)
        dense = hf.from_pretrained(path, progress=False)
        ours = hf.from_pretrained(path, progress=False, int8=["lm_head", "model.embed_tokens"])
        assert type(ours.lm_head) is tritgemm.Int8Linear
        shared = ours.lm_head.weight.data_ptr() == ours.model.embed_tokens.weight.data_ptr()
        assert shared == tied
        report = ours.hf_quantizer.report
        assert report.left == {} and report.replaced["lm_head"] == "Linear in int8"
        with torch.no_grad():
            expected, logits = dense(tokens()).logits, ours(tokens()).logits
        assert 0 < (logits - expected).abs().max() < 0.1 * expected.abs().max()
        greedy(ours, 8)


@pytest.mark.parametrize("int8", [["lm_head"], ["model.embed_tokens"], ["lm_head", "model.embed_tokens"]])
@pytest.mark.parametrize("tied", [False, True])
def test_saved_int8_heads(tmp_path, int8, tied):
    path = checkpoint(tmp_path / "model", tie_word_embeddings=tied)
    ours = hf.from_pretrained(path, progress=False, int8=int8)
    ours.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(again(tokens()).logits, ours(tokens()).logits)
    for model in (ours, again):
        shared = model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
        assert shared == (tied and len(int8) == 2)


@pytest.mark.parametrize("mode", ["bitlinear", "online"])
def test_compiled_whole(tmp_path, mode):
    path = checkpoint(tmp_path / "model", mode=mode)
    theirs = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        expected = theirs(tokens()).logits
        tokens_of_theirs = greedy(theirs)
    torch.compiler.set_stance("default")
    ours = hf.from_pretrained(path, progress=False)
    compiled = torch.compile(ours, fullgraph=True)
    with torch.no_grad():
        assert near(compiled(tokens(), use_cache=False).logits, expected)
        # Greedy search through the compiled model.
        row = tokens(1, 5)
        for _ in range(64):
            padded = nn.functional.pad(row, (0, 69 - row.shape[1]))
            logits = compiled(padded, use_cache=False).logits[:, row.shape[1] - 1]
            row = torch.cat([row, logits.argmax(-1, keepdim=True)], 1)
    assert torch.equal(row, tokens_of_theirs)


def test_compiled_and_exported_models_have_the_bits_of_eager_ones(tmp_path):
    path = checkpoint(tmp_path / "model")
    ours = hf.from_pretrained(path, progress=False, int8=["lm_head"], norms=True)
    with torch.no_grad():
        expected = ours(tokens(), use_cache=False).logits
        torch.compiler.set_stance("default")
        # Inductor fuses what transformers has between the layers, with other last bits.
        compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(tokens(), use_cache=False).logits, expected)
        exported = torch.export.export(ours, (tokens(),), {"use_cache": False})
        assert torch.equal(exported.module()(tokens(), use_cache=False).logits, expected)
