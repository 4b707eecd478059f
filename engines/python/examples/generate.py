"""How fast a BitNet model of transformers generates: dense bfloat16, transformers' own packed
path, and the same checkpoint on the kernels.

    python examples/generate.py [--layers 4] [--width 1024] [--vocabulary 32000] [--tokens 32]
        [--rounds 5] [--threads N]

The model has random weights, which costs as much as trained ones. Every round times each of them
once, in turn, so that whatever else the machine does falls on all; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import tritgemm
import tritgemm.hf
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitNetConfig
from transformers.utils import logging

QUANTIZER = {"quant_method": "bitnet", "linear_class": "bitlinear", "modules_to_not_convert": ["lm_head"]}


def checkpoints(folder: Path, layers: int, width: int, vocabulary: int = 32000) -> None:
    """A random model with ternary weights, dense and packed."""
    torch.manual_seed(0)
    config = BitNetConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 256,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    packed = {}
    for name, weight in model.state_dict().items():
        if not name.endswith("_proj.weight"):
            packed[name] = weight.clone()
            continue
        made = tritgemm.Packed.quantize(weight.float().numpy(), "tensor")
        codes, scale = made.to_hf("bitlinear", "bfloat16", exact=False)
        packed[name], packed[f"{name}_scale"] = torch.from_numpy(codes), torch.tensor([scale]).bfloat16()
        weight.copy_(torch.from_numpy(made.dequantize()))
    model.save_pretrained(folder / "dense")
    said = config.to_dict() | {
        "quantization_config": QUANTIZER,
        "architectures": ["BitNetForCausalLM"],
        "dtype": "bfloat16",
    }
    (folder / "packed").mkdir()
    (folder / "packed" / "config.json").write_text(json.dumps(said))
    save_file(packed, folder / "packed" / "model.safetensors", metadata={"format": "pt"})


def generate(model: Any, count: int) -> tuple[float, torch.Tensor]:
    """Tokens a second, and the tokens."""
    prompt = torch.arange(1, 9)[None]
    start = time.perf_counter()
    with torch.no_grad():
        made = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count, min_new_tokens=count, do_sample=False
        )
    return count / (time.perf_counter() - start), made[0, 8:]


def main() -> None:
    """Times them and prints medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=1024, help="a multiple of 256")
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tritgemm.set_num_threads(args.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoints(folder, args.layers, args.width, args.vocabulary)
        path = str(folder / "packed")
        load = AutoModelForCausalLM.from_pretrained
        head = ["lm_head", "model.embed_tokens"]
        models = {
            "dense bfloat16": load(folder / "dense", dtype=torch.bfloat16),
            "transformers, packed": load(path, dtype=torch.bfloat16),
            "tritgemm": tritgemm.hf.from_pretrained(path, dtype=torch.bfloat16, progress=False),
            "tritgemm, float32": tritgemm.hf.from_pretrained(path, dtype=torch.float32, progress=False),
            **{
                f"tritgemm, all of it, {str(dtype).removeprefix('torch.')}": tritgemm.hf.from_pretrained(
                    path, dtype=dtype, progress=False, int8=head, norms=True
                )
                for dtype in (torch.bfloat16, torch.float32)
            },
        }
        for model in models.values():  # compiles what transformers compiles
            generate(model, 4)
        speeds: dict[str, list[float]] = {kind: [] for kind in models}
        for _ in range(args.rounds):
            for kind, model in models.items():
                speeds[kind].append(generate(model, args.tokens)[0])
    medians = {kind: statistics.median(values) for kind, values in speeds.items()}
    dense, packed = medians["dense bfloat16"], medians["transformers, packed"]
    print(f"{args.layers} layers x {args.width}, {args.threads} threads, median of {args.rounds} rounds")
    print(f"{'':32}{'tokens/s':>10}{'x dense':>10}{'x packed':>10}")
    for kind, speed in medians.items():
        print(f"{kind:32}{speed:10.1f}{speed / dense:10.2f}{speed / packed:10.2f}")


if __name__ == "__main__":
    main()
