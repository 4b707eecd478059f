"""Makes the test vectors of `models`: tiny random checkpoints and what transformers says of them.

    pip install torch transformers accelerate   # those here are of transformers 5.24
    python make.py

| folder | architecture | weights |
|---|---|---|
| `bitnet` | BitNet b1.58, tied head | packed safetensors, `autobitlinear` |
| `llama` | Llama, head of its own, llama3 rope | packed safetensors, `bitlinear` |
| `online` | Llama, with norms before projections | dense bf16, quantised `online` |
| `qwen3` | Qwen3, ternary embedding and head, yarn rope | GGUF, Q2_0 |

With each checkpoint lies its tokenizer, and beside its folder a safetensors file of the same
name: `tokens`, the `logits` of each of them, the tokens that `greedy` decoding adds, and as
metadata the `text`, the `chat` that the template renders, its `messages`, and its tokens.
"""

import json
import os
import pathlib
import shutil
import struct

import numpy as np

# BitNet's layers are compiled, which takes a C++ compiler and longer than it saves.
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.integrations.bitnet import BitLinear, pack_weights

HERE = pathlib.Path(__file__).parent
TEXT = "The quick brown fox jumps over the lazy dog, then it sleeps. "
MESSAGES = [
    {"role": "system", "content": "Be brief. "},
    {"role": "user", "content": "then it sleeps, the lazy fox?"},
]
TEMPLATE = (
    "{%- for message in messages %}\n"
    "    {%- if loop.first and message['role'] == 'system' %}\n"
    "        {{- '<|s|>system\\n' + message.content | trim + '<|e|>' }}\n"
    "    {%- else %}\n"
    "        {{- '<|s|>' + message['role'] + '\\n' + message['content'].strip() + '<|e|>' }}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{ '<|s|>assistant\\n' }}{% endif %}"
)
VOCAB = 128
GREEDY = 24


def tokenizer(folder):
    """A byte-level BPE of VOCAB tokens that knows the letters of TEXT."""
    tok = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(
        Regex(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        "isolated",
    )
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tok.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tok.decoder = decoders.ByteLevel()
    words = TEXT * 3 + MESSAGES[0]["content"] + MESSAGES[1]["content"] + "system user assistant\n\n"
    special = ["<|s|>", "<|e|>"]
    letters = sorted({c for c, _ in level.pre_tokenize_str(words) for c in c})
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(special), initial_alphabet=letters, min_frequency=1
    )
    tok.train_from_iterator([words], trainer)
    fill = VOCAB - len(special) - tok.get_vocab_size()
    tok.add_tokens([f"<unused{i}>" for i in range(fill)])
    tok.add_special_tokens(special)
    assert tok.get_vocab_size() == VOCAB
    tok.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|s|>",
        "eos_token": "<|e|>",
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    return transformers.AutoTokenizer.from_pretrained(folder)


def trits(rng, shape):
    return torch.from_numpy(rng.choice([-1.0, 0.0, 1.0], size=shape).astype(np.float32))


def is_projection(name):
    return name.endswith("_proj.weight")


def dense(rng, name, shape):
    """Norms around 1, so that a norm in the wrong place shows; small embeddings, so that the
    layers decide."""
    normal = torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
    return 1.0 + 0.3 * normal if "norm" in name else 0.3 * normal


