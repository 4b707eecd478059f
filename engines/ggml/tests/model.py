"""Writes a GGUF file of the llama architecture whose linear weights are random trits.

llama.cpp loads, runs and times it as any other; what it says means nothing. One seed gives the
same trits in every type, so that files of several types are one model, and the type f32 is that
model with weights that llama.cpp multiplies as they are. Q4_0 holds trits without a loss, too.
"""

import argparse
import struct

import numpy as np

ALIGNMENT = 32
F32, F16, Q6_K = 0, 1, 14


# Packers take codes (trit + 1) as uint8 [blocks, weights of a block] and scales as float16
# [blocks], and give the bytes of the blocks.


def two_bits(codes, width):
    """Four codes a byte, at distance `width`, the first in the low bits."""
    planes = codes.reshape(len(codes), -1, 4, width)
    return sum(planes[:, :, i] << (2 * i) for i in range(4)).reshape(len(codes), -1)


def five_trits(codes, width):
    """Up to five trits a byte, at distance `width`: a fraction of 243 as one of 256."""
    digits = codes.reshape(len(codes), -1, width).astype(np.uint16)
    powers = 3 ** np.arange(4, 4 - digits.shape[1], -1, dtype=np.uint16)
    return (((digits * powers[:, None]).sum(axis=1) * 256 + 242) // 243).astype(np.uint8)


def bytes_of(scales):
    return scales.astype("<f2").view(np.uint8).reshape(len(scales), 2)


def q2_0(codes, scales):
    return np.concatenate([bytes_of(scales), two_bits(codes, 1)], axis=1)


def tq2_0(codes, scales):
    return np.concatenate([two_bits(codes, 32), bytes_of(scales)], axis=1)


def tq1_0(codes, scales):
    runs = [(codes[:, :160], 32), (codes[:, 160:240], 16), (codes[:, 240:], 4)]
    return np.concatenate([five_trits(*run) for run in runs] + [bytes_of(scales)], axis=1)


def q4_0(codes, scales):
    """8 stands for 0, so that trit + 1 is stored as 7 more."""
    codes = codes + np.uint8(7)
    return np.concatenate([bytes_of(scales), codes[:, :16] | codes[:, 16:] << 4], axis=1)


def f32(codes, scales):
    return (codes.astype(np.float32) - 1) * scales.astype(np.float32)[:, None]


# Name: number in the file, weights of a block, packer.
TYPES = {"f32": (F32, 256, f32), "q4_0": (2, 32, q4_0), "tq1_0": (34, 256, tq1_0), "tq2_0": (35, 256, tq2_0),
         "q2_0": (42, 64, q2_0)}


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(v):
    """int (u32), float (f32), str or a list of one of these, with its type."""
    scalars = {int: (4, "<I"), float: (6, "<f")}
    if isinstance(v, str):
        return struct.pack("<I", 8) + string(v)
    if not isinstance(v, list):
        kind, form = scalars[type(v)]
        return struct.pack("<I", kind) + struct.pack(form, v)
    if isinstance(v[0], str):
        return struct.pack("<IIQ", 9, 8, len(v)) + b"".join(map(string, v))
    kind, form = {int: (5, "<i"), float: (6, "<f")}[type(v[0])]
    return struct.pack("<IIQ", 9, kind, len(v)) + b"".join(struct.pack(form, x) for x in v)


def write(path, metadata, tensors):
    """`tensors`: name, shape with K last, type, bytes."""
    padded = lambda data: data + bytes(-len(data) % ALIGNMENT)
    with open(path, "wb") as f:
        f.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
        for key, v in metadata.items():
            f.write(string(key) + value(v))
        offset = 0
        for name, shape, kind, data in tensors:
            f.write(string(name) + struct.pack("<I", len(shape)))
            f.write(struct.pack(f"<{len(shape)}QIQ", *reversed(shape), kind, offset))
            offset += len(padded(data))
        f.write(bytes(-f.tell() % ALIGNMENT))
        for *_, data in tensors:
            f.write(padded(data))


def vocabulary(size):
    """A sentencepiece vocabulary of every byte and of tokens that no text has."""
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    letters = ["\u2581"] + [chr(c) for c in range(33, 127)]
    rest = (letters + [a + b for a in letters for b in letters])[: size - len(tokens)]
    rest += [f"<unused{i}>" for i in range(size - len(tokens) - len(rest))]
    scores = [0.0] * len(tokens) + [-float(i) for i in range(len(rest))]
    return tokens + rest, scores, [2, 3, 3] + [6] * 256 + [1] * len(rest)


def model(path, kind, hidden=1024, ffn=2816, layers=4, heads=16, kv_heads=4, vocab=2048, experts=0,
          used=2, scales="tensor", zeros=1 / 3, two=False, head="f16", tied=False, seed=1):
    """Writes a model. `scales`: one a `tensor` or one a `block` of 64 weights or more. `experts`
    of a mixture, `used` of them a token. `two`: one weight is +2, in a type that has it. `head`:
    the type of the embedding and of the head, which is the embedding if they are `tied`."""
    rng = np.random.default_rng(seed)
    tokens, scores, kinds = vocabulary(vocab)
    head_dim = hidden // heads
    metadata = {
        "general.architecture": "llama",
        "general.name": f"random {kind}",
        "general.alignment": ALIGNMENT,
        "llama.block_count": layers,
        "llama.context_length": 4096,
        "llama.embedding_length": hidden,
        "llama.feed_forward_length": ffn,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": head_dim,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": vocab,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    if experts:
        metadata |= {"llama.expert_count": experts, "llama.expert_used_count": used}
    tensors = []

    def dense(name, rows, cols, scale, ty=np.float16):
        data = (rng.standard_normal((rows, cols), np.float32) * scale).astype(ty)
        tensors.append((name, (rows, cols), F16 if ty == np.float16 else F32, data.tobytes()))

    def six_bits(name, rows, cols, scale):
        """Random Q6_K: 192 bytes of codes a block, 16 scales, and one of those."""
        blocks = rows * cols // 256
        codes = rng.integers(0, 256, (blocks, 192), np.uint8)
        # Codes are as likely each from -32 to 31.
        ends = np.frombuffer(bytes([64] * 16) + np.float16(scale / 18.5 / 64).tobytes(), np.uint8)
        data = np.concatenate([codes, np.broadcast_to(ends, (blocks, len(ends)))], axis=1)
        tensors.append((name, (rows, cols), Q6_K, data.tobytes()))

    def table(name, scale):
        if head in TYPES:
            linear(name, vocab, hidden, kind=head)
        else:
            {"f16": dense, "q6_k": six_bits}[head](name, vocab, hidden, scale)

    def linear(name, *shape, kind=kind):
        number, block, pack = TYPES[kind]
        weights, cols = int(np.prod(shape)), shape[-1]
        codes = np.where(rng.random(weights, np.float32) >= zeros, 2 * rng.integers(0, 2, weights, np.uint8), np.uint8(1))
        if two and not any(name == "blk.0.attn_q.weight" for name, *_ in tensors):
            codes[5] = 3
        # Drawn for the smallest blocks of all types, so that each type draws as much.
        jitter = rng.uniform(0.75, 1.25, weights // 64).repeat(max(1, 64 // block))[:: max(1, block // 64)]
        scale = (jitter if scales == "block" else np.ones(weights // block)) / np.sqrt(cols * (1 - zeros))
        data = pack(codes.reshape(-1, block), scale.astype(np.float16))
        tensors.append((name, shape, number, data.tobytes()))

    def norm(name):
        tensors.append((name, (hidden,), F32, np.ones(hidden, np.float32).tobytes()))

    table("token_embd.weight", 1.0)
    norm("output_norm.weight")
    if not tied:
        table("output.weight", 2.0 / np.sqrt(hidden))
    for i in range(layers):
        block_name = f"blk.{i}"
        norm(f"{block_name}.attn_norm.weight")
        linear(f"{block_name}.attn_q.weight", hidden, hidden)
        linear(f"{block_name}.attn_k.weight", head_dim * kv_heads, hidden)
        linear(f"{block_name}.attn_v.weight", head_dim * kv_heads, hidden)
        linear(f"{block_name}.attn_output.weight", hidden, hidden)
        norm(f"{block_name}.ffn_norm.weight")
        if experts:
            dense(f"{block_name}.ffn_gate_inp.weight", experts, hidden, 1.0 / np.sqrt(hidden), np.float32)
        stack, suffix = ((experts,), "_exps") if experts else ((), "")
        linear(f"{block_name}.ffn_gate{suffix}.weight", *stack, ffn, hidden)
        linear(f"{block_name}.ffn_up{suffix}.weight", *stack, ffn, hidden)
        linear(f"{block_name}.ffn_down{suffix}.weight", *stack, hidden, ffn)
    write(path, metadata, tensors)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--type", choices=sorted(TYPES), default="tq2_0", help="of the linear weights")
    p.add_argument("--scales", choices=["tensor", "block"], default="tensor", help="one a matrix, or one a block")
    p.add_argument("--head", choices=sorted(["f16", "q6_k", *TYPES]), default="f16", help="type of embedding and head")
    p.add_argument("--tied", action="store_true", help="the head is the embedding")
    for name, default in {"hidden": 2048, "ffn": 6144, "layers": 6, "heads": 16, "kv-heads": 4, "vocab": 4096,
                          "experts": 0, "used": 2, "seed": 1}.items():
        p.add_argument(f"--{name}", type=int, default=default)
    a = vars(p.parse_args())
    model(a.pop("out"), a.pop("type"), **a)


if __name__ == "__main__":
    main()
