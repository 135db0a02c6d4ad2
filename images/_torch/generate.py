"""Transformers' ``generate`` on a left-padded rectangle, for engines that are a model of Transformers with own layers.

Needs torch and Transformers, from 4.41 on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from bench_core.contract.adapter import Completion, Decoding, TokenSink
from bench_core.contract.rectangle import ArrivalStreamer, Rectangle, until_end
from images._torch.adapter import TorchAdapter, log_probabilities


class GenerateAdapter(TorchAdapter):
    """An engine whose loaded model has ``generate``; ``load`` sets ``_model`` and ``_device``."""

    def __init__(self) -> None:
        self._model: Any = None
        self._device: Any = None

    @property
    def engine(self) -> Any:
        """The loaded model."""
        return self._model

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:  # noqa: ARG002
        """Frees what the last shape held: caches grow with each batch."""
        self._free()

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """One call of ``generate``; rows are cut after their first end-of-sequence id, so padding is never counted."""
        streamer = ArrivalStreamer(on_tokens, len(prompts), decoding.eos_token_ids) if on_tokens.wanted else None
        rows = self._generate(prompts, decoding, streamer)
        return [Completion(until_end(row, decoding.eos_token_ids)) for row in rows]

    def score(self, token_ids: Sequence[int]) -> Sequence[float]:
        """Log-probability of each token but the first, softmax in float32."""
        with torch.inference_mode():
            ids = torch.tensor([list(token_ids)], device=self._device)
            return log_probabilities(self._model(input_ids=ids, use_cache=False).logits[0], token_ids)

    def close(self) -> None:
        """Drops the model and gives its memory back to the device."""
        self._model = None
        self._free()

    def _settings(self) -> Mapping[str, Any]:
        """What this engine's generation is told beyond what all are told."""
        return {}

    def _arguments(self, rows: int, tokens: int) -> Mapping[str, Any]:  # noqa: ARG002  # some engines need them
        """What a call of ``generate`` gets beyond what all get, for ``rows`` of at most ``tokens``."""
        return {}

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
            **self._settings(),
        )
        output = self._model.generate(
            input_ids=torch.tensor(rectangle.ids, device=self._device),
            attention_mask=torch.tensor(rectangle.mask, device=self._device),
            generation_config=config,
            streamer=streamer,
            **self._arguments(len(prompts), rectangle.width + decoding.max_new_tokens),
        )
        new_tokens: list[list[int]] = output[:, rectangle.width :].tolist()  # waits for the device
        return new_tokens


def greedy(model: Any) -> None:
    """A checkpoint's own settings (sampling, penalties, end-of-sequence ids) must not reach a greedy measurement."""
    model.generation_config = GenerationConfig()
