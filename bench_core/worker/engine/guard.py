"""Equal work, checked on every batch: what goes into an engine and what comes out of it."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence

from bench_core.contract.adapter import Completion, Decoding
from bench_core.contract.measures.equal_work import output_breach
from bench_core.contract.records.events import Arrivals


class PromptRefused(ValueError):
    """A prompt that no engine is asked to take: empty, too long for the shape prepared, or not token ids."""


class ContractBroken(RuntimeError):
    """An engine or its adapter returned something else than it was asked for."""


def check_prompts(prompts: Sequence[Sequence[int]], batch_size: int, max_prompt_tokens: int, vocab_size: int) -> None:
    """Refuses a batch before an engine sees it.

    Raises:
        PromptRefused: naming the row and what is wrong with it.
    """
    if len(prompts) != batch_size:
        raise PromptRefused(f"{len(prompts)} prompts for a batch size of {batch_size}")
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise PromptRefused(f"row {row}: the prompt is empty")
        if len(prompt) > max_prompt_tokens:
            raise PromptRefused(f"row {row}: {len(prompt)} prompt tokens, prepared for at most {max_prompt_tokens}")
        if not 0 <= min(prompt) <= max(prompt) < vocab_size:
            raise PromptRefused(f"row {row}: a token id is outside 0..{vocab_size - 1}")


def checked_outputs(
    completions: Sequence[Completion], rows: int, decoding: Decoding, vocab_size: int
) -> tuple[tuple[int, ...], ...]:
    """The output ids as plain integers, after the promise about their length and range has been checked.

    Raises:
        ContractBroken: naming the row and what is wrong with it.
    """
    if len(completions) != rows:
        raise ContractBroken(f"{len(completions)} completions for {rows} prompts")
    outputs = tuple(tuple(operator.index(token) for token in completion.token_ids) for completion in completions)
    stops = frozenset(decoding.eos_token_ids)
    for row, output in enumerate(outputs):
        what = output_breach(output, decoding.max_new_tokens, stops, vocab_size)
        if what is not None:
            raise ContractBroken(f"row {row}: {what}")
    return outputs


def check_arrivals(arrivals: Arrivals | None, outputs: Sequence[Sequence[int]]) -> None:
    """Every output token has exactly one stamp, and stamps do not run backwards.

    Raises:
        ContractBroken: naming the row.
    """
    if arrivals is None:
        raise ContractBroken("the adapter reported no token times although they were asked for")
    for row, output in enumerate(outputs):
        offsets = arrivals.of_row(row)
        if len(offsets) != len(output):
            raise ContractBroken(f"row {row}: {len(offsets)} token times for {len(output)} output tokens")
        if any(later < earlier for earlier, later in itertools.pairwise(offsets)):
            raise ContractBroken(f"row {row}: token times run backwards")