def packed(folder, seed, config, quantization, scale):
    """A checkpoint in the packed layout, loaded back by transformers."""
    rng = np.random.default_rng(seed)
    config.quantization_config = quantization
    with torch.device("meta"):
        empty = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tensors = {}
    for name, value in empty.state_dict().items():
        if name.endswith("weight_scale") or (config.tie_word_embeddings and "lm_head" in name):
            continue
        if is_projection(name):
            rows, cols = value.shape
            w = trits(rng, (rows, cols))
            tensors[name] = pack_weights(w.clone())
            value = torch.tensor([scale(rng)], dtype=torch.bfloat16)
            tensors[name + "_scale"] = value
        else:
            tensors[name] = dense(rng, name, tuple(value.shape)).to(torch.bfloat16)
    config.save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text())
    saved["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(saved, indent=1))
    save_file(tensors, str(folder / "model.safetensors"), {"format": "pt"})
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for module in model.modules():
        if isinstance(module, BitLinear):
            module.dtype = torch.float32
    # Its own `float` refuses: for quantised models, it says, everything is cast. It is not.
    return torch.nn.Module.float(model)


def expect(folder, model, tok, gap_wanted=0.1):
    """Whether the checkpoint is one that tells right from wrong; then writes what it gives."""
    tokens = tok(TEXT, return_tensors="pt").input_ids
    chat = tok.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    with torch.no_grad():
        logits = model(tokens).logits[0].float()
        ids, greedy, gap = tokens, [], np.inf
        for _ in range(GREEDY):
            top = model(ids).logits[0, -1].float().topk(2)
            gap = min(gap, float(top.values[0] - top.values[1]))
            greedy.append(int(top.indices[0]))
            ids = torch.cat([ids, top.indices[:1].view(1, 1)], 1)
    print(folder.name, tokens.shape[1], "tokens, smallest gap", gap, greedy)
    if gap < gap_wanted or len(set(greedy)) < 8:
        return False
    save_file(
        {
            "tokens": tokens[0].to(torch.int64),
            "logits": logits.contiguous(),
            "greedy": torch.tensor(greedy, dtype=torch.int64),
        },
        str(folder.with_suffix(".safetensors")),
        {
            "text": TEXT,
            "chat": chat,
            "chat_tokens": json.dumps(tok(chat, add_special_tokens=False).input_ids),
            "messages": json.dumps(MESSAGES),
        },
    )
    return True


def bitnet(folder, seed):
    config = transformers.BitNetConfig(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=512, num_hidden_layers=2,
        num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=256,
        rope_theta=500000.0, tie_word_embeddings=True, rms_norm_eps=1e-5,
        bos_token_id=VOCAB - 2, eos_token_id=VOCAB - 1,
    )  # fmt: skip
    quantization = {
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline",
    }  # fmt: skip
    return packed(folder, seed, config, quantization, lambda rng: rng.uniform(0.05, 0.1))


def llama(folder, seed):
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=1, head_dim=64, max_position_embeddings=256,
        tie_word_embeddings=False, rms_norm_eps=1e-6,
        bos_token_id=VOCAB - 2, eos_token_id=VOCAB - 1,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
    )  # fmt: skip
    quantization = {"quant_method": "bitnet", "modules_to_not_convert": None}
    return packed(folder, seed, config, quantization, lambda rng: rng.uniform(10.0, 20.0))


