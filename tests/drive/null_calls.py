"""Calls of the scripted engine that tests of the view make."""

from __future__ import annotations

_PLAIN = ("--images", "null", "--device", "cpu", "--launcher", "process", "--no-harness-check")
UNCHECKED = (*_PLAIN, "--max-new-tokens", "8", "--exhaustive", "--max-warmup-batches", "1")
SERVED = (*_PLAIN, "--max-new-tokens", "8", "--samples", "16", "--concurrency", "4", "--max-serve-seconds", "6")
