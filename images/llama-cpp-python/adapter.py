"""llama.cpp: every prompt a sequence of its own, all sequences of a step in one ``llama_decode``."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import llama_cpp as lib
import numpy as np
import numpy.typing as npt
from cpu_library import instruction_sets, load_backends
from engine_log import LOG, EngineError, failure
from token_batch import TokenBatch

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.records.outcome import Outcome

Ids = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]

_FLASH_ATTENTION = {
    "auto": lib.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "enabled": lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "disabled": lib.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_SPLIT_MODES = {"layer": lib.LLAMA_SPLIT_MODE_LAYER, "row": lib.LLAMA_SPLIT_MODE_ROW}
_KV_TYPES = {"f16": lib.GGML_TYPE_F16, "f32": lib.GGML_TYPE_F32, "q8_0": lib.GGML_TYPE_Q8_0}

_FLASH_ATTENTION_CHOSEN = r"Flash Attention.* (enabled|disabled)"  # said where the option is auto
_DECODE_ERRORS = {1: "no room in the KV cache", 2: "aborted", -1: "invalid batch", -2: "allocation or compute failed"}


class LlamaCppAdapter:
    """Greedy decoding of a batch of sequences with llama.cpp's C interface.

    Each sequence has a KV stream of its own (``kv_unified`` off, as in llama-batched-bench). llama.cpp makes one piece
    of work of sequences with consecutive ids and equally many tokens; hence prompts take their sequence ids in the
    order of falling length, and a row that ends hands its id to the last one.
    """

    def __init__(self) -> None:
        self._model: Any = None
        self._context: Any = None

    @property
    def engine(self) -> Any:
        """The prepared context."""
        return self._context

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:
        """Reads the GGUF of the artifact's folder, all layers onto the GPU if there is one."""
        self._options, self._device = variant.options, device
        self._ubatch = int(self._options["n_ubatch"])
        self._prepared = ""
        LOG.clear()
        self._cpu_library = load_backends()
        lib.llama_backend_init()
        if device.kind == "cuda" and not lib.llama_supports_gpu_offload():
            raise EngineError("this build of llama.cpp finds no GPU", Outcome.UNSUPPORTED, LOG.errors())
        params = lib.llama_model_default_params()
        params.n_gpu_layers = -1 if device.kind == "cuda" else 0
        if device.kind == "cuda":
            params.split_mode = _SPLIT_MODES[str(self._options["split_mode"])]
        shares = _even_shares(device.gpus)
        if device.gpus > 1:
            params.tensor_split = shares
        self._model = lib.llama_model_load_from_file(str(_gguf(artifact)).encode(), params)
        if not self._model:
            raise failure("the model was not loaded", Outcome.OOM_LOAD, Outcome.LOAD_FAILED)
        self._check_file_type(variant)
        self._loaded = LOG.text()
        self._vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """Makes a context with a KV stream of the cell's longest row for each sequence."""
        limit = lib.llama_max_parallel_sequences()
        if batch_size > limit:
            raise EngineError(f"{batch_size} sequences at a time; llama.cpp takes {limit}", Outcome.UNSUPPORTED)
        self._free_context()
        LOG.clear()
        self._context = self._new_context(batch_size, max_prompt_tokens + max_new_tokens, batch_size)
        self._prepared = LOG.text()
        self._memory = lib.llama_get_memory(self._context)
        self._batch = TokenBatch(lib.llama_n_batch(self._context))

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """Prefills prompt by prompt in groups, then one ``llama_decode`` per step over the rows still alive."""
        lib.llama_memory_clear(self._memory, False)
        rows = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))  # the row of each sequence
        positions = np.array([len(prompts[row]) for row in rows], np.int32)
        produced: list[list[int]] = [[] for _ in prompts]
        tokens = self._prefill(prompts, rows, on_tokens)
        for remaining in range(decoding.max_new_tokens - 1, -1, -1):
            for row, token in zip(rows, tokens.tolist(), strict=True):
                produced[row].append(token)
            if decoding.eos_token_ids:
                tokens, positions, rows = self._retire(tokens, positions, rows, decoding.eos_token_ids)
            if not rows or not remaining:
                break
            tokens = _greedy(self._decode(self._context, self._batch.of(tokens, positions, np.arange(len(rows)), 1)))
            positions += 1
            on_tokens.step(rows)
        return [Completion(ids) for ids in produced]

    def score(self, token_ids: Sequence[int]) -> Sequence[float]:
        """Log-probabilities (nats) of all tokens but the first, in a context of their own."""
        context = self._new_context(1, len(token_ids), self._ubatch)
        try:
            batch = TokenBatch(lib.llama_n_batch(context))
            ids = np.asarray(token_ids, np.int32)
            step = lib.llama_n_ubatch(context)
            scores: list[float] = []
            for start in range(0, len(ids) - 1, step):
                piece = ids[start : start + step]
                logits = self._decode(context, batch.of(piece, np.arange(start, start + len(piece)), 0, 1))
                targets = ids[start + 1 : start + 1 + len(piece)]
                scores.extend(_log_probabilities(logits[: len(targets)], targets))
            return scores
        finally:
            lib.llama_free(context)

    def describe(self) -> Mapping[str, str]:
        """How it runs, in the engine's own words."""
        types = re.findall(r"- type +(\w+): +(\d+) tensors", self._loaded)
        system_info = " ".join(lib.llama_print_system_info().decode().split())
        return {
            "cpu_library": self._cpu_library,
            "cpu_instructions": instruction_sets(system_info),
            "system_info": system_info,
            "tensor_types": ", ".join(f"{name} {count}" for name, count in types),
            "gpu_layers": _said(r"offloaded (\d+/\d+) layers", self._loaded, "0"),
            "flash_attention": _said(_FLASH_ATTENTION_CHOSEN, self._prepared, str(self._options["flash_attention"])),
            "kv_type": str(self._options["kv_type"]),
            **({"split_mode": str(self._options["split_mode"])} if self._device.gpus > 1 else {}),
            "embeddings": "cpu",  # whatever is offloaded, the table of input embeddings stays in host memory
            **({"kv_positions": str(lib.llama_n_ctx(self._context))} if self._context else {}),
            "context_tokens_per_sequence": _said(r"n_ctx_seq += (\d+)", self._prepared, "none yet"),
            "ubatch_tokens": _said(r"n_ubatch += (\d+)", self._prepared, "none yet"),
        }

    def memory(self) -> Mapping[str, int]:
        """Bytes of the KV streams, and of what the last batch left in them; nothing before ``prepare``."""
        if not self._context:
            return {}
        sizes = re.findall(r"KV buffer size = +([\d.]+) MiB", self._prepared)
        reserved = int(sum(float(size) for size in sizes) * 2**20)
        last = (lib.llama_memory_seq_pos_max(self._memory, s) for s in range(lib.llama_n_seq_max(self._context)))
        return {
            "reserved_bytes": reserved,
            "used_bytes": reserved * sum(position + 1 for position in last) // lib.llama_n_ctx(self._context),
        }

    def classify(self, error: BaseException) -> Outcome | None:
        """The outcome that an error of this adapter carries."""
        return error.outcome if isinstance(error, EngineError) else None

    def close(self) -> None:
        """Frees context and model."""
        self._free_context()
        if self._model:
            lib.llama_model_free(self._model)
        self._model = None
        lib.llama_backend_free()

    def _check_file_type(self, variant: Variant) -> None:
        wanted = self._options["file_type"]
        found = lib.llama_model_ftype(self._model)
        if wanted and found != getattr(lib, f"LLAMA_FTYPE_{wanted}"):
            name = (lib.llama_ftype_name(found) or b"?").decode()
            raise EngineError(f"variant {variant.name} wants {wanted}, the file is {name}", Outcome.LOAD_FAILED)

    def _new_context(self, sequences: int, tokens_each: int, outputs: int) -> Any:
        params = lib.llama_context_default_params()
        params.n_seq_max = sequences
        params.n_ctx = sequences * (tokens_each + -tokens_each % 256)
        params.n_ubatch = self._ubatch
        params.n_batch = max(params.n_ubatch, tokens_each, sequences)
        params.n_outputs_max = outputs  # otherwise the device keeps logits for a whole piece of work
        params.n_threads = params.n_threads_batch = self._device.threads
        params.flash_attn_type = _FLASH_ATTENTION[str(self._options["flash_attention"])]
        params.type_k = params.type_v = _KV_TYPES[str(self._options["kv_type"])]
        params.offload_kqv = self._device.kind == "cuda"
        params.kv_unified = False
        params.no_perf = True
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise failure("no context was made", Outcome.OOM_KV, None)
        return context

    def _free_context(self) -> None:
        if self._context:
            lib.llama_free(self._context)
        self._context = None

    def _prefill(self, prompts: Sequence[Sequence[int]], rows: Sequence[int], on_tokens: TokenSink) -> Ids:
        """The first token of each sequence. Whole prompts share a call as long as they fit into one piece of work."""
        tokens = np.empty(len(rows), np.int32)
        for first, end in _groups([len(prompts[row]) for row in rows], lib.llama_n_ubatch(self._context)):
            group = [np.asarray(prompts[row], np.int32) for row in rows[first:end]]
            lengths = [len(prompt) for prompt in group]
            output = np.zeros(sum(lengths), np.int8)
            output[np.cumsum(lengths) - 1] = 1
            positions = np.concatenate([np.arange(length) for length in lengths])
            batch = self._batch.of(np.concatenate(group), positions, np.repeat(np.arange(first, end), lengths), output)
            tokens[first:end] = _greedy(self._decode(self._context, batch, end - first))
            on_tokens.step(rows[first:end])
        return tokens

    def _decode(self, context: Any, batch: Any, outputs: int | None = None) -> Logits:
        """Runs one batch and waits for it: logits of its outputs in the order of the batch, valid until the next."""
        code = lib.llama_decode(context, batch)
        if code:
            outcome = Outcome.OOM_KV if code in (1, -2) else Outcome.GENERATE_FAILED
            raise EngineError(f"llama_decode: {_DECODE_ERRORS.get(code, code)}", outcome, LOG.errors())
        shape = (batch.n_tokens if outputs is None else outputs, self._vocabulary)
        return np.ctypeslib.as_array(lib.llama_get_logits(context), shape=shape)

    def _retire(self, tokens: Ids, positions: Ids, rows: list[int], ends: Sequence[int]) -> tuple[Ids, Ids, list[int]]:
        """Takes ended rows out of the batch; the last sequences move into the gaps, so that ids stay consecutive."""
        ended = np.isin(tokens, ends)
        alive, place = len(rows), list(range(len(rows)))
        for gap in np.flatnonzero(ended).tolist():
            while alive > gap and ended[alive - 1]:
                alive -= 1
                lib.llama_memory_seq_rm(self._memory, alive, -1, -1)
            if alive <= gap:
                break
            alive -= 1
            lib.llama_memory_seq_rm(self._memory, gap, -1, -1)
            lib.llama_memory_seq_cp(self._memory, alive, gap, -1, -1)
            lib.llama_memory_seq_rm(self._memory, alive, -1, -1)
            place[gap] = alive
        kept = place[:alive]
        return tokens[kept], positions[kept], [rows[place] for place in kept]


