"""NAME: replace the toy engine below by the real one. The contract suite passes from the start: keep it so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant


class EngineAdapter:
    """A toy: the next id follows from the last two through a fixed table."""

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:  # noqa: ARG002  # a toy has no device
        """Reads the model. Here: its vocabulary's size, which decides the table."""
        vocab_size = int(json.loads((artifact / "config.json").read_text(encoding="utf-8"))["vocab_size"])
        self._table = np.random.default_rng(int(variant.options["seed"])).permutation(vocab_size)

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """Makes caches and graphs for this shape. The toy has none."""

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """One batch, all rows in step; a row that has met its end of sequence drops out."""
        rows: list[list[int]] = [[] for _ in prompts]
        open_rows = list(range(len(prompts)))
        for _ in range(decoding.max_new_tokens):
            for row in open_rows:
                context = [*prompts[row][-2:], *rows[row][-2:]][-2:]
                rows[row].append(int(self._table[sum(context) % len(self._table)]))
            on_tokens.step(open_rows)
            open_rows = [row for row in open_rows if rows[row][-1] not in decoding.eos_token_ids]
            if not open_rows:
                break
        return [Completion(row) for row in rows]

    def close(self) -> None:
        """Frees the model and all memory of it."""
        self._table = np.empty(0, dtype=np.int64)
