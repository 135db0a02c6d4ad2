"""What a run will roughly cost, said before it begins."""

from __future__ import annotations

from dataclasses import dataclass

from bench_core.contract import layout
from bench_core.contract.manifest import DeviceKind
from bench_core.drive.plan import Plan
from bench_core.drive.request import Suite

# Rough rates for an estimate that a person reads, not for any published number: bytes of weights read per second by
# one decoding step, and what a step costs beside that.
_BYTES_PER_S: dict[DeviceKind, float] = {"cuda": 1.0e12, "cpu": 1.0e10}
_STEP_S: dict[DeviceKind, float] = {"cuda": 0.010, "cpu": 0.003}
_START_S = 8.0  # a container, an engine's imports, a small model


@dataclass(frozen=True)
class Estimate:
    """Seconds of measuring, and bytes to be written under ``models/``; each a rough figure."""

    measuring_s: float
    artifact_bytes: int


def estimate(plan: Plan, suite: Suite, weights_bytes: int, prompts: int, missing_artifacts: int) -> Estimate:
    """Assumes that each step reads all weights once; batch size does not matter to that until compute does."""
    step_s = weights_bytes / _BYTES_PER_S[plan.device] + _STEP_S[plan.device]
    total = 0.0
    for job in plan.jobs:
        model_step_s = 0.005 if job.artifact == layout.NO_ARTIFACT else step_s
        total += _START_S
        for batch_size in job.batch_sizes:
            batches = prompts // batch_size + suite.warmup_batches
            if suite.max_batches is not None:
                batches = min(batches, suite.max_batches + suite.warmup_batches)
            total += batches * suite.max_new_tokens * model_step_s
    return Estimate(total, missing_artifacts * weights_bytes * 2)


def readable_duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
