"""What the suite adds inside SGLang's own processes. The part of the engine that computes, its scheduler, is a process
for each GPU: how it runs and why it failed is known there alone.

A step of the engine is not touched. Imported by the spawned processes as well, so nothing of the engine is imported
before it is needed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Of sglang 0.5.17, managers/scheduler.py: logger.error(f"Scheduler hit an exception: {traceback}")
_FAILED = "Scheduler hit an exception"
FACTS = "facts"


def run(folder: str, *arguments: Any) -> None:
    """The engine's ``run_scheduler_process``, with facts in what it says when it is ready.

    Args:
        folder: where the words of a failure go, a file for each process.
    """
    from sglang.srt.managers import scheduler  # noqa: PLC0415  # the engine, in its own process

    logging.getLogger(scheduler.__name__).addHandler(LastWords(Path(folder)))
    scheduler.Scheduler.get_init_info = with_facts(scheduler.Scheduler.get_init_info)
    scheduler.run_scheduler_process(*arguments)


class LastWords(logging.Handler):
    """Writes what a process says of its failure into a file named by its number."""

    def __init__(self, folder: Path) -> None:
        super().__init__(logging.ERROR)
        self._folder = folder

    def emit(self, record: logging.LogRecord) -> None:
        """Other lines are left alone."""
        words = record.getMessage()
        if words.startswith(_FAILED):
            (self._folder / f"{os.getpid()}.txt").write_text(words, encoding="utf-8")


def cause_in(folder: Path) -> str:
    """The exception of the first failure that was written down, in one line; empty where none was."""
    found = sorted(folder.glob("*.txt"), key=lambda path: path.stat().st_mtime_ns)
    lines = [line for path in found[:1] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    calls = [place for place, line in enumerate(lines) if line.startswith("  File ")]
    # Behind the last call stands its source, indented; then the exception, whose words may have several lines.
    behind = lines[calls[-1] + 1 :] if calls else lines[1:]
    return next((line.strip() for line in behind if not line.startswith(" ")), "")


def with_facts(told: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """The scheduler's word that it is ready, with :func:`facts_of`. The model's own ends of sequence count nowhere from
    then on: a request is told which ids end it, and the engine would add those of config.json."""

    def tell(scheduler: Any) -> dict[str, Any]:
        scheduler.model_config.hf_eos_token_id = set()
        return {**told(scheduler), FACTS: facts_of(scheduler)}

    return tell


def facts_of(scheduler: Any) -> dict[str, Any]:
    """How the engine runs on this process's GPU: bytes as numbers, kernels by their names."""
    runner = scheduler.tp_worker.model_runner
    graphs = scheduler.server_args.cuda_graph_config
    # In GiB, as the engine counts it, for every kind of cache that it has.
    cache_bytes = float(scheduler.token_to_kv_pool_allocator.get_kvcache().mem_usage) * 2**30
    return {
        "weights_bytes": _bytes([*runner.model.parameters(), *runner.model.buffers()]),
        "embedding_bytes": _bytes(
            [layer.weight for layer in runner.model.modules() if type(layer).__name__ == "VocabParallelEmbedding"]
        ),
        "cache_bytes": round(cache_bytes),
        "cache_tokens": int(scheduler.max_total_num_tokens),
        "page_tokens": int(scheduler.page_size),
        "max_running_requests": int(scheduler.max_running_requests),
        "context_tokens": int(scheduler.model_config.context_len),
        "dtype": _dtype(runner.dtype),
        "kv_dtype": _dtype(runner.kv_cache_dtype),
        "attention_kernel": type(runner.attn_backend).__name__,
        "linear_kernel": _linear_kernels(runner.model),
        "prefix_cache": type(scheduler.tree_cache).__name__,
        "overlap_schedule": str(bool(scheduler.enable_overlap)),
        "decode_graphs": str(graphs.decode.backend),
        "decode_graph_sizes": [int(size) for size in graphs.decode.bs or ()],
        "prefill_graphs": str(graphs.prefill.backend),
        "prefill_graph_tokens": int(graphs.prefill.max_bs or 0),
    }


def _bytes(tensors: list[Any]) -> int:
    """Of all tensors, shared ones once."""
    shared: Mapping[int, Any] = {tensor.data_ptr(): tensor for tensor in tensors}
    return sum(int(tensor.numel() * tensor.element_size()) for tensor in shared.values())


def _dtype(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _linear_kernels(model: Any) -> str:
    """Names of the methods by which the layers multiply; of FP8 also the kernel that the method takes here."""
    names = set()
    for layer in model.modules():
        method = getattr(layer, "quant_method", None)
        name = type(method).__name__
        if name.endswith("LinearMethod"):
            if getattr(method, "use_marlin", False):
                name += " (Marlin)"
            elif getattr(method, "cutlass_fp8_supported", False):
                name += " (CUTLASS)"
            names.add(name)
    return ", ".join(sorted(names))
