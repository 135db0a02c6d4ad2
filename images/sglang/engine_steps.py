"""Token times of SGLang at the engine's own speed: each step's tokens as they reach the process that asked for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bench_core.contract.adapter import TokenSink, tell_step


@contextmanager
def tokens_told(manager: Any, rows: Mapping[str, int], on_tokens: TokenSink) -> Iterator[None]:
    """Tells of tokens while the block has the engine generate.

    The engine's core sends the tokens of a row every 50 steps, or at each step where the request is streamed. A
    streamed request also wakes a task for each row and step in this process. Here the core is asked to stream, and the
    process to wait for whole rows: the message of a step is looked at as it comes in.

    Args:
        manager: the engine's ``TokenizerManager``: its ``_send_batch_request(requests)`` sends the batch, and its
            ``_handle_batch_output(step)`` takes in what came: ``rids`` and ``output_ids``, the new ids of each row.
        rows: the engine's name of a request to its row.
        on_tokens: told of each step as ``tell_step`` does.
    """
    send, handle = manager._send_batch_request, manager._handle_batch_output  # noqa: SLF001  # no other place sees steps

    def send_streamed(requests: Any) -> None:
        for request in requests:
            request.stream = True
        send(requests)

    async def tell_and_handle(step: Any) -> None:
        told, counts = list(map(rows.get, step.rids)), list(map(len, step.output_ids))
        known = [row for row in told if row is not None]
        if len(known) < len(told):  # others are of no row of this batch
            counts = [count for row, count in zip(told, counts, strict=True) if row is not None]
        tell_step(on_tokens, known, counts)
        await handle(step)

    manager._send_batch_request, manager._handle_batch_output = send_streamed, tell_and_handle  # noqa: SLF001
    try:
        yield
    finally:
        del manager._send_batch_request, manager._handle_batch_output  # noqa: SLF001
