"""How much of each GPU ExLlamaV2 may fill with layers, so that all get about as many bytes."""

from __future__ import annotations

from typing import Any

_AMPLE_GIB = float(1 << 20)
_HALVINGS = 12  # of the room for one module: to less than a thousandth of it


def even_split(model: Any, gpus: int) -> list[float]:
    """The engine's ``gpu_split``, GiB for each GPU: the smallest share that holds the model if all GPUs get the same.

    The engine fills one GPU after the other, with whole modules and with what it reserves beside them.
    """
    left = model.set_device_map([_AMPLE_GIB] * gpus)  # everything on one of them
    sizes = [module.weight_footprint() / 2**30 for module in model.modules if not _is_embedding(module)]
    beside = _AMPLE_GIB - min(left) - sum(sizes)
    low = beside + sum(sizes) / gpus
    high = low + max(sizes)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _holds(model, middle, gpus) else (middle, high)
    return [high] * gpus


def _holds(model: Any, share_gib: float, gpus: int) -> bool:
    try:
        model.set_device_map([share_gib] * gpus)
    except (AssertionError, ValueError):  # as releases say it
        return False
    return True


def _is_embedding(module: Any) -> bool:
    """The table of input embeddings stays in host memory."""
    return type(module).__name__ == "ExLlamaV2Embedding"
