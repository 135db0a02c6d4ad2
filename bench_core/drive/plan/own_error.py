"""The scripted engine beside a plan: for the suite's own error, at the plan's extremes, in seconds."""

from __future__ import annotations

from collections.abc import Iterable

from bench_core.contract.asked.scenario import Offline, Scenario
from bench_core.contract.measures.own_error import Script
from bench_core.contract.serving.load import Serve
from bench_core.drive.plan.catalogue import Catalogue, Image
from bench_core.drive.plan.plan import Job, Plan

OWN_ERROR_BATCHES = 5  # of each size: seconds in all, and one or two late wakings do not move the median
# What the scripted server, which is one thread, sends on time (tests/client/benchmark.py: 512 streams of 20 ms a
# token). Beyond it the difference to the script would be the server's.
MOST_TOKENS_PER_S = 25_600.0
# A smaller load would need minutes for a median of a few requests; a client's error does not grow with less to do.
LEAST_CONCURRENCY = 8
LEAST_REQUESTS_PER_S = 10.0
# How many requests of a trace are in flight follows from the server, which is not known before it is measured.
TRACE_CONCURRENCY = 64
_LEAST_WINDOW_S = 5.0
_LATENCIES_OF_WINDOW = 4.0
_LATENCIES_OF_RAMP = 2.0


def own_error_jobs(plan: Plan, catalogue: Catalogue, visit: int, max_new_tokens: int) -> tuple[Job, ...]:
    """The scripted engine at the smallest shape and at the largest batch size of a plan, and its server at the largest
    load point; nothing where nothing is to be measured, or no image has a script for this device.

    Args:
        visit: number of the visit, from 1: the repeat of its cells.
        max_new_tokens: of each prompt.
    """
    found = _scripted(plan, catalogue)
    if found is None:
        return ()
    image, variant = found
    jobs = []
    if plan.batch_sizes:
        sizes: tuple[Scenario, ...] = tuple(Offline(batch_size=size) for size in sorted({1, plan.batch_sizes[-1]}))
        jobs.append(Job(image, variant, sizes, {}, visit, {"max_batches": OWN_ERROR_BATCHES}, plan.gpus_per_cell))
    if plan.loads and variant in image.manifest.served_on(plan.device):
        script = Script.of(image.manifest.variant(variant, {}, plan.device).options)
        load = largest_load(plan.loads, script, max_new_tokens)
        slowest_s = _tpot_s(load, script)
        latency_s = script.ttft_s + (max_new_tokens - 1) * slowest_s
        limits = {
            "max_ramp_seconds": max(_LEAST_WINDOW_S / 2, _LATENCIES_OF_RAMP * latency_s),
            "max_serve_seconds": max(_LEAST_WINDOW_S, _LATENCIES_OF_WINDOW * latency_s),
        }
        options = {"tpot_s": slowest_s} if slowest_s > script.tpot_s else {}
        jobs.append(Job(image, variant, (load,), dict(options), visit, limits, plan.gpus_per_cell))
    return tuple(jobs)


def largest_load(loads: Iterable[Serve], script: Script, max_new_tokens: int) -> Serve:
    """The load point at which the scripted server has most requests to answer in a second, and a few more where that
    is a small one. For a trace a concurrency stands in."""
    latency_s = script.latency_s([max_new_tokens])
    most_per_s = max(MOST_TOKENS_PER_S // max_new_tokens, 1.0)

    def per_s(load: Serve) -> float:
        return load.request_rate if load.request_rate is not None else (load.concurrency or 0) / latency_s

    points = [_in_bounds(load, most_per_s) for load in loads]
    return max(points, key=per_s)


def _in_bounds(load: Serve, most_per_s: float) -> Serve:
    """Neither too small to be measured in seconds nor beyond what the scripted server can do."""
    if load.request_rate is not None:
        rate = min(max(load.request_rate, LEAST_REQUESTS_PER_S), most_per_s)
        return load.model_copy(update={"request_rate": rate})
    return Serve(load="concurrency", concurrency=max(load.concurrency or TRACE_CONCURRENCY, LEAST_CONCURRENCY))


def _tpot_s(load: Serve, script: Script) -> float:
    """Time per token at which so many streams have no more tokens in a second than the server sends on time."""
    if load.concurrency is not None:
        return max(script.tpot_s, load.concurrency / MOST_TOKENS_PER_S)
    return script.tpot_s


def _scripted(plan: Plan, catalogue: Catalogue) -> tuple[Image, str] | None:
    """The first image with a script for the plan's device, and its variant."""
    for name in catalogue.names:
        image = catalogue.get(name)
        variant = image.manifest.harness_variant
        if variant is not None and variant in image.manifest.variants_on(plan.device):
            return image, variant
    return None
