"""What a run will roughly cost, said before it begins."""

from __future__ import annotations

import re
from collections.abc import Collection

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.asked.scenario import Offline, Scenario
from bench_core.drive.ask.request import Suite
from bench_core.drive.plan.plan import Job, Plan

# Rough rates for an estimate that a person reads, not for any published number: bytes of weights read per second by
# one decoding step, and what a step costs beside that.
_BYTES_PER_S: dict[DeviceKind, float] = {"cuda": 1.0e12, "cpu": 1.0e10}
_STEP_S: dict[DeviceKind, float] = {"cuda": 0.010, "cpu": 0.003}
_START_S = 8.0  # a container, an engine's imports, a small model
PROBE_S, _OWN_ERROR_S = 20.0, 10.0  # the device's peak rates; the scripted engine's cells
_MAKE_BYTES_PER_S, _READ_BYTES_PER_S, _CONVERT_BYTES_PER_S = 1.0e8, 3.0e8, 5.0e7

_TYPICAL_BATCHES = 30  # until throughput is known to 1 %

_TYPICAL_RAMP_S, _TYPICAL_WINDOW_S = 15.0, 60.0  # of a serving cell

_FOUR_BITS_OR_FEWER = re.compile(r"int[2-4]|q[2-4]|[2-4]\.\dbpw")
_EIGHT_BITS_OR_FEWER = re.compile(r"int8|q[5-8]|[5-8]\.\dbpw")

TYPICAL_PROMPTS = 80  # of the embedded workload; stands in where a workload's size is not known yet


def preparing_estimate_s(action: str, bytes_expected: int | None, weights_bytes: int) -> float | None:
    """Seconds of making the model or of reading it for its digests; ``None`` where it comes over a network, whose rate
    nobody knows beforehand."""
    if action == "download":
        return None
    made_s = (bytes_expected or 0) / _MAKE_BYTES_PER_S if action == "generate" else 0.0
    return made_s + (weights_bytes / _READ_BYTES_PER_S if action != "present" else 0.0)


def conversion_estimate_s(weights_bytes: int, earlier_bytes_per_s: float | None) -> float:
    """Seconds of one conversion of so many bytes of weights; an earlier one says how fast such conversions are."""
    return _START_S + weights_bytes / (earlier_bytes_per_s or _CONVERT_BYTES_PER_S)


def measuring_estimate_s(plan: Plan, suite: Suite, weights_bytes: int, prompts: int, *, probed: bool = False) -> float:
    """Seconds of measuring, roughly. ``probed``: the device itself is measured, too."""
    if not plan.jobs:
        return 0.0
    beside_s = own_error_estimate_s(plan) + (PROBE_S if probed else 0.0)
    parts = [job_estimate_s(job, plan.device, suite, weights_bytes, prompts) for job in plan.jobs]
    alone = [job_estimate_s(job, plan.device, suite, weights_bytes, prompts) for job, _ in plan.alone]
    return beside_s + max(sum(parts) / plan.devices, *parts) + sum(alone)


def job_estimate_s(job: Job, device: DeviceKind, suite: Suite, weights_bytes: int, prompts: int) -> float:
    """Seconds of one launch, roughly."""
    return sum(_cells_s(job, device, suite, weights_bytes, prompts).values())


def own_error_estimate_s(plan: Plan) -> float:
    """Seconds of the scripted engine's cells."""
    return _OWN_ERROR_S * len(plan.own_error)


def cell_estimates_s(plan: Plan, suite: Suite, weights_bytes: int, prompts: int) -> dict[str, float]:
    """Seconds of each cell to be measured, roughly, by launch; the first of a launch has its start."""
    found: dict[str, float] = {}
    for job in plan.jobs:
        found.update(_cells_s(job, plan.device, suite, weights_bytes, prompts))
    return found


def _cells_s(job: Job, device: DeviceKind, suite: Suite, weights_bytes: int, prompts: int) -> dict[str, float]:
    """Of one launch. Each step reads all weights once; batch size does not matter to that until compute does."""
    step_s = weights_bytes / _BYTES_PER_S[device] + _STEP_S[device]
    found: dict[str, float] = {}
    start_s = _START_S
    for scenario in job.scenarios:
        found[job.cell(scenario)] = start_s + _cell_s(job, scenario, suite, device, step_s, prompts)
        start_s = 0.0
    return found


def _cell_s(job: Job, scenario: Scenario, suite: Suite, device: DeviceKind, step_s: float, prompts: int) -> float:
    if not isinstance(scenario, Offline):
        return min(suite.max_ramp_seconds, _TYPICAL_RAMP_S) + min(suite.max_serve_seconds, _TYPICAL_WINDOW_S)
    protocol = suite.protocol_of(scenario, device, first=True)
    batches = prompts // scenario.batch_size
    if protocol.precision is not None:
        batches = min(batches, _TYPICAL_BATCHES)
    if protocol.max_batches is not None:
        batches = min(batches, protocol.max_batches)
    direct = protocol.direct_batches if job.image.manifest.direct else 0
    pairs = min(direct, batches) * protocol.direct_rounds
    return (batches + protocol.warmup_rule.fewest + 2 * pairs) * suite.max_new_tokens * step_s


def artifact_bytes(artifact: str, weights_bytes: int) -> int:
    """Bytes of a converted model at most, by the bits in its name, given the stored weights of two bytes each.

    Most formats of few bits keep embeddings and head in 16: all of a small model, 2.1 GB of one with 128,000 words.
    """
    word = artifact.lower()
    kept_bytes = min(weights_bytes * 0.6, 2.2e9)
    if _FOUR_BITS_OR_FEWER.search(word):
        size = weights_bytes * 0.28 + kept_bytes
    elif _EIGHT_BITS_OR_FEWER.search(word):
        size = weights_bytes * 0.55 + kept_bytes
    else:
        size = weights_bytes * (2.0 if word.endswith(("float32", "fp32", "f32")) else 1.0)
    return int(size) + (16 << 20)


def conversion_bytes(artifacts: Collection[str], weights_bytes: int) -> int:
    """Disk that conversions need at most, one after the other: what is left of each, and beside it the copy as large as
    the weights that a quantiser writes first and removes when it ends."""
    if not artifacts:
        return 0
    quantised = any(
        pattern.search(artifact) for pattern in (_FOUR_BITS_OR_FEWER, _EIGHT_BITS_OR_FEWER) for artifact in artifacts
    )
    return sum(artifact_bytes(artifact, weights_bytes) for artifact in artifacts) + weights_bytes * quantised


def readable_duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
