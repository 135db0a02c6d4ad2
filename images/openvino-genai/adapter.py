"""OpenVINO GenAI: its pipeline of continuous batching, a request for each prompt, told by the step."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.records.outcome import Outcome

MODEL_FILE = "openvino_model.xml"

_AUTO = "auto"
# The engine's names of types, and those of everybody else.
_TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "u8": "uint8", "i8": "int8"}
_CONSTANTS = re.compile(r'<data element_type="(\w+)"[^>]* size="(\d+)"')
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "cannot allocate memory", "not enough memory")


class TooManyRows(RuntimeError):
    """The batch would not be one piece of work for the engine."""


class OpenVinoGenAiAdapter:
    """Greedy decoding with paged attention and without a cache of prefixes.

    Options: ``inference_precision`` and ``kv_precision`` (auto: the engine's choice for this CPU),
    ``max_num_batched_tokens`` (of all rows in one step).
    """

    def __init__(self) -> None:
        self._pipeline: Any = None
        self._told: dict[str, str] = {}
        self._properties: dict[str, Any] = {}
        self._prepared_tokens = 0
        self._most_used_percent = 0.0

    @property
    def engine(self) -> Any:
        """The loaded pipeline."""
        return self._pipeline

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:
        """Reads and compiles ``openvino_model.xml``, for as many threads as the device has."""
        self._tokens_a_step = int(variant.options["max_num_batched_tokens"])
        self._artifact = artifact
        self._properties = properties = {"INFERENCE_NUM_THREADS": device.threads}
        self._told = {
            "dtype": _chosen(properties, "INFERENCE_PRECISION_HINT", str(variant.options["inference_precision"])),
            "kv_dtype": _chosen(properties, "KV_CACHE_PRECISION", str(variant.options["kv_precision"])),
            # Activations that meet quantised weights are rounded to 8 bits in groups of so many.
            "dynamic_quantization_group": str(openvino.Core().get_property("CPU", "DYNAMIC_QUANTIZATION_GROUP_SIZE")),
            "stored_bytes": stored_bytes(artifact / MODEL_FILE),
        }
        self._pipeline = self._new_pipeline()

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """The pool of the cache grows with the first batch of a shape and never shrinks: a smaller shape than the last
        gets a pipeline of its own.

        Raises:
            TooManyRows: the engine would make two pieces of one step.
        """
        if batch_size > self._tokens_a_step:
            raise TooManyRows(f"{batch_size} rows at a time; a step has room for {self._tokens_a_step} tokens")
        tokens = batch_size * (max_prompt_tokens + max_new_tokens)
        if tokens < self._prepared_tokens:
            self._pipeline = None
            self._pipeline = self._new_pipeline()
        self._prepared_tokens = tokens

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """All prompts are handed over before the first step; each step tells the rows that it has a token of."""
        config = generation_config(decoding)
        handles = [self._pipeline.add_request(row, as_tensor(ids), config) for row, ids in enumerate(prompts)]
        rows: list[list[int]] = [[] for _ in prompts]
        self._most_used_percent = 0.0
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            told = [row for row, handle in enumerate(handles) if handle.can_read()]
            on_tokens.step(told)
            for row in told:
                (output,) = handles[row].read().values()
                rows[row].extend(output.generated_ids)
            # Rows that were read first end first, so the last step does not tell.
            self._most_used_percent = max(self._most_used_percent, self._pipeline.get_metrics().cache_usage)
        return [Completion(row) for row in rows]

    def score(self, token_ids: Sequence[int]) -> Sequence[float]:
        """Log-probability of each token but the first: the prompt comes back with what the engine makes of it."""
        config = generation_config(Decoding(max_new_tokens=1))
        config.echo = True
        config.logprobs = 1
        handle = self._pipeline.add_request(0, as_tensor(token_ids), config)
        told: list[float] = []
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            while handle.can_read():
                (output,) = handle.read().values()
                told.extend(output.generated_log_probs)
        return told[1 : len(token_ids)]

    def describe(self) -> Mapping[str, str]:
        """In what it multiplies and keeps the cache, which depends on the CPU, and bytes of each type on the disk."""
        return {**self._told, "kv_layout": "paged", "embeddings": "cpu", "prefix_cache": "off"}

    def memory(self) -> Mapping[str, int]:
        """Of the pool of key-value blocks, and of those that the last batch used at most."""
        reserved = int(self._pipeline.get_metrics().kv_cache_size_in_bytes)
        return {"reserved_bytes": reserved, "used_bytes": int(reserved * self._most_used_percent / 100)}

    def classify(self, error: BaseException) -> Outcome | None:
        """By text, since the engine raises RuntimeError for all."""
        if isinstance(error, TooManyRows):
            return Outcome.UNSUPPORTED
        if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _OUT_OF_MEMORY):
            return Outcome.OOM_KV
        return None

    def close(self) -> None:
        """Drops the pipeline with the model and the pool."""
        self._pipeline = None
        self._prepared_tokens = 0

    def _new_pipeline(self) -> Any:
        scheduler = openvino_genai.SchedulerConfig()
        # A pipeline that is given no scheduler answers a prompt that it has seen from this cache.
        scheduler.enable_prefix_caching = False
        scheduler.max_num_batched_tokens = scheduler.max_num_seqs = self._tokens_a_step
        return openvino_genai.ContinuousBatchingPipeline(str(self._artifact), scheduler, "CPU", self._properties)


def generation_config(decoding: Decoding) -> Any:
    """Greedy; a forced length goes past the end of sequence, which the engine then neither forbids nor obeys."""
    config = openvino_genai.GenerationConfig()
    config.do_sample = False
    config.max_new_tokens = decoding.max_new_tokens
    config.ignore_eos = decoding.forced
    config.stop_token_ids = set(decoding.eos_token_ids)
    return config


def as_tensor(token_ids: Sequence[int]) -> Any:
    """One prompt, shape (1, tokens)."""
    return openvino.Tensor(np.array([token_ids], dtype=np.int64))


def _chosen(properties: dict[str, Any], name: str, wanted: str) -> str:
    """Sets a property that is asked for; says what holds, of the engine's own choice too."""
    if wanted != _AUTO:
        properties[name] = wanted
        return _TYPES[wanted]
    own = str(openvino.Core().get_property("CPU", name).get_type_name())
    if name == "KV_CACHE_PRECISION":
        properties[name] = own  # an exported file may name another, which would hold instead (optimum-intel 2.2.0)
    return _TYPES.get(own, own)


def stored_bytes(path: Path) -> str:
    """Bytes of a model's constants by their type, the most first."""
    sizes: Counter[str] = Counter()
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            for kind, size in _CONSTANTS.findall(line):
                sizes[kind] += int(size)
    return ", ".join(f"{kind} {size}" for kind, size in sizes.most_common())
