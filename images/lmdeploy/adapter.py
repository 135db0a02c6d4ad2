"""LMDeploy: TurboMind, one request for each row, all rows awaited together; weights in 16 bits, AWQ and GPTQ."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import dispatch
import torch
import weights
from lmdeploy import turbomind
from lmdeploy.messages import GenerationConfig, ResponseType, TurbomindEngineConfig

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.errors import BadInput
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.models.model_work import kv_bytes_per_token
from images._torch.adapter import NO_DEVICE, OUT_OF_MEMORY, TorchAdapter, log_probabilities
from images._torch.unsupported import Unsupported

_DONE = (ResponseType.SUCCESS, ResponseType.FINISH)
_MODULE = "lmdeploy.turbomind.turbomind"  # where the engine's class stands and finds its helpers


class RowFailed(RuntimeError):
    """The engine ended a row with a code; it has no text for it."""


class LmdeployAdapter(TorchAdapter):
    """Options.

    ``dtype``: float16 or bfloat16. ``max_batch_size``, ``max_prefill_token_num``: the engine's limits for one step.
    ``cache_max_entry_count``: the key-value cache's share of the memory beside the weights.
    """

    out_of_memory = (*OUT_OF_MEMORY, "out_of_memory")
    unsupported = (
        *NO_DEVICE,
        "turbomind does not support",
        "unsupported quant config",
        "unsupported group_size",
        "unsupported_fp8",
        "no executable data type",
        "no gemm kernel family",
        "no weight format accepts",
        "requires k >=",
    )

    def __init__(self) -> None:
        self._engine: Any = None
        self._rows: list[Any] = []
        self._sessions = count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._artifact = Path()
        self._model: ModelInfo | None = None
        self._choices: list[dispatch.Choice] = []
        self._cache_bytes = 0
        self._needed_bytes = 0.0
        self._largest_batch = 0

    @property
    def engine(self) -> Any:
        """The loaded ``TurboMind``, and a request object for each row of the prepared shape."""
        return self._engine, self._rows

    def take_model(self, model: ModelInfo) -> None:
        """The engine does not tell how large its blocks are."""
        self._model = model

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:
        """Reads the model, reserves the cache and lets the engine try its kernels, whose choice is kept."""
        if not turbomind.is_available():
            raise Unsupported(f"TurboMind's library cannot be loaded: {turbomind._import_error}")  # noqa: SLF001
        options = variant.options
        prefill, rows = int(options["max_prefill_token_num"]), int(options["max_batch_size"])
        config = TurbomindEngineConfig(
            dtype=str(options["dtype"]),
            tp=device.gpus,
            max_batch_size=rows,
            max_prefill_token_num=prefill,
            # A step reads no more prompt tokens than one sequence may have, and the engine tries its kernels with one
            # sequence that fills a step.
            session_len=prefill + rows,
            cache_max_entry_count=float(options["cache_max_entry_count"]),
            enable_prefix_caching=False,
        )
        self._artifact = artifact
        create = turbomind.TurboMind._create_engine  # noqa: SLF001
        with (
            dispatch.written() as told,
            # Ids go in and come out: a folder need not hold a tokenizer that the engine knows.
            mock.patch(f"{_MODULE}.Tokenizer"),
            mock.patch.object(turbomind.TurboMind, "_create_engine", self._noting(create)),
        ):
            self._engine = turbomind.TurboMind.from_pretrained(str(artifact), engine_config=config)
            self._choices = dispatch.choices(told.read_bytes()) if told.is_file() else []
        self._loop = asyncio.new_event_loop()

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """Checks that the shape is within what the engine was loaded for, and makes a request object for each row."""
        config = self._engine.engine_config
        if batch_size > config.max_batch_size:
            raise BadInput(
                f"a batch of {batch_size} is more than the engine's {config.max_batch_size} sequences",
                f"--option lmdeploy.max_batch_size={batch_size}",
            )
        tokens = max_prompt_tokens + max_new_tokens
        if tokens > config.session_len:
            raise BadInput(
                f"rows of {tokens} tokens are longer than the engine's {config.session_len}",
                f"--option lmdeploy.max_prefill_token_num={tokens}",
            )
        block = config.cache_block_seq_len
        self._needed_bytes = batch_size * -(-tokens // block) * block * self._kv_token_bytes
        self._largest_batch = batch_size
        self._rows += [self._engine.create_instance() for _ in range(batch_size - len(self._rows))]

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """All rows at once, each with its own stream of events."""
        config = GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            # What the engine's own pipeline makes of ``do_sample=False``.
            top_k=1,
            temperature=1.0,
            ignore_eos=decoding.forced,
            stop_token_ids=list(decoding.eos_token_ids) or None,
        )

        async def all_rows() -> list[list[int]]:
            rows = (self._row(row, prompt, config, on_tokens) for row, prompt in enumerate(prompts))
            # Every row is awaited, whatever becomes of another: a request that is left alone stays in the engine.
            ended = await asyncio.gather(*rows, return_exceptions=True)
            for row in ended:
                if isinstance(row, BaseException):
                    raise row
            return [row for row in ended if isinstance(row, list)]

        return [Completion(token_ids) for token_ids in self._event_loop.run_until_complete(all_rows())]

    def score(self, token_ids: Sequence[int]) -> Sequence[float]:
        """Log-probability of each token but the first, softmax in float32."""
        config = GenerationConfig(max_new_tokens=1, output_logits="all", top_k=1, temperature=1.0, ignore_eos=True)

        async def all_logits() -> Any:
            found = None
            instance = self._engine.create_instance()
            async for event in instance.async_stream_infer(
                next(self._sessions), input_ids=list(token_ids), gen_config=config, stream_output=False
            ):
                _require_done(event)
                found = event.logits
            return found

        logits = self._event_loop.run_until_complete(all_logits())
        return log_probabilities(logits[: len(token_ids)], token_ids)

    def describe(self) -> Mapping[str, str]:
        """Kernels of the linear layers, limits of a step, size of the cache and bytes of the weights in memory."""
        config = self._engine.engine_config
        memory = weights.in_memory(self._artifact, dispatch.group_in_memory(self._choices)) or {}
        return {
            "dtype": str(config.dtype),
            "quantization": str(config.model_format or "none"),
            **dispatch.facts(self._choices, self._largest_batch),
            "cuda_graphs": "none",
            "max_batch_size": str(config.max_batch_size),
            "max_prefill_token_num": str(config.max_prefill_token_num),
            "session_len": str(config.session_len),
            "kv_layout": "paged",
            "kv_cache_bytes": str(self._cache_bytes),
            "kv_cache_block_tokens": str(config.cache_block_seq_len),
            "embeddings": "cuda",
            **({"tensor_parallel_size": str(config.tp), "communicator": config.communicator} if config.tp > 1 else {}),
            **{name: str(size) for name, size in memory.items()},
        }

    def memory(self) -> Mapping[str, int]:
        """Weights and key-value cache: all that was reserved, and what the cell's largest batch can use of it, which is
        not known of a model whose layers are not. Weights are left out where the engine did not tell how it keeps
        them."""
        memory = weights.in_memory(self._artifact, dispatch.group_in_memory(self._choices)) or {}
        kept = memory.get("weights_bytes", 0)
        used = {"used_bytes": kept + min(round(self._needed_bytes), self._cache_bytes)} if self._needed_bytes else {}
        return {"reserved_bytes": kept + self._cache_bytes, **used}

    def close(self) -> None:
        """Ends the engine: a process that ends with it aborts. Requests hold it, so that they go first."""
        self._rows.clear()
        if self._engine is not None:
            self._engine.health_executor.shutdown(wait=False)
            self._engine.close()
            self._engine = None
        if self._loop is not None:
            self._loop.close()
            self._loop = None
        self._free()

    async def _row(self, row: int, prompt: Sequence[int], config: Any, on_tokens: TokenSink) -> list[int]:
        token_ids: list[int] = []
        async for event in self._rows[row].async_stream_infer(
            next(self._sessions), input_ids=list(prompt), gen_config=config, stream_output=on_tokens.wanted
        ):
            _require_done(event)
            # Those since the last event: one, unless this thread was late.
            if event.token_ids and on_tokens.wanted:
                on_tokens(row, len(event.token_ids))
            token_ids += event.token_ids
        return token_ids

    def _noting(self, create: Callable[[Any], None]) -> Callable[[Any], None]:
        """The step of the engine's start that reserves the cache, with a note of what it takes: a share of what is free
        on the GPU that has least, on each of them."""

        def create_and_note(engine: Any) -> None:
            free = min(torch.cuda.mem_get_info(device)[0] for device in engine.devices)
            share: float = engine.engine_config.cache_max_entry_count
            self._cache_bytes = int(free * share) * len(engine.devices)
            create(engine)

        return create_and_note

    @property
    def _kv_token_bytes(self) -> float:
        """Of all GPUs; it keeps a window's past, so that none ends here."""
        if self._model is None:
            raise RuntimeError("the engine's model was not told")
        return kv_bytes_per_token(self._model, weights.ITEM_BYTES, self._engine.engine_config.tp)

    @property
    def _event_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("the engine is not loaded")
        return self._loop


def _require_done(event: Any) -> None:
    if event.status not in _DONE:
        raise RowFailed(f"TurboMind ended a row with {event.status.name}")
