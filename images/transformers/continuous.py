"""The engine's continuous batching: ``generate_batch`` on a key-value cache in blocks, sized for the cell."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cache import group_layers_by_attn_type

from bench_core.contract.adapter import Completion, Decoding, TokenSink

# Of one step: on a GPU what the engine takes where its memory allows it. Where attention needs a mask, that has a place
# for every pair of a step's token and a position of the cache, so that a CPU's is smaller.
_STEP_TOKENS = {"cuda": 8192, "cpu": 1024}
_FEWEST_STEP_TOKENS = 256  # the engine's own lower bound
# None means the model's own end of sequence here, unlike in ``generate``; no id is -1.
_NO_END = -1


class NotGenerated(RuntimeError):
    """The engine's thread failed: ``generate_batch`` logs that and returns what it has."""


class ContinuousBatching:
    """Keeps the engine's manager, with its cache, from ``prepare`` to ``close``: ``generate_batch`` finds it there.

    Left to itself the engine makes a cache at each call, of nine tenths of the memory that is free, on a CPU as well.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._settings: Any = None
        self._manager: Any = None
        self._attention = ""
        # A warning at each call that keeps a manager, another where a cache's size is given on a CPU.
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)

    @property
    def settings(self) -> Any:
        """The manager's ``GenerationConfig``, which it reads at each call; the ids that end a row stand in it."""
        return self._settings

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """Makes a cache that holds every row to its end, in the engine's blocks, and warms up.

        Raises:
            MemoryError: the engine finds that too large.
        """
        self.close()
        config = ContinuousBatchingConfig(
            # Prompts that come again would be found in it.
            allow_block_sharing=False,
            # Of free blocks, below which the engine lets a prompt wait: no row needs more than it has here.
            safety_margin=0.0,
            max_requests_per_batch=batch_size,
        )
        row_tokens = max_prompt_tokens + max_new_tokens
        groups = len(group_layers_by_attn_type(self._model.config.get_text_config())[0])
        # It may take a block before a row has come to its end: a prompt of 255 tokens has two of 256.
        config.num_blocks = batch_size * groups * (row_tokens // config.block_size + 1)
        most = _STEP_TOKENS[self._model.device.type]
        config.max_batch_tokens = min(most, max(_FEWEST_STEP_TOKENS, batch_size * max_prompt_tokens))
        self._settings = GenerationConfig(do_sample=False, eos_token_id=_NO_END)
        with self._model.continuous_batching_context_manager(
            generation_config=self._settings, continuous_batching_config=config, persistent_manager=True
        ) as manager:
            # The attention is another as long as the manager runs.
            self._attention = str(self._model.config._attn_implementation)  # noqa: SLF001 - the only place that says it
        self._manager = manager

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """One call of ``generate_batch``, with the engine's own stamps of tokens.

        Raises:
            NotGenerated: with the engine's reason.
        """
        self._settings.eos_token_id = list(decoding.eos_token_ids) or _NO_END
        outputs = self._model.generate_batch(
            inputs=[list(prompt) for prompt in prompts],
            generation_config=self._settings,
            max_new_tokens=decoding.max_new_tokens,
            record_timestamps=on_tokens.wanted,
            persistent_manager=True,
        )
        rows = list(outputs.values())  # in the order of the prompts, without those that were lost
        if len(rows) != len(prompts) or any(row.error for row in rows):
            reasons = [row.error for row in rows if row.error]
            fatal = self._manager.background_thread_status.fatal_error
            raise NotGenerated(str(reasons[0] if reasons else fatal))
        if on_tokens.wanted:
            for place, row in enumerate(rows):
                on_tokens.engine(place, row.timestamps)
        return [Completion(row.generated_tokens) for row in rows]

    def describe(self) -> Mapping[str, str]:
        """Attention, the cache in blocks, the limits of a step, and what the engine chose by attention and device."""
        if self._manager is None:
            return {}
        cache, chosen = self._cache, self._manager.continuous_batching_config
        graphs = any(chosen.cuda_graph_booleans)
        return {
            "attention": self._attention,
            "cache": "paged",
            "kv_layout": "paged",
            "kv_positions": str(cache.num_pages),
            "kv_cache_blocks": f"{cache.num_blocks} of {cache.block_size} tokens",
            "max_batch_tokens": str(cache.max_batch_tokens),
            "max_requests_per_batch": str(chosen.max_requests_per_batch),
            "async_batching": "yes" if chosen.use_async_batching else "no",
            **({"cuda_graphs": "yes"} if graphs else {}),
        }

    def memory(self) -> Mapping[str, int]:
        """Bytes of the key-value cache; a row keeps its blocks until it ends, so all of it is for the largest batch."""
        if self._manager is None:
            return {}
        cache = self._cache
        reserved = sum(int(tensor.nbytes) for tensor in [*cache.key_cache, *cache.value_cache])
        return {"reserved_bytes": reserved, "used_bytes": reserved}

    def close(self) -> None:
        """Ends the manager and drops its cache."""
        self._model.destroy_cached_continuous_batching_manager()
        self._manager = self._settings = None
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def _cache(self) -> Any:
        return self._manager.batch_processor.cache
