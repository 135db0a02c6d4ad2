"""Hugging Face Transformers: ``generate`` on a left-padded rectangle, plain or with static cache and compilation, or
``generate_batch`` (continuous batching)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from continuous import ContinuousBatching
from torch._dynamo.utils import counters
from transformers import CompileConfig, StaticCache
from transformers.utils import logging as transformers_logging

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.errors import BadInput
from bench_core.contract.models.tensor_names import is_expert
from images._torch.adapter import NO_CUDA, NO_DEVICE, OUT_OF_HOST_MEMORY, OUT_OF_MEMORY, chosen_device
from images._torch.generate import GenerateAdapter, greedy
from images._torch.pretrained import attention_of, read_whole
from images._torch.unsupported import Unsupported

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# Enough decode steps for CUDA graphs: one that compiles, one that records, one that replays.
_COMPILING_TOKENS = 8
# Attention kernels want the mask's rows aligned.
_CACHE_GRAIN_TOKENS = 64


class TransformersAdapter(GenerateAdapter):
    """Options: ``dtype`` (float32, float16, bfloat16), ``compile`` (static cache, ``torch.compile``), ``continuous``
    (``generate_batch``; not with ``compile``)."""

    out_of_memory = (*OUT_OF_MEMORY, *OUT_OF_HOST_MEMORY)
    unsupported = (
        *NO_DEVICE,
        *NO_CUDA,
        "does not recognize this architecture",
        "unrecognized configuration class",
    )

    def __init__(self) -> None:
        super().__init__()
        self._compile = False
        self._graphs = 0
        self._cudagraph_skips = 0
        self._cache: Any = None
        self._cache_shape = (0, 0)
        self._split = ""
        self._continuous: ContinuousBatching | None = None

    @property
    def continuous(self) -> ContinuousBatching | None:
        """What has the manager of the variants with continuous batching; ``None`` in the others."""
        return self._continuous

    @property
    def static_cache(self) -> Any:
        """The compiled variant's cache; ``None`` in the others."""
        return self._cache

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:
        """Reads safetensors from the folder straight onto the device; no hub, no remote code.

        Raises:
            BadInput: ``compile`` and ``continuous`` together.
        """
        self._compile = bool(variant.options["compile"])
        continuous = bool(variant.options["continuous"])
        if self._compile and continuous:
            raise BadInput("compile and continuous are two ways to generate", "--option transformers.compile=false")
        transformers_logging.disable_progress_bar()
        self._device = chosen_device(device)
        model = read_whole(
            artifact,
            dtype=_DTYPES[str(variant.options["dtype"])],
            attn_implementation=attention_of(artifact),
            # Over several GPUs the engine spreads whole layers, as many bytes on each.
            device_map={"": self._device} if device.gpus == 1 else "balanced",
        )
        self._split = _layers_each(model) if device.gpus > 1 else ""
        self._model = model.eval()
        greedy(self._model)
        self._continuous = ContinuousBatching(self._model) if continuous else None

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """Frees what the last shape held; makes the cache in blocks, or the static cache and compiles."""
        self._drop_shape()
        if self._continuous is not None:
            self._continuous.prepare(batch_size, max_prompt_tokens, max_new_tokens)
            return
        if not self._compile:
            return
        tokens = max_prompt_tokens + max_new_tokens
        tokens = -(-tokens // _CACHE_GRAIN_TOKENS) * _CACHE_GRAIN_TOKENS
        self._cache = StaticCache(config=self._model.config, max_cache_len=tokens)
        self._cache_shape = (batch_size, tokens)
        graphs_before = counters["stats"]["unique_graphs"]
        skips_before = counters["inductor"]["cudagraph_skips"]
        # Rows of two lengths, since a batch without padding may take another path.
        rows = [[0] * max(1, max_prompt_tokens - (row > 0)) for row in range(batch_size)]
        self._generate(rows, Decoding(max_new_tokens=min(_COMPILING_TOKENS, max_new_tokens)), None)
        self._graphs = counters["stats"]["unique_graphs"] - graphs_before
        self._cudagraph_skips = counters["inductor"]["cudagraph_skips"] - skips_before
        if self._graphs == 0 and max_new_tokens > 1:
            raise Unsupported(f"{type(self._model).__name__} was not compiled on {self._device}")

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """One call of ``generate``, or of ``generate_batch``."""
        if self._continuous is not None:
            return self._continuous.generate(prompts, decoding, on_tokens)
        return super().generate(prompts, decoding, on_tokens)

    def memory(self) -> Mapping[str, int]:
        """Bytes of the cache in blocks; nothing in the other variants."""
        return self._continuous.memory() if self._continuous is not None else {}

    def describe(self) -> Mapping[str, str]:
        """Attention, dtype, kind of cache, and what was compiled."""
        facts = {
            "attention": str(self._model.config._attn_implementation),  # noqa: SLF001 - the only place that says it
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "cache": "static" if self._compile else "dynamic",
            "kv_layout": "rectangle",
            "embeddings": self._device.type,
            "compiled": "yes" if self._graphs else "no",
            "weights_bytes": str(sum(weight.nbytes for weight in self._model.parameters())),
            "embedding_bytes": str(self._model.get_input_embeddings().weight.nbytes),
            "expert_bytes": str(
                sum(weight.nbytes for name, weight in self._model.named_parameters() if is_expert(name))
            ),
        }
        if self._split:
            facts["device_map"] = self._split
        if self._device.type == "cuda":
            facts["float32_matmul_precision"] = torch.get_float32_matmul_precision()
            facts["cudnn_attention"] = "on" if torch.backends.cuda.cudnn_sdp_enabled() else "off"
        if self._compile:
            facts["compiled_graphs"] = str(self._graphs)
            facts["cudagraph_skips"] = str(self._cudagraph_skips)
            facts["kv_positions"] = str(math.prod(self._cache_shape))
        return {**facts, **(self._continuous.describe() if self._continuous is not None else {})}

    def close(self) -> None:
        """Drops the model, the caches and all that compilation keeps, and gives the memory back to the device."""
        self._drop_shape()
        self._model = self._continuous = None
        self._free()

    def _drop_shape(self) -> None:
        if self._continuous is not None:
            self._continuous.close()
        self._cache = None
        self._cache_shape = (0, 0)
        self._graphs = self._cudagraph_skips = 0
        if self._compile:
            # Compiled code and CUDA graphs hold the cache's and the model's memory.
            torch.compiler.reset()
        self._free()

    def _settings(self) -> Mapping[str, Any]:
        return {
            "compile_config": _compile_config(self._device.type) if self._compile else None,
            "disable_compile": not self._compile,
        }

    def _arguments(self, rows: int, tokens: int) -> Mapping[str, Any]:
        if not self._compile:
            return {}
        batch_size, room = self._cache_shape
        if rows != batch_size or tokens > room:
            raise ValueError(f"prepared for {batch_size} rows of {room} tokens, given {rows} rows of {tokens}")
        self._cache.reset()
        return {"past_key_values": self._cache}  # from 5.24 on the argument is called `cache`; the old name warns


def _layers_each(model: Any) -> str:
    """How many parts of the model the engine has put on each GPU.

    Raises:
        Unsupported: it has put some elsewhere: it would work on the host, or from disk.
    """
    places = Counter(str(torch.device(place)) for place in model.hf_device_map.values())
    elsewhere = [place for place in places if not place.startswith("cuda")]
    if elsewhere:
        raise Unsupported(f"the model was put on {', '.join(elsewhere)} as well, for want of GPU memory")
    return "balanced: " + ", ".join(f"{place} {count}" for place, count in sorted(places.items()))


def _compile_config(device_type: str) -> Any:
    """The engine's default (inductor, reduce-overhead), which it applies to a CPU only when told so."""
    config = CompileConfig()
    if device_type == "cpu":
        config._compile_all_devices = True  # noqa: SLF001 - the engine's only switch for it
    return config
