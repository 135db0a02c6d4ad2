"""Prompts of loads: those of a recorded trace, and prompts that begin alike."""

from __future__ import annotations

from pathlib import Path

from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.workload import Workload
from bench_core.contract.serving.schedule import Schedule
from bench_core.contract.serving.trace import traced
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
    return traced(path, workload, tokenizer.prefix_tokens, most_output, tokenizer.encode)
