"""Quantised weights' files in small, written byte by byte from the formats' descriptions: GGUF, and GPTQ in
safetensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Number, values in a block and bytes of it, of the types that tests use.
GGUF_TYPES = {
    "F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q5_0": (6, 32, 22), "Q8_0": (8, 32, 34),
    "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110), "Q4_K": (12, 256, 144), "Q6_K": (14, 256, 210),
}  # fmt: skip
ALIGNMENT = 32


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_bytes(
    tensors: Mapping[str, tuple[str, Sequence[int]]], keys: Mapping[str, str | int | list[str]] | None = None
) -> bytes:
    """A file of version 3 whose tensors, name to type and shape (rows' length first), hold zeros."""
    told: list[bytes] = []
    for key, value in {"general.architecture": "llama", **(keys or {})}.items():
        if isinstance(value, str):
            told.append(_text(key) + struct.pack("<I", 8) + _text(value))
        elif isinstance(value, int):
            told.append(_text(key) + struct.pack("<II", 4, value))
        else:
            told.append(_text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value)))
    entries: list[bytes] = []
    data = b""
    for name, (kind, shape) in tensors.items():
        number, block, size = GGUF_TYPES[kind]
        elements = 1
        for length in shape:
            elements *= length
        entries.append(_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, len(data)))
        data += bytes(elements // block * size)
        data += bytes(-len(data) % ALIGNMENT)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(told)) + b"".join(told) + b"".join(entries)
    return head + bytes(-len(head) % ALIGNMENT) + data


def llama_tensors(kinds: Mapping[str, str], width: int, inner: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """One layer's tensors and the tables; ``kinds`` gives types by a part of the name, ``*`` those of all others."""
    shapes = {
        "token_embd": (width, 64), "blk.0.attn_norm": (width,), "blk.0.attn_q": (width, width),
        "blk.0.attn_k": (width, width), "blk.0.attn_v": (width, width), "blk.0.attn_output": (width, width),
        "blk.0.ffn_gate": (width, inner), "blk.0.ffn_up": (width, inner), "blk.0.ffn_down": (inner, width),
        "output_norm": (width,),
    }  # fmt: skip
    found = {}
    for name, shape in shapes.items():
        kind = "F32" if len(shape) == 1 else next((k for part, k in kinds.items() if part in name), kinds["*"])
        found[f"{name}.weight"] = (kind, shape)
    return found


def gptq_file(
    path: Path,
    *,
    inputs: int = 256,
    outputs: int = 64,
    bits: int = 4,
    group: int = 128,
    zero: int = 7,
    act_order: bool = False,
    asymmetric: bool = False,
    leave_out: Sequence[str] = (),
    layers: int = 1,
    vocab_size: int = 64,
    around: bool = False,
) -> Path:
    """A safetensors file with quantised layers beside an embedding, of AutoGPTQ's layout; ``around`` adds the last norm
    and the head that a whole model has."""
    groups = -(-inputs // group)
    word = sum(zero << at for at in range(0, 32, bits)) & 0xFFFFFFFF
    zeros = [word] * (groups * outputs * bits // 32)
    if asymmetric:
        zeros[0] ^= 1
    order = [at % groups if act_order else at // group for at in range(inputs)]
    header: dict[str, Any] = {}
    data = b""

    def add(name: str, dtype: str, shape: list[int], content: bytes) -> None:
        nonlocal data
        if name.rpartition(".")[2] not in leave_out:
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
            data += content

    add("model.embed_tokens.weight", "F16", [vocab_size, 16], bytes(2 * vocab_size * 16))
    if around:
        add("model.norm.weight", "F16", [16], bytes(32))
        add("lm_head.weight", "F16", [vocab_size, 16], bytes(2 * vocab_size * 16))
    for layer in range(layers):
        name = f"model.layers.{layer}.mlp.down_proj"
        rows = inputs * bits // 32
        add(f"{name}.qweight", "I32", [rows, outputs], bytes(4 * rows * outputs))
        add(f"{name}.qzeros", "I32", [groups, outputs * bits // 32], struct.pack(f"<{len(zeros)}I", *zeros))
        add(f"{name}.scales", "F16", [groups, outputs], bytes(2 * groups * outputs))
        add(f"{name}.g_idx", "I32", [inputs], struct.pack(f"<{inputs}i", *order))
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def gptq_config(**changes: Any) -> dict[str, Any]:
    """``quantization_config`` of such a file as it is by default."""
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
    return {"quantization_config": settings | {"checkpoint_format": "gptq"} | changes}
