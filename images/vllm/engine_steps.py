"""Token times of vLLM at the engine's own speed: each step's tokens as they leave its core."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bench_core.contract.adapter import TokenSink, tell_step


@contextmanager
def tokens_told(core: Any, rows: Mapping[str, int], on_tokens: TokenSink) -> Iterator[None]:
    """Tells of tokens while the block steps the engine.

    The engine hands out the tokens of a step itself when asked for them (``RequestOutputKind.DELTA``), but then makes
    objects for every row and step, which its own ``generate`` does without: 0.5 ms of a step of 64 rows on an H200's
    host.

    Args:
        core: the engine's, in this process (``v1.engine.core_client.InprocClient``): its ``get_output()`` makes a step
            and returns ``outputs``, each with ``request_id`` and ``new_token_ids``.
        rows: the core's name of a request to its row.
        on_tokens: told of each step as ``tell_step`` does.
    """
    get_output = core.get_output

    def get_and_tell() -> Any:
        step = get_output()
        outputs = step.outputs
        told = [rows[output.request_id] for output in outputs]
        tell_step(on_tokens, told, [len(output.new_token_ids) for output in outputs])
        return step

    core.get_output = get_and_tell
    try:
        yield
    finally:
        del core.get_output
