"""ONNX Runtime GenAI: one generator for a batch, its rows padded on the right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime_genai

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.errors import BadInput
from bench_core.contract.records.outcome import Outcome

_CONFIG = "genai_config.json"
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "failed to allocate memory", "not enough memory")
# The engine's words where a kernel of the model does not exist for its sizes.
_UNSUPPORTED = ("head_size shall be a multiple", "not implemented", "could not find an implementation")


class OnnxRuntimeGenAiAdapter:
    """Greedy decoding in a rectangle, with keys and values in buffers as long as the shape's longest row.

    The engine ends a row at an id of a list that may not be empty, or forbids the list up to a length; and takes what
    stands for padding in a prompt for padding. So the artifact's lists hold ids that no prompt has (see convert.py),
    they are forbidden for the whole length, and where a row ends is seen here.
    """

    def __init__(self) -> None:
        self._model: Any = None
        self._generator: Any = None
        self._shape = (0, 0)
        self._pad_id = 0

    @property
    def engine(self) -> Any:
        """The loaded model, and the id that pads."""
        return self._model, self._pad_id

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:  # noqa: ARG002  # it has no options
        """Reads the model for as many threads as the device has.

        Raises:
            BadInput: the artifact is not of this image's converter.
        """
        self._pad_id = _padding_of(artifact / _CONFIG)
        config = onnxruntime_genai.Config(str(artifact))
        options = {"intra_op_num_threads": device.threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = onnxruntime_genai.Model(config)

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """Makes the buffers of the key-value cache; each batch begins them anew."""
        self._generator = None
        self._shape = (batch_size, max_prompt_tokens + max_new_tokens)
        self._generator = new_generator(self._model, *self._shape)

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """Every step is one of all rows; a row that has ended is computed on until all have."""
        self._generator.rewind_to(0)
        self._generator.append_tokens(rectangle(prompts, self._pad_id))
        rows: list[list[int]] = [[] for _ in prompts]
        alive = list(range(len(prompts)))
        for _ in range(decoding.max_new_tokens):
            self._generator.generate_next_token()
            tokens = self._generator.get_next_tokens().tolist()
            for row in alive:
                rows[row].append(tokens[row])
            on_tokens.step(alive)
            if decoding.eos_token_ids:
                alive = [row for row in alive if tokens[row] not in decoding.eos_token_ids]
            if not alive:
                break
        return [Completion(row) for row in rows]

    def score(self, token_ids: Sequence[int]) -> Sequence[float]:
        """Log-probability of each token but the first, among the ids that the model came with."""
        generator = new_generator(self._model, 1, len(token_ids) + 1)
        generator.append_tokens(rectangle([token_ids], self._pad_id))
        logits = generator.get_output("logits")[0, :-1, : self._pad_id].astype(np.float64)
        chosen = np.asarray(token_ids[1:])
        logits -= logits.max(axis=1, keepdims=True)
        values = logits[np.arange(len(chosen)), chosen] - np.log(np.exp(logits).sum(axis=1))
        return [float(value) for value in values]

    def describe(self) -> Mapping[str, str]:
        """The engine computes 4-bit weights with activations rounded to 8 bits, and all else in 32."""
        batch_size, tokens = self._shape
        return {
            "dtype": "float32",
            "kv_dtype": "float32",
            "kv_layout": "rectangle",
            "embeddings": "cpu",
            **({"kv_positions": str(batch_size * tokens)} if self._generator is not None else {}),
        }

    def classify(self, error: BaseException) -> Outcome | None:
        """By text, since the engine raises RuntimeError for all."""
        text = str(error).lower()
        if isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
            return Outcome.OOM_KV
        return Outcome.UNSUPPORTED if any(sign in text for sign in _UNSUPPORTED) else None

    def close(self) -> None:
        """Drops the generator with its buffers, and the model."""
        self._generator = None
        self._model = None


def new_generator(model: Any, rows: int, tokens: int) -> Any:
    """Greedy, with buffers for so many rows of so many tokens; no row ends before."""
    params = onnxruntime_genai.GeneratorParams(model)
    params.set_search_options(batch_size=rows, max_length=tokens, min_length=tokens, do_sample=False)
    return onnxruntime_genai.Generator(model, params)


def rectangle(prompts: Sequence[Sequence[int]], pad_id: int) -> npt.NDArray[np.int32]:
    """Prompts padded on the right, as this engine wants them: padding on the left it reads as prompt."""
    padded = np.full((len(prompts), max(map(len, prompts))), pad_id, np.int32)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = prompt
    return padded


def _padding_of(path: Path) -> int:
    hint = "make the artifact again; this image's converter adds ids for padding and for ends"
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        pad, ends, size = int(model["pad_token_id"]), list(model["eos_token_id"]), int(model["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: cannot be read: {error}", hint) from error
    if ends != list(range(pad, size)):
        raise BadInput(f"{path}: padding and ends are ids of the model's own", hint)
    return pad
