"""What adapters of engines on PyTorch have in common, so that it does not differ between their rows.

Needs torch alone, of any release from 2.2 on. The folder is no image, since it has no image.yaml. An image that uses it
copies it to /opt/bench/images/_torch and imports it as ``images._torch``, under every launcher.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from bench_core.contract.adapter import Device
from bench_core.contract.records.outcome import Outcome
from images._torch.unsupported import Unsupported

# What an error's text says, in lower case, where its type says too little.
OUT_OF_MEMORY = ("out of memory", "cublas_status_alloc_failed")
OUT_OF_HOST_MEMORY = ("can't allocate memory", "not enough memory")
NO_DEVICE = (
    "no kernel image is available",
    "found no nvidia driver",
    "no cuda gpus are available",
    "driver version is insufficient",
)
NO_CUDA = ("torch not compiled with cuda enabled",)

# Its name before torch 2.5 is that of CUDA's alone.
_OutOfMemoryError: Any = getattr(torch, "OutOfMemoryError", None) or torch.cuda.OutOfMemoryError


class TorchAdapter:
    """Failures by name, and memory that is given back."""

    out_of_memory: ClassVar[tuple[str, ...]] = OUT_OF_MEMORY
    unsupported: ClassVar[tuple[str, ...]] = NO_DEVICE

    def classify(self, error: BaseException) -> Outcome | None:
        """Out of memory by type or text; what the engine or this build cannot do by type or text."""
        if isinstance(error, (_OutOfMemoryError, MemoryError)):
            return Outcome.OOM_KV
        text = str(error).lower()
        if any(sign in text for sign in self.out_of_memory):
            return Outcome.OOM_KV
        if isinstance(error, Unsupported) or any(sign in text for sign in self.unsupported):
            return Outcome.UNSUPPORTED
        return None

    def _free(self) -> None:
        """Gives memory that nothing holds any more back to the device."""
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()


def chosen_device(device: Device) -> Any:
    """The device in torch's words, with as many threads as the cell has, and without cuDNN's attention."""
    torch.set_num_threads(device.threads)
    without_cudnn_attention()
    return torch.device("cuda:0" if device.kind == "cuda" else "cpu")


def without_cudnn_attention() -> None:
    """On a GPU of Hopper's kind torch would take cuDNN's attention, which builds a plan for every new length of the
    cache: tens of milliseconds at each step until every length has been seen."""
    torch.backends.cuda.enable_cudnn_sdp(False)


def log_probabilities(logits: Any, token_ids: Sequence[int]) -> list[float]:
    """Log-probability of each token but the first, softmax in float32.

    Args:
        logits: of all positions of one row, shape (tokens, vocabulary).
        token_ids: the row.
    """
    wanted = torch.tensor(list(token_ids[1:]), device=logits.device)
    losses = torch.nn.functional.cross_entropy(logits[:-1].float(), wanted, reduction="none")
    return [-float(loss) for loss in losses.tolist()]
