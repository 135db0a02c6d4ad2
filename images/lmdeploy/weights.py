"""What a folder's weights take in TurboMind's memory, which is not what they take on disk. Needs safetensors alone."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

ITEM_BYTES = 2  # the engine computes in 16 bits, and keeps in 16 bits what is not quantised
_INT32_BYTES = 4
_HEAD, _EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"


def settings(artifact: Path) -> dict[str, Any]:
    """``config.json``."""
    found: dict[str, Any] = json.loads((artifact / "config.json").read_text(encoding="utf-8"))
    return found


def in_memory(artifact: Path, group: int | None) -> dict[str, int] | None:
    """``weights_bytes`` and, of them, ``embedding_bytes``; ``None`` where the group of quantised layers is not known.

    A head that shares its numbers with the embeddings is kept a second time. Quantised layers keep their 4-bit numbers
    as they are stored, and a scale and a zero point in 16 bits for each group of inputs.

    Args:
        group: inputs that share a scale in memory.
    """
    tied = bool(settings(artifact).get("tie_word_embeddings"))
    shapes: dict[str, list[int]] = {}
    for path in sorted(artifact.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as shard:
            shapes |= {name: shard.get_slice(name).get_shape() for name in shard.keys()}  # noqa: SIM118  # no mapping
    embeddings = prod(shapes.get(_EMBEDDINGS, [0])) * ITEM_BYTES
    total = 0
    for name, shape in shapes.items():
        kind = name.rpartition(".")[2]
        if kind == "qweight":
            total += prod(shape) * _INT32_BYTES
        elif kind == "scales":
            if group is None:
                return None
            stored, outputs = shape
            inputs = _inputs(shapes[name.removesuffix("scales") + "qweight"], outputs)
            total += 2 * max(stored, inputs // group) * outputs * ITEM_BYTES
        elif kind not in ("qzeros", "g_idx") and not (tied and name == _HEAD):
            total += prod(shape) * ITEM_BYTES
    return {"weights_bytes": total + (embeddings if tied else 0), "embedding_bytes": embeddings}


def _inputs(packed: list[int], outputs: int) -> int:
    """Of a layer whose 4-bit numbers are packed by eight, GPTQ's along the inputs and AWQ's along the outputs."""
    return prod(packed) * 8 // outputs
