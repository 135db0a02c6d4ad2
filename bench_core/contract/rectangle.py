"""For adapters of engines that take a rectangle of prompts: padding on the left, rows that end early, arrivals by step.

Several images stand on the same kind of engine; what they share must not differ between their rows. Imports no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench_core.contract.adapter import TokenSink


@dataclass(frozen=True)
class Rectangle:
    """Prompts of unequal length in rows of one width, padded on the left.

    Attributes:
        ids: shape (rows, width).
        gaps: per row, how many of its first places are padding.
        width: of the longest prompt.
    """

    ids: list[list[int]]
    gaps: list[int]
    width: int

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], pad_token_id: int) -> Rectangle:
        """Pads every prompt to the longest."""
        width = max(len(prompt) for prompt in prompts)
        gaps = [width - len(prompt) for prompt in prompts]
        ids = [[pad_token_id] * gap + list(prompt) for gap, prompt in zip(gaps, prompts, strict=True)]
        return cls(ids, gaps, width)

    @property
    def mask(self) -> list[list[int]]:
        """Shape (rows, width): 1 for a token of the prompt, 0 for padding."""
        return [[0] * gap + [1] * (self.width - gap) for gap in self.gaps]


def until_end(tokens: list[int], eos_token_ids: Sequence[int]) -> list[int]:
    """The tokens up to and with the first end-of-sequence id: padding behind an early end is never counted."""
    ends = [tokens.index(eos) for eos in eos_token_ids if eos in tokens]
    return tokens[: min(ends) + 1] if ends else tokens


class ArrivalStreamer:
    """Tells the sink of each step's tokens, where an engine's generating loop takes a streamer.

    The loop calls ``put`` once with the prompts and then once a step with the tokens of all rows, copied to the host.
    It waits for the device at that place anyway, in order to see whether all rows have ended.
    """

    def __init__(self, sink: TokenSink, rows: int, eos_token_ids: Sequence[int]) -> None:
        self._sink = sink
        self._rows = list(range(rows))
        self._eos = frozenset(eos_token_ids)
        self._prompts_seen = False

    def put(self, value: Any) -> None:
        """``value``: anything with ``tolist``; of a step, one id for each row."""
        if not self._prompts_seen:
            self._prompts_seen = True
            return
        self._sink.step(self._rows)
        if self._eos:
            tokens = value.tolist()
            self._rows = [row for row in self._rows if tokens[row] not in self._eos]

    def end(self) -> None:
        """The loop has ended; nothing is left to tell."""
