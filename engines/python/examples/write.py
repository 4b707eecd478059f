"""Lets a BitNet checkpoint go on with a text, on the kernels.

    python examples/write.py [FOLDER] [--prompt TEXT] [--tokens 64]

FOLDER is a checkpoint of transformers; without one it is the small model of
../testdata/small-bitnet, which `train_small.py` made.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import tritgemm.hf
from transformers import AutoTokenizer, TextStreamer

SMALL = Path(__file__).parents[2] / "testdata" / "small-bitnet"


def main() -> None:
    """Prints the likeliest text, word by word."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=SMALL)
    parser.add_argument("--prompt", default="And it came to pass")
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    model = tritgemm.hf.from_pretrained(args.folder, dtype=torch.float32, progress=False)
    given = tokenizer(args.prompt, return_tensors="pt")
    streamer = TextStreamer(tokenizer, skip_special_tokens=True)
    model.generate(
        given.input_ids,
        attention_mask=given.attention_mask,
        max_new_tokens=args.tokens,
        do_sample=False,
        streamer=streamer,
    )


if __name__ == "__main__":
    main()
