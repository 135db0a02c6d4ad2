"""Hugging Face Transformers: ``generate`` on a left-padded rectangle, plain or with static cache and compilation."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.utils import counters
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    CompileConfig,
    GenerationConfig,
    StaticCache,
)
from transformers.utils import logging as transformers_logging

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.loading import require_all_weights
from bench_core.contract.outcome import Outcome
from bench_core.contract.rectangle import ArrivalStreamer, Rectangle, until_end
from bench_core.contract.tensor_names import is_expert

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# What an error's text says, in lower case, where its type says too little.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed", "not enough memory")
_UNSUPPORTED = (
    "no kernel image is available",
    "found no nvidia driver",
    "no cuda gpus are available",
    "torch not compiled with cuda enabled",
    "driver version is insufficient",
    "does not recognize this architecture",
    "unrecognized configuration class",
)

# Enough decode steps for CUDA graphs: one that compiles, one that records, one that replays.
_COMPILING_TOKENS = 8
# Attention kernels want the mask's rows aligned.
_CACHE_GRAIN_TOKENS = 64


class CompilationUnavailable(RuntimeError):
    """The compiled variant was asked for, but nothing could be compiled."""


class TransformersAdapter:
    """Options: ``dtype`` (float32, float16, bfloat16) and ``compile`` (static cache, ``torch.compile``)."""

    def __init__(self) -> None:
        self._model: Any = None
        self._device: Any = None
        self._compile = False
        self._graphs = 0
        self._cudagraph_skips = 0
        self._cache: Any = None
        self._cache_shape = (0, 0)

    @property
    def engine(self) -> Any:
        """The loaded model."""
        return self._model

    @property
    def static_cache(self) -> Any:
        """The compiled variant's cache; ``None`` in the others."""
        return self._cache

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:
        """Reads safetensors from the folder straight onto the device; no hub, no remote code."""
        self._compile = bool(variant.options["compile"])
        torch.set_num_threads(device.threads)
        transformers_logging.disable_progress_bar()
        # On a GPU of Hopper's kind torch would take cuDNN's attention, which builds a plan for every new length of the
        # cache: tens of milliseconds at each step until every length has been seen.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self._device = torch.device("cuda:0" if device.kind == "cuda" else "cpu")
        # What is not found is filled with random numbers; a weight of another shape would be an error without its name.
        model, said = AutoModelForCausalLM.from_pretrained(
            artifact,
            dtype=_DTYPES[str(variant.options["dtype"])],
            attn_implementation=_attention(artifact),
            device_map={"": self._device},
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        require_all_weights(said)
        self._model = model.eval()
        # A checkpoint's own settings (sampling, penalties, end-of-sequence ids) must not reach a greedy measurement.
        self._model.generation_config = GenerationConfig()

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """Frees what the last shape held; in the compiled variant makes the static cache and compiles."""
        self._drop_shape()
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
            raise CompilationUnavailable(f"{type(self._model).__name__} was not compiled on {self._device}")

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """One call of ``generate``; rows are cut after their first end-of-sequence id, so padding is never counted."""
        streamer = ArrivalStreamer(on_tokens, len(prompts), decoding.eos_token_ids) if on_tokens.wanted else None
        rows = self._generate(prompts, decoding, streamer)
        return [Completion(until_end(row, decoding.eos_token_ids)) for row in rows]

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
        if self._device.type == "cuda":
            facts["float32_matmul_precision"] = torch.get_float32_matmul_precision()
            facts["cudnn_attention"] = "on" if torch.backends.cuda.cudnn_sdp_enabled() else "off"
        if self._compile:
            facts["compiled_graphs"] = str(self._graphs)
            facts["cudagraph_skips"] = str(self._cudagraph_skips)
            facts["kv_positions"] = str(math.prod(self._cache_shape))
        return facts

    def score(self, token_ids: Sequence[int]) -> Sequence[float]:
        """Log-probability of each token but the first, softmax in float32."""
        with torch.inference_mode():
            ids = torch.tensor([list(token_ids)], device=self._device)
            logits = self._model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        return [-float(loss) for loss in losses.tolist()]

    def classify(self, error: BaseException) -> Outcome | None:
        """Out of memory by type or text; a device or architecture that this build cannot serve by text."""
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return Outcome.OOM_KV
        if isinstance(error, CompilationUnavailable):
            return Outcome.UNSUPPORTED
        text = str(error).lower()
        if any(sign in text for sign in _OUT_OF_MEMORY):
            return Outcome.OOM_KV
        if any(sign in text for sign in _UNSUPPORTED):
            return Outcome.UNSUPPORTED
        return None

    def close(self) -> None:
        """Drops the model, the cache and all that compilation keeps, and gives the memory back to the device."""
        self._model = None
        self._drop_shape()

    def _drop_shape(self) -> None:
        self._cache = None
        self._cache_shape = (0, 0)
        self._graphs = self._cudagraph_skips = 0
        if self._compile:
            # Compiled code and CUDA graphs hold the cache's and the model's memory.
            torch.compiler.reset()
        gc.collect()
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def _generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, streamer: ArrivalStreamer | None
    ) -> list[list[int]]:
        """New tokens of each row, padding behind an early end included."""
        rectangle = Rectangle.of(prompts, decoding.pad_token_id)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=decoding.max_new_tokens,
            # None, here and in the model's own configuration, is what makes generate ignore the end of sequence.
            eos_token_id=list(decoding.eos_token_ids) or None,
            pad_token_id=decoding.pad_token_id,
            compile_config=_compile_config(self._device.type) if self._compile else None,
            disable_compile=not self._compile,
        )
        extra = {}
        if self._compile:
            batch_size, tokens = self._cache_shape
            if len(prompts) != batch_size or rectangle.width + decoding.max_new_tokens > tokens:
                raise ValueError(
                    f"prepared for {batch_size} rows of {tokens} tokens, "
                    f"given {len(prompts)} rows of {rectangle.width + decoding.max_new_tokens}"
                )
            self._cache.reset()
            extra["past_key_values"] = self._cache  # from 5.24 on the argument is called `cache`; the old name warns
        output = self._model.generate(
            input_ids=torch.tensor(rectangle.ids, device=self._device),
            attention_mask=torch.tensor(rectangle.mask, device=self._device),
            generation_config=config,
            streamer=streamer,
            **extra,
        )
        new_tokens: list[list[int]] = output[:, rectangle.width :].tolist()  # waits for the device
        return new_tokens


def _attention(artifact: Path) -> str:
    """PyTorch's scaled-dot-product attention, unless the model's class has none or caps its scores (Gemma 2): under
    that attention transformers 5.17 leaves the cap out without a word (5.24 refuses)."""
    config = AutoConfig.from_pretrained(artifact, local_files_only=True, trust_remote_code=False)
    capped = getattr(config.get_text_config(decoder=True), "attn_logit_softcapping", None) is not None
    known = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return "eager" if capped or not getattr(known, "_supports_sdpa", True) else "sdpa"


def _compile_config(device_type: str) -> Any:
    """The engine's default (inductor, reduce-overhead), which it applies to a CPU only when told so."""
    config = CompileConfig()
    if device_type == "cpu":
        config._compile_all_devices = True  # noqa: SLF001 - the engine's only switch for it
    return config
