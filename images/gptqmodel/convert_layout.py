"""What a GPTQ or AWQ folder holds beside its quantised tensors, the same for all ways of quantising."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open

from bench_core.contract.adapter import Conversion

WEIGHTS = "model.safetensors"
HEAD = "lm_head.weight"
EMBEDDINGS = "model.embed_tokens.weight"
_CONFIG = "config.json"
_QUANTISED = re.compile(r"(model\.layers\.\d+\..*_proj)\.weight")
_NOT_COPIED = ("model.safetensors.index.json", _CONFIG)


def quantised_layer(name: str) -> str | None:
    """The layer's name if this weight is to be quantised: the linear layers of the blocks, not the head."""
    found = _QUANTISED.fullmatch(name)
    return found[1] if found else None


def shards(source: Path) -> Iterator[tuple[Any, list[str]]]:
    """Every safetensors file of a folder, opened in turn, and its tensors' names; tensors are read when asked for."""
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, framework="pt") as shard:
            yield shard, sorted(shard.keys())


def in_features_of(source: Path) -> list[int]:
    """Input widths of all layers to quantise."""
    return [
        shard.get_slice(name).get_shape()[1]
        for shard, names in shards(source)
        for name in names
        if quantised_layer(name)
    ]


def has_head(source: Path) -> bool:
    """Whether the model has a head of its own, or its embeddings serve as one."""
    return any(HEAD in names for _, names in shards(source))


def gptq_settings(group_size: int) -> dict[str, Any]:
    """``quantization_config`` of GPTQ's first format."""
    return {
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        "bits": 4,
        "group_size": group_size,
        "sym": True,
        "desc_act": False,
        "static_groups": False,
        "true_sequential": True,
        "damp_percent": 0.05,
        "lm_head": False,
        "pack_dtype": "int32",
    }


def awq_settings(group_size: int) -> dict[str, Any]:
    """``quantization_config`` of AWQ's layout ``gemm``, with the keys of AutoAWQ and of GPTQModel."""
    return {
        "quant_method": "awq",
        "checkpoint_format": "gemm",
        "version": "gemm",
        "bits": 4,
        "group_size": group_size,
        "zero_point": True,
        "sym": False,
        "desc_act": False,
        "lm_head": False,
        "pack_dtype": "int32",
    }


def finish(conversion: Conversion, quantisation: dict[str, Any]) -> None:
    """Writes the configurations, copies the tokenizer and gives the head a tensor of its own."""
    _add_head(conversion.target / WEIGHTS)
    config = json.loads((conversion.source / _CONFIG).read_text(encoding="utf-8"))
    # The keys of both transformers 4 and 5; exllama reads pad_token_id without asking whether it is there.
    config |= {"dtype": "float16", "torch_dtype": "float16", "quantization_config": quantisation}
    config["pad_token_id"] = config.get("pad_token_id") or 0
    _write_json(conversion.target / _CONFIG, config)
    _write_json(conversion.target / "quantize_config.json", quantisation)
    (conversion.target / "quant_log.csv").unlink(missing_ok=True)  # timings, another at each run
    for path in conversion.source.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name not in _NOT_COPIED:
            shutil.copyfile(path, conversion.target / path.name)
    (conversion.target / WEIGHTS).chmod(0o644)  # GPTQModel leaves it to its owner alone


def _add_head(path: Path) -> None:
    """Engines that know no tied embeddings read the head by its name."""
    with safe_open(path, framework="pt") as weights:
        names = list(weights.keys())
        if HEAD in names:
            return
        tensors = {name: weights.get_tensor(name) for name in names}
    tensors[HEAD] = tensors[EMBEDDINGS].clone()
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def as_half(tensor: torch.Tensor) -> torch.Tensor:
    """A floating-point tensor as float16; anything else as it is."""
    return tensor.to(torch.float16) if tensor.is_floating_point() else tensor