def online(folder, seed):
    """Dense weights that are quantised as they are loaded, with `use_rms_norm`."""
    rng = np.random.default_rng(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=72, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=24, max_position_embeddings=256,
        tie_word_embeddings=True, rms_norm_eps=1e-6,
        bos_token_id=VOCAB - 2, eos_token_id=VOCAB - 1,
    )  # fmt: skip
    quantization = {
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online",
        "use_rms_norm": True, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    with torch.device("meta"):
        empty = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tensors = {}
    for name, value in empty.state_dict().items():
        if "lm_head" in name:
            continue
        tensors[name] = dense(rng, name, tuple(value.shape)).to(torch.bfloat16)
        if is_projection(name):
            norm = name.replace(".weight", ".rms_norm.weight")
            tensors[norm] = dense(rng, norm, (value.shape[1],)).to(torch.bfloat16)
    config.save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text())
    saved["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(saved, indent=1))
    save_file(tensors, str(folder / "model.safetensors"), {"format": "pt"})
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert any("rms_norm" in name for name, _ in model.named_parameters())
    return torch.nn.Module.float(model)


def qwen3(folder, seed):
    """Group scales that are the same in pairs of 64, so that groups of 128 hold them too."""
    rng = np.random.default_rng(seed)
    config = transformers.Qwen3Config(
        vocab_size=VOCAB, hidden_size=128, intermediate_size=384, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=256,
        tie_word_embeddings=False, rms_norm_eps=1e-6,
        bos_token_id=VOCAB - 2, eos_token_id=VOCAB - 1,
        rope_parameters={
            "rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    weights, quantised = {}, {}
    for name, value in model.state_dict().items():
        shape = tuple(value.shape)
        if "norm" in name:
            weights[name] = dense(rng, name, shape)
            continue
        rows, cols = shape
        w = trits(rng, shape)
        scale = rng.uniform(0.05, 0.15, size=(rows, cols // 128)).astype(np.float16)
        if "embed" in name:
            scale *= np.float16(4)
        quantised[name] = w.numpy().astype(np.int8), scale
        weights[name] = w * torch.from_numpy(scale.astype(np.float32).repeat(128, 1))
    model.load_state_dict(weights)
    gguf(folder / "model.gguf", config, weights, quantised, folder / "tokenizer.json")
    return model


def gguf_name(name):
    parts = name.split(".")
    if parts[0] == "lm_head":
        return "output.weight"
    if parts[1] in ("embed_tokens", "norm"):
        return {"embed_tokens": "token_embd", "norm": "output_norm"}[parts[1]] + ".weight"
    names = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
        "q_norm": "attn_q_norm", "k_norm": "attn_k_norm",
        "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
    }  # fmt: skip
    return f"blk.{parts[2]}.{names[parts[-2]]}.weight"


def q2_0(w, scale):
    """Blocks of 64: f16, then 16 bytes of codes w + 1, the first in the lowest bits."""
    rows, cols = w.shape
    codes = (w + 1).astype(np.uint8).reshape(rows, cols // 64, 16, 4)
    codes = codes[..., 0] | codes[..., 1] << 2 | codes[..., 2] << 4 | codes[..., 3] << 6
    d = scale.repeat(2, 1).reshape(rows, cols // 64, 1).view(np.uint8)
    return np.concatenate([d, codes], axis=-1).tobytes()


def gguf(path, config, weights, quantised, tokenizer_json):
    def text(s):
        s = s.encode()
        return struct.pack("<Q", len(s)) + s

    def u32(n):
        return 4, struct.pack("<I", n)

    def f32(x):
        return 6, struct.pack("<f", x)

    def array(kind, items):
        return 9, struct.pack("<IQ", kind, len(items)) + b"".join(items)

    tok = json.loads(tokenizer_json.read_text())
    vocab = dict(tok["model"]["vocab"])
    special = {t["id"]: t for t in tok["added_tokens"]}
    vocab.update({t["content"]: i for i, t in special.items()})
    tokens = sorted(vocab, key=vocab.get)
    kinds = [(3 if special[i]["special"] else 4) if i in special else 1 for i in range(len(tokens))]
    rope, arch = config.rope_parameters, "qwen3"
    metadata = {
        "general.architecture": (8, text(arch)),
        f"{arch}.block_count": u32(config.num_hidden_layers),
        f"{arch}.context_length": u32(config.max_position_embeddings),
        f"{arch}.embedding_length": u32(config.hidden_size),
        f"{arch}.feed_forward_length": u32(config.intermediate_size),
        f"{arch}.attention.head_count": u32(config.num_attention_heads),
        f"{arch}.attention.head_count_kv": u32(config.num_key_value_heads),
        f"{arch}.attention.key_length": u32(config.head_dim),
        f"{arch}.attention.value_length": u32(config.head_dim),
        f"{arch}.attention.layer_norm_rms_epsilon": f32(config.rms_norm_eps),
        f"{arch}.rope.freq_base": f32(rope["rope_theta"]),
        f"{arch}.rope.scaling.type": (8, text("yarn")),
        f"{arch}.rope.scaling.factor": f32(rope["factor"]),
        f"{arch}.rope.scaling.original_context_length": u32(rope["original_max_position_embeddings"]),
        "tokenizer.ggml.model": (8, text("gpt2")),
        "tokenizer.ggml.pre": (8, text("qwen2")),
        "tokenizer.ggml.tokens": array(8, [text(t) for t in tokens]),
        "tokenizer.ggml.token_type": array(5, [struct.pack("<i", k) for k in kinds]),
        "tokenizer.ggml.merges": array(8, [text(" ".join(m)) for m in tok["model"]["merges"]]),
        "tokenizer.ggml.bos_token_id": u32(config.bos_token_id),
        "tokenizer.ggml.eos_token_id": u32(config.eos_token_id),
        "tokenizer.ggml.add_bos_token": (7, b"\0"),
        "tokenizer.chat_template": (8, text(TEMPLATE)),
    }
    head = b"GGUF" + struct.pack("<IQQ", 3, len(weights), len(metadata))
    for key, (kind, value) in metadata.items():
        head += text(key) + struct.pack("<I", kind) + value
    data = b""
    for name, value in weights.items():
        shape = tuple(value.shape)
        kind = 42 if name in quantised else 0
        raw = q2_0(*quantised[name]) if name in quantised else value.numpy().tobytes()
        head += text(gguf_name(name)) + struct.pack("<I", len(shape))
        head += b"".join(struct.pack("<Q", n) for n in reversed(shape))
        head += struct.pack("<IQ", kind, len(data))
        data += raw + bytes(-len(raw) % 32)
    path.write_bytes(head + bytes(-len(head) % 32) + data)


def main():
    torch.manual_seed(0)
    for make in (bitnet, llama, online, qwen3):
        folder = HERE / make.__name__
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        tok = tokenizer(folder)
        for seed in range(1, 1000):
            # Logits of a narrow model are smaller.
            if expect(folder, make(folder, seed), tok, 0.05 if make is online else 0.1):
                break
        # The GGUF file has all that this says.
        if make is qwen3:
            (folder / "tokenizer_config.json").unlink()
        # Nothing but the logits is looked at.
        if make is online:
            (folder / "tokenizer_config.json").unlink()
            (folder / "tokenizer.json").unlink()
        (folder / "generation_config.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
