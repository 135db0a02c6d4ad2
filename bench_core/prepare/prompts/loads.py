"""Prompts of loads: those of a recorded trace, and prompts that begin alike."""

from __future__ import annotations

from pathlib import Path

from bench_core.contract.errors import BadInput
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.workload import Workload
from bench_core.contract.serving.schedule import Schedule
from bench_core.contract.serving.trace import read_trace, trace_schedule
from bench_core.prepare.prompts.tokenizer import PromptTokenizer


def with_shared_prefix(workload: Workload, tokens: int, special: int) -> Workload:
    """The same prompts, each behind the same beginning: as many ids of the workload's own prompts, in their order.

    Args:
        tokens: of the beginning.
        special: ids at each prompt's beginning that stay first (a beginning-of-sequence id).
    """
    own = [prompt[special:] for prompt in workload.prompts]
    joined = [one for prompt in own for one in prompt]
    shared = tuple((joined * (tokens // max(len(joined), 1) + 1))[:tokens])
    prompts = tuple((*prompt[:special], *shared, *prompt[special:]) for prompt in workload.prompts)
    return Workload.model_validate(
        {
            **dict(workload),
            "prompts": prompts,
            "digest": prompts_sha256(prompts),
            "max_prompt_tokens": workload.max_prompt_tokens + tokens,
            "shared_prefix_tokens": tokens,
        }
    )


def of_trace(path: Path, workload: Workload, tokenizer: PromptTokenizer, most_output: int) -> tuple[Workload, Schedule]:
    """The prompts of a trace, and when each is sent. Lines that tell a prompt's length alone get ids of ``workload``.

    Args:
        most_output: output tokens of a request, at most.

    Raises:
        BadInput: the file cannot be used, or asks for longer outputs.
    """
    special = tokenizer.prefix_tokens
    pool = sorted({one for prompt in workload.prompts for one in prompt[special:]})
    requests = read_trace(path, pool, tokenizer.encode)
    longest = max(request.output_tokens for request in requests)
    if longest > most_output:
        raise BadInput(
            f"{path}: a request asks for {longest} output tokens, and --max-new-tokens is {most_output}",
            f"give --max-new-tokens {longest}",
        )
    places: dict[tuple[int, ...], int] = {}
    order = [places.setdefault(request.prompt, len(places)) for request in requests]
    prompts = tuple(places)
    traced = Workload(
        name=f"trace {path.stem}",
        tokenizer=workload.tokenizer,
        max_prompt_tokens=max(map(len, prompts)),
        truncated=0,
        dropped_empty=0,
        duplicates=0,
        digest=prompts_sha256(prompts),
        prompts=prompts,
    )
    return traced, trace_schedule(requests, order)
