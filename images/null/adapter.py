"""A scripted engine without a model: times, memory and failures are set by options. The test bench for everything."""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.outcome import Outcome
from bench_core.contract.record import Scalar

# A sleeping process wakes late by some tens of microseconds; the last stretch before a deadline is spent awake.
_AWAKE_S = 0.0005

_DEFAULTS: Mapping[str, Scalar] = {
    "load_s": 0.0,  # seconds that load takes
    "prepare_s": 0.0,  # seconds that prepare takes
    "ttft_s": 0.02,  # time to first token of a batch
    "tpot_s": 0.005,  # time per output token after the first
    "tpot_per_row_s": 0.0,  # added to tpot_s for each row of the batch
    "load_bytes": 0,  # host memory held from load to close
    "kv_bytes_per_token": 0,  # host memory held from prepare on, per token of batch x (prompt + output)
    "budget_bytes": 0,  # memory that it may plan with; 0: no limit
    "needs_bytes_per_row": 0,  # prepare runs out of memory where the budget is below this for each row of the batch
    "vocabulary": 256,  # ids come from 3 up to this
    "eos_token_id": 2,
    "eos_after_tokens": 0,  # the row's n-th token is eos_token_id; 0: never
    "fail_in": "",  # load, prepare, generate or close
    "fail_how": "error",  # error, oom, oom_abort, unsupported, abort, kill, exit, hang
    "fail_from_batch_size": 1,  # only for batches of at least this size (prepare and generate)
    "fail_after_batches": 0,  # generate fails only after this many good batches
    "chatter_lines": 0,  # lines printed to standard error in every batch
}


class ScriptedFailure(RuntimeError):
    """The failure that the script asks for."""


class ScriptedOutOfMemory(ScriptedFailure):
    """The script says that memory has run out."""


class ScriptedUnsupported(ScriptedFailure):
    """The script says that the engine cannot do this."""


class NullAdapter:
    """Emits ids that depend on the prompt alone, on a script's timetable."""

    def __init__(self) -> None:
        self._script: dict[str, Scalar] = dict(_DEFAULTS)
        self._weights = bytearray()
        self._cache = bytearray()
        self._needed = 0.0
        self._batches = 0

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:  # noqa: ARG002  # no model, no device
        """Takes the script from the variant's options; needs no artifact."""
        unknown = sorted(set(variant.options) - set(_DEFAULTS))
        if unknown:
            raise ScriptedUnsupported(f"unknown option {unknown[0]!r}; known: {', '.join(_DEFAULTS)}")
        self._script = {**_DEFAULTS, **variant.options}
        self._fail("load")
        self._weights = _held(self._number("load_bytes"))
        time.sleep(self._number("load_s"))

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """Holds the cache's memory."""
        self._fail("prepare", batch_size)
        budget, needed = self._number("budget_bytes"), batch_size * self._number("needs_bytes_per_row")
        self._needed = needed
        if 0 < budget < needed:
            raise ScriptedOutOfMemory(f"scripted: {needed:.0f} bytes are needed, the budget is {budget:.0f}")
        tokens = batch_size * (max_prompt_tokens + max_new_tokens)
        self._cache = _held(tokens * self._number("kv_bytes_per_token"))
        time.sleep(self._number("prepare_s"))

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """Emits one token per row and step, each step at its scripted moment."""
        started = time.monotonic()
        if self._batches >= self._number("fail_after_batches"):
            self._fail("generate", len(prompts))
        for line in range(int(self._number("chatter_lines"))):
            os.write(2, b"null chatters, line %d\n" % line)
        step_s = self._number("tpot_s") + len(prompts) * self._number("tpot_per_row_s")
        rows = [self._row(prompt, decoding) for prompt in prompts]
        for step in range(max(len(row) for row in rows)):
            _sleep_until(started + self._number("ttft_s") + step * step_s)
            on_tokens.step([index for index, row in enumerate(rows) if step < len(row)])
        self._batches += 1
        return [Completion(row) for row in rows]

    def close(self) -> None:
        """Lets go of all memory."""
        self._fail("close")
        self._weights = bytearray()
        self._cache = bytearray()

    def describe(self) -> Mapping[str, str]:
        """The timetable."""
        return {"ttft_s": str(self._script["ttft_s"]), "tpot_s": str(self._script["tpot_s"])}

    def memory(self) -> Mapping[str, int]:
        """All of its budget, and what the batch size needs of it; nothing without a budget."""
        budget = self._number("budget_bytes")
        return {"reserved_bytes": int(budget), "used_bytes": int(self._needed)} if budget else {}

    def classify(self, error: BaseException) -> Outcome | None:
        """The scripted failures mean what they say."""
        if isinstance(error, ScriptedOutOfMemory):
            return Outcome.OOM_KV
        return Outcome.UNSUPPORTED if isinstance(error, ScriptedUnsupported) else None

    def _row(self, prompt: Sequence[int], decoding: Decoding) -> list[int]:
        seed = zlib.crc32(b"".join(int(token).to_bytes(4, "little") for token in prompt))
        vocabulary, eos_after = int(self._number("vocabulary")), int(self._number("eos_after_tokens"))
        row: list[int] = []
        for index in range(decoding.max_new_tokens):
            token = 3 + zlib.crc32(index.to_bytes(4, "little"), seed) % (vocabulary - 3)
            row.append(int(self._number("eos_token_id")) if index + 1 == eos_after else token)
            if row[-1] in decoding.eos_token_ids:
                break
        return row

    def _number(self, key: str) -> float:
        value = self._script[key]
        if not isinstance(value, int | float):
            raise ScriptedUnsupported(f"option {key} must be a number, not {value!r}")
        return value

    def _fail(self, phase: str, batch_size: int | None = None) -> None:
        if self._script["fail_in"] != phase:
            return
        if batch_size is not None and batch_size < self._number("fail_from_batch_size"):
            return
        how = str(self._script["fail_how"])
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
        if how not in kinds:
            raise ScriptedUnsupported(f"unknown fail_how {how!r}")
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
