"""The call of the driver that these tests vary: the scripted engine in a process of its own."""

from __future__ import annotations


def null_run(samples: int = 4, max_new_tokens: int = 4) -> tuple[str, ...]:
    """Arguments for the scripted engine without its check, and with as many batches as the tests count."""
    return (
        *("--images", "null", "--device", "cpu", "--launcher", "process"),
        *("--samples", str(samples), "--max-new-tokens", str(max_new_tokens)),
        *("--no-harness-check", "--exhaustive", "--max-warmup-batches", "1"),
    )