def _even_shares(gpus: int) -> Any:
    """As ``tensor_split``: the same share for each GPU, nothing for the other places of the engine's array."""
    places = max(int(lib.llama_max_devices()), gpus)
    return (ctypes.c_float * places)(*[1.0 if place < gpus else 0.0 for place in range(places)])


def _groups(lengths: Sequence[int], limit: int) -> Iterator[tuple[int, int]]:
    """Cuts sequences into runs (first, end) of at most ``limit`` tokens, or of a single longer prompt."""
    first, total = 0, 0
    for index, length in enumerate(lengths):
        if index > first and total + length > limit:
            yield first, index
            first, total = index, 0
        total += length
    yield first, len(lengths)


def _greedy(logits: Logits) -> Ids:
    chosen: Ids = np.argmax(logits, axis=1).astype(np.int32)
    return chosen


def _log_probabilities(logits: Logits, targets: Ids) -> list[float]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(targets)), targets]
    return [float(value) for value in chosen - np.log(np.exp(shifted).sum(axis=1))]


def _said(pattern: str, log: str, otherwise: str) -> str:
    found = re.search(pattern, log)
    return found[1] if found else otherwise


def _gguf(artifact: Path) -> Path:
    """The GGUF of an artifact's folder; of a split one the first part, which names the others."""
    files = sorted(artifact.glob("*.gguf"))
    if not files or (len(files) > 1 and "-00001-of-" not in files[0].name):
        raise EngineError(f"expected one GGUF in {artifact.name}, found {len(files)}", Outcome.LOAD_FAILED)
    return files[0]
