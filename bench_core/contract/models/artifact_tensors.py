"""Whether a given artifact's tensors are what its name says. Of converted ones the converter's name is the truth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench_core.contract.models.gguf_header import TYPES, GgufHeader, GgufTensor, read_gguf_header
from bench_core.contract.models.gptq_tensors import contradictions, gptq_form

# What llama.cpp's quantiser gives most projections under each name, with what it takes instead where a block of that
# type does not fit into a row (llama.cpp, src/llama-quant.cpp: llama_tensor_get_type, tensor_type_fallback).
_GGUF_TYPES = {
    "f32": "F32", "f16": "F16", "bf16": "BF16", "q4_0": "Q4_0", "q4_1": "Q4_1", "q5_0": "Q5_0", "q5_1": "Q5_1",
    "q8_0": "Q8_0", "q2_k": "Q2_K", "q3_k_s": "Q3_K", "q3_k_m": "Q3_K", "q3_k_l": "Q3_K", "q4_k_s": "Q4_K",
    "q4_k_m": "Q4_K", "q5_k_s": "Q5_K", "q5_k_m": "Q5_K", "q6_k": "Q6_K", "iq4_xs": "IQ4_XS",
}  # fmt: skip
_FALLBACKS = {
    "Q2_K": ("Q4_0", "IQ4_NL"), "Q3_K": ("Q4_0", "IQ4_NL"), "Q4_K": ("Q5_0",), "Q5_K": ("Q5_1",), "Q6_K": ("Q8_0",),
    "IQ4_XS": ("IQ4_NL",),
}  # fmt: skip
# Projections that the K names do not give a larger type: of queries and keys, and into the feed-forward network.
_PLAIN = re.compile(r"\.(attn_q|attn_k|ffn_gate|ffn_up)(_exps)?\.weight$")
_GPTQ = re.compile(r"gptq-int(\d+)-g(\d+)$")


def given_form(folder: Path, artifact: str, names: Iterable[str]) -> tuple[str, str]:
    """What the weights in ``names`` are by their tensors, in a few words, and what of it is not what the artifact's
    name (``gguf-q4_k_m``, ``gptq-int4-g128``) or the folder's ``config.json`` says. Both empty for other formats, of
    which nothing is read here.

    Raises:
        BadInput: a damaged file.
    """
    files = list(names)
    if artifact.startswith("gguf-"):
        whole = [name for name in files if name.endswith(".gguf")]
        if len(whole) == 1:
            header = read_gguf_header(folder / whole[0])
            return header.types, _gguf_problem(header, artifact.removeprefix("gguf-"))
    elif found := _GPTQ.match(artifact):
        return _gptq(folder, [name for name in files if name.endswith(".safetensors")], *map(int, found.groups()))
    return "", ""


def _gguf_problem(header: GgufHeader, name: str) -> str:
    wanted = _GGUF_TYPES.get(name)
    if wanted is None:
        return ""
    matrices = {key: tensor for key, tensor in header.tensors.items() if len(tensor.shape) > 1}
    least = _bits(wanted)
    smaller = sorted({t.type for t in matrices.values() if t.type in _QUANTISED and _bits(t.type) < least})
    if smaller:
        return f"it holds tensors of {smaller[0]}, which has fewer bits than {wanted}"
    plain = [tensor for key, tensor in matrices.items() if _PLAIN.search(key)]
    fitting = sum(tensor.elements for tensor in plain if tensor.type in _expected(wanted, tensor))
    if 2 * fitting < sum(tensor.elements for tensor in plain):
        most = max({t.type for t in plain}, key=lambda kind: sum(t.elements for t in plain if t.type == kind))
        return f"most of its projections are {most}"
    return ""


def _expected(wanted: str, tensor: GgufTensor) -> tuple[str, ...]:
    blocks = {name: block for name, block, _ in TYPES.values()}
    if tensor.shape[0] % blocks[wanted] == 0:
        return (wanted,)
    fallbacks = _FALLBACKS.get(wanted, ())
    return fallbacks if all(tensor.shape[0] % blocks[name] == 0 for name in fallbacks) and fallbacks else ("F16", "F32")


def _bits(kind: str) -> float:
    return next(size * 8 / block for name, block, size in TYPES.values() if name == kind)


_QUANTISED = {name for name, block, _ in TYPES.values() if block > 1} | {"F16", "BF16", "F32"}


def _gptq(folder: Path, names: Iterable[str], bits: int, group: int) -> tuple[str, str]:
    form = gptq_form(folder, names)
    if form is None:
        return "", "it has no quantised layer (qweight)"
    problems = list(contradictions(form, _settings(folder)))
    if form.bits != (bits,):
        problems.append(f"its weights have {' and '.join(map(str, form.bits))} bits")
    # Where the width of a layer is no multiple of the group, this suite's own converter takes a half or a quarter.
    if any(size not in (group, group // 2, group // 4) for size in form.group_sizes):
        problems.append(f"its groups are of {' and '.join(map(str, form.group_sizes))}")
    return form.words, "; ".join(problems)


def _settings(folder: Path) -> Mapping[str, Any]:
    """What engines go by: ``quantization_config`` of ``config.json``, or the older ``quantize_config.json``."""
    for name, key in (("config.json", "quantization_config"), ("quantize_config.json", None)):
        try:
            content = json.loads((folder / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        found = content.get(key) if key is not None and isinstance(content, dict) else content
        if isinstance(found, dict):
            return found
    return {}
