"""A scripted engine without a model: times, memory and failures are set by options. The test bench for everything."""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.records.outcome import Outcome

# A sleeping process wakes late by some tens of microseconds; the last stretch before a deadline is spent awake.
_AWAKE_S = 0.0005


class ScriptedFailure(RuntimeError):
    """The failure that the script asks for."""


class ScriptedOutOfMemory(ScriptedFailure):
    """The script says that memory has run out."""


class ScriptedUnsupported(ScriptedFailure):
    """The script says that the engine cannot do this."""


class NullAdapter:
    """Emits ids that depend on the prompt alone, on a script's timetable."""

    def __init__(self) -> None:
        self._options: Mapping[str, Any] = {}
        self._weights = bytearray()
        self._cache = bytearray()
        self._needed = 0.0
        self._batches = 0

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:  # noqa: ARG002  # no model, no device
        """Takes the script from the variant's options; needs no artifact."""
        self._options = dict(variant.options)
        self._fail("load")
        self._weights = _held(self._options["load_bytes"])
        time.sleep(self._options["load_s"])

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """Holds the cache's memory."""
        self._fail("prepare", batch_size)
        budget, needed = self._options["budget_bytes"], batch_size * self._options["needs_bytes_per_row"]
        self._needed = needed
        if 0 < budget < needed:
            raise ScriptedOutOfMemory(f"scripted: {needed:.0f} bytes are needed, the budget is {budget:.0f}")
        tokens = batch_size * (max_prompt_tokens + max_new_tokens)
        self._cache = _held(tokens * self._options["kv_bytes_per_token"])
        time.sleep(self._options["prepare_s"])

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """Emits one token per row and step, each step at its scripted moment; in waves where the script says so."""
        began = time.monotonic()
        if self._batches >= self._options["fail_after_batches"]:
            self._fail("generate", len(prompts))
        for line in range(self._options["chatter_lines"]):
            os.write(2, b"null chatters, line %d\n" % line)
        rows = [self._row(prompt, decoding) for prompt in prompts]
        together = self._options["rows_at_once"] or len(rows)
        for first in range(0, len(rows), together):
            self._wave(began, range(first, min(first + together, len(rows))), prompts, rows, on_tokens)
            began = time.monotonic()
        self._batches += 1
        return [Completion(row) for row in rows]

    def _wave(
        self,
        began: float,
        together: range,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[Sequence[int]],
        on_tokens: TokenSink,
    ) -> None:
        """Rows that run together."""
        read = sum(len(prompts[row]) for row in together)
        first_s = self._options["ttft_s"] + self._options["ttft_per_prompt_token_s"] * read
        step_s = self._options["tpot_s"] + len(together) * self._options["tpot_per_row_s"]
        for step in range(max(len(rows[row]) for row in together)):
            _sleep_until(began + first_s + step * step_s)
            on_tokens.step([row for row in together if step < len(rows[row])])

    def close(self) -> None:
        """Lets go of all memory."""
        self._fail("close")
        self._weights = bytearray()
        self._cache = bytearray()

    def describe(self) -> Mapping[str, str]:
        """The timetable."""
        return {"ttft_s": str(self._options["ttft_s"]), "tpot_s": str(self._options["tpot_s"])}

    def memory(self) -> Mapping[str, int]:
        """All of its budget, and what the batch size needs of it; nothing without a budget."""
        budget = self._options["budget_bytes"]
        return {"reserved_bytes": int(budget), "used_bytes": int(self._needed)} if budget else {}

    def classify(self, error: BaseException) -> Outcome | None:
        """The scripted failures mean what they say."""
        if isinstance(error, ScriptedOutOfMemory):
            return Outcome.OOM_KV
        return Outcome.UNSUPPORTED if isinstance(error, ScriptedUnsupported) else None

    def _row(self, prompt: Sequence[int], decoding: Decoding) -> list[int]:
        seed = zlib.crc32(b"".join(int(token).to_bytes(4, "little") for token in prompt))
        vocabulary, eos_after = self._options["vocabulary"], self._options["eos_after_tokens"]
        row: list[int] = []
        for index in range(decoding.max_new_tokens):
            token = 3 + zlib.crc32(index.to_bytes(4, "little"), seed) % (vocabulary - 3)
            row.append(self._options["eos_token_id"] if index + 1 == eos_after else token)
            if row[-1] in decoding.eos_token_ids:
                break
        return row

    def _fail(self, phase: str, batch_size: int | None = None) -> None:
        if self._options["fail_in"] != phase:
            return
        if batch_size is not None and batch_size < self._options["fail_from_batch_size"]:
            return
        how = self._options["fail_how"]
        if how == "oom_abort":
            os.write(2, b"scripted: out of memory\n")
        if how in ("abort", "oom_abort"):
            os.abort()
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "exit":
            os._exit(0)
        while how == "hang":
            time.sleep(1.0)
        kinds = {"error": ScriptedFailure, "oom": ScriptedOutOfMemory, "unsupported": ScriptedUnsupported}
        raise kinds[how](f"scripted: {how} in {phase}")


def _held(size_bytes: float) -> bytearray:
    """Memory that is really resident: every page is written to."""
    block = bytearray(int(size_bytes))
    block[::4096] = b"\1" * len(block[::4096])
    return block


def _sleep_until(deadline_s: float) -> None:
    left = deadline_s - time.monotonic() - _AWAKE_S
    if left > 0:
        time.sleep(left)
    while time.monotonic() < deadline_s:
        pass
