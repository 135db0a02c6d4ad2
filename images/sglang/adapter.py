"""SGLang: one engine for all shapes; a batch is one call of its offline ``generate``."""

from __future__ import annotations

import asyncio
import atexit
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import engine_process
import kernels
from engine_steps import tokens_told
from sglang.srt.entrypoints.engine import Engine
from sglang.srt.utils import kill_process_tree

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.errors import BadInput
from bench_core.contract.records.outcome import Outcome
from images._torch.adapter import NO_DEVICE, OUT_OF_HOST_MEMORY, OUT_OF_MEMORY, TorchAdapter
from images._torch.pretrained import require_complete

_END_S = 60  # that the engine's processes have to end


class CacheTooSmall(RuntimeError):
    """The memory left for the key-value cache does not hold the shape asked for."""


class EngineEnded(RuntimeError):
    """A process of the engine has failed; the message is the last line that it said of it."""


class SglangAdapter(TorchAdapter):
    """Options.

    ``dtype``: float16 or bfloat16. ``quantization``: fp8, or empty. ``attention_backend``: the engine's name of it.
    ``max_running_requests``: its slots, of which a prompt that is read in pieces takes one more.
    ``chunked_prefill_size``: prompt tokens read in one step. ``mem_fraction_static``: share of the GPU for weights and
    key-value cache.
    """

    # "Not enough memory" is also said of a GPU's; the last two are of weights that leave none for a cache.
    out_of_memory: ClassVar[tuple[str, ...]] = (
        *OUT_OF_MEMORY,
        *OUT_OF_HOST_MEMORY,
        "no gpu memory for the kv cache",
        "increase --mem-fraction-static",
    )
    unsupported: ClassVar[tuple[str, ...]] = (
        *NO_DEVICE,
        "requires sm>=",  # FlashAttention 3 on a GPU that is older or newer than Hopper
        "minimum capability",
        "not supported for the current gpu",
        "are not supported for now",  # a model's architecture
    )

    def __init__(self) -> None:
        self._engine: Any = None
        self._facts: list[Mapping[str, Any]] = []
        self._said = Path()
        self._died: asyncio.Future[None] | None = None
        self._settings: dict[str, str] = {}
        self._batches = 0
        self._needed_tokens = 0

    @property
    def engine(self) -> Any:
        """The loaded ``Engine``."""
        return self._engine

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:
        """Starts the engine's processes, which read the model, reserve memory and record CUDA graphs."""
        require_complete(artifact)  # the engine takes memory as it finds it for a weight that is missing
        kernels.prepare()
        self._said = Path(tempfile.mkdtemp(prefix="sglang-"))
        arguments = self._arguments(artifact, variant, device)
        self._settings = {
            name: str(arguments[name]) for name in ("chunked_prefill_size", "sampling_backend", "quantization")
        }
        own = {"run_scheduler_process_func": staticmethod(partial(engine_process.run, str(self._said)))}
        stopped, failed = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGQUIT)
        try:
            self._engine = type("Engine", (Engine,), own)(**arguments)
        except RuntimeError as error:
            cause = engine_process.cause_in(self._said)
            kill_process_tree(os.getpid(), include_parent=False, wait_timeout=_END_S)
            raise EngineEnded(cause or str(error)) from error
        finally:
            signal.signal(signal.SIGQUIT, failed)
        self._facts = [
            info[engine_process.FACTS]
            for info in self._engine._scheduler_init_result.scheduler_infos  # noqa: SLF001
        ]
        self._listen(stopped)

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """Checks that the shape is within what the engine was loaded for; its cache and graphs serve every shape."""
        facts = self._own_facts
        if batch_size >= facts["max_running_requests"]:
            # A prompt that is read in two steps takes a slot in both: the last row would wait until another has ended.
            raise BadInput(
                f"a batch of {batch_size} needs more than the engine's {facts['max_running_requests']} slots",
                f"--option sglang.max_running_requests={2 * batch_size}",
            )
        tokens = max_prompt_tokens + max_new_tokens
        if tokens > facts["context_tokens"]:
            raise BadInput(f"rows of {tokens} tokens: the model's context has {facts['context_tokens']}")
        page = facts["page_tokens"]
        self._needed_tokens = batch_size * -(-(tokens + 1) // page) * page  # the engine keeps one free for each row
        if self._needed_tokens > facts["cache_tokens"]:
            raise CacheTooSmall(
                f"{batch_size} rows of {tokens} tokens: the cache has memory for {facts['cache_tokens']} tokens"
            )

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """One call of the engine's ``generate``, with the tokens of each step seen."""
        self._batches += 1
        names = [f"{self._batches}-{row}" for row in range(len(prompts))]
        call = self._engine.async_generate(
            input_ids=[list(prompt) for prompt in prompts],
            sampling_params={
                "temperature": 0,
                "max_new_tokens": decoding.max_new_tokens,
                # Switches the ids below off as well. Of the model's own ends the engine knows none (engine_process).
                "ignore_eos": decoding.forced,
                "stop_token_ids": list(decoding.eos_token_ids),
            },
            rid=names,
        )
        rows = {name: row for row, name in enumerate(names)}
        manager = self._engine.tokenizer_manager
        with tokens_told(manager, rows, on_tokens) if on_tokens.wanted else nullcontext():
            results = self._result(call)
        return [Completion(_ids(result)) for result in results]

    def score(self, token_ids: Sequence[int]) -> Sequence[float]:
        """Log-probability of each token but the first, as the engine reports it for a prompt."""
        call = self._engine.async_generate(
            input_ids=list(token_ids),
            sampling_params={"temperature": 0, "max_new_tokens": 1, "ignore_eos": True},
            return_logprob=True,
            logprob_start_len=0,
        )
        found = self._result(call)["meta_info"]["input_token_logprobs"]
        return [float(logprob) for logprob, *_ in found[1:]]

    def describe(self) -> Mapping[str, str]:
        """Kernels of attention and linear layers, CUDA graphs, limits of a step, cache."""
        facts, sizes = self._own_facts, self._own_facts["decode_graph_sizes"]
        quantised = self._settings["quantization"] == "fp8"
        return {
            "dtype": "fp8" if quantised else facts["dtype"],
            "kv_dtype": facts["kv_dtype"],
            "attention_kernel": facts["attention_kernel"],
            "linear_kernel": facts["linear_kernel"],
            **self._settings,
            "cuda_graphs": facts["decode_graphs"],
            "cuda_graph_sizes": f"{len(sizes)} up to {max(sizes)}" if sizes else "none",
            "prefill_graphs": f"{facts['prefill_graphs']}, up to {facts['prefill_graph_tokens']} tokens",
            "prefix_cache": facts["prefix_cache"],
            "overlap_schedule": facts["overlap_schedule"],
            "max_running_requests": str(facts["max_running_requests"]),
            "kv_layout": "paged",
            "kv_cache_tokens": str(facts["cache_tokens"]),
            "kv_cache_tokens_needed": str(self._needed_tokens),
            "weights_bytes": str(self._sum("weights_bytes")),
            **({"embedding_bytes": str(self._sum("embedding_bytes"))} if quantised else {}),
            **({"tensor_parallel_size": str(len(self._facts))} if len(self._facts) > 1 else {}),
        }

    def memory(self) -> Mapping[str, int]:
        """Weights and key-value cache: all that was reserved, and what the cell's largest batch can use of it."""
        weights, cache = self._sum("weights_bytes"), self._sum("cache_bytes")
        share = min(self._needed_tokens / self._own_facts["cache_tokens"], 1)
        return {"reserved_bytes": weights + cache, "used_bytes": weights + round(cache * share)}

    def classify(self, error: BaseException) -> Outcome | None:
        """Beside what is said of memory and GPUs: a cache that does not hold the shape."""
        return Outcome.OOM_KV if isinstance(error, CacheTooSmall) else super().classify(error)

    def close(self) -> None:
        """Ends the engine's processes, waits until they are gone, and closes its loop of events."""
        if self._engine is None:
            return
        engine, self._engine = self._engine, None
        engine.shutdown()
        atexit.unregister(engine.shutdown)
        loop, manager = engine.loop, engine.tokenizer_manager
        loop.remove_signal_handler(signal.SIGQUIT)
        for task in manager.asyncio_tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*manager.asyncio_tasks, return_exceptions=True))
        manager.recv_from_detokenizer.close(linger=0)
        manager.send_to_scheduler.close(linger=0)
        loop.close()
        shutil.rmtree(self._said, ignore_errors=True)
        del engine, loop, manager
        gc.collect()

    def _arguments(self, artifact: Path, variant: Variant, device: Device) -> dict[str, Any]:
        """Of the engine."""
        options = variant.options
        return {
            "model_path": str(artifact),
            "dtype": str(options["dtype"]),
            "quantization": str(options["quantization"]) or None,
            "skip_tokenizer_init": True,
            "disable_radix_cache": True,
            "attention_backend": str(options["attention_backend"]),
            # Greedy choice needs no kernel for sampling, and FlashInfer's would be compiled at first use.
            "sampling_backend": "pytorch",
            "max_running_requests": int(options["max_running_requests"]),
            "chunked_prefill_size": int(options["chunked_prefill_size"]),
            "mem_fraction_static": float(options["mem_fraction_static"]),
            # A checkpoint's own sampling settings must not reach a greedy measurement.
            "sampling_defaults": "openai",
            "random_seed": 0,
            "tp_size": device.gpus,
            # It would take multicast over NVLink; only models of experts have it switched on unasked.
            "enforce_disable_flashinfer_allreduce_fusion": True,
            # A process that fails sends this signal, upon which the engine kills the process that started it.
            "custom_sigquit_handler": signal.SIG_IGN,
            "log_level": "error",
        }

    def _listen(self, stopped: Any) -> None:
        """Starts the engine's own loop of what comes in, and leaves the worker its signals: the engine takes SIGTERM to
        end everything at once, and SIGQUIT, which its processes send when they fail, to kill this one.

        Args:
            stopped: what SIGTERM does without the engine.
        """
        engine = self._engine

        async def start() -> None:
            engine.tokenizer_manager.auto_create_handle_loop()  # takes the running loop, or makes one that never runs

        engine.loop.run_until_complete(start())
        died = engine.loop.create_future()
        engine.loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, stopped)
        engine.loop.add_signal_handler(signal.SIGQUIT, lambda: died.done() or died.set_result(None))
        self._died = died

    def _result(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Runs a call of the engine to its end.

        Raises:
            EngineEnded: a process of the engine has failed meanwhile, for which the call would wait for ever.
        """
        return self._engine.loop.run_until_complete(self._unless_died(call))

    async def _unless_died(self, call: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.ensure_future(call)
        await asyncio.wait({task, self._died}, return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise EngineEnded(engine_process.cause_in(self._said) or "a process of the engine has ended")

    @property
    def _own_facts(self) -> Mapping[str, Any]:
        """Of the first GPU; shapes and kernels are the same on all."""
        if not self._facts:
            raise RuntimeError("the engine is not loaded")
        return self._facts[0]

    def _sum(self, name: str) -> int:
        """Of all GPUs."""
        return sum(int(facts[name]) for facts in self._facts)


def _ids(result: Mapping[str, Any]) -> list[int]:
    """The new ids of a row.

    Raises:
        RuntimeError: the engine gave the row up.
    """
    reason = result["meta_info"]["finish_reason"]
    if reason["type"] == "abort":
        raise RuntimeError(f"the engine gave a row up: {reason.get('message')}")
    return list(result["output_ids"])
