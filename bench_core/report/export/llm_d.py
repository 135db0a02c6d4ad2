"""Cells under load as llm-d's Benchmark Report 0.2.1: one report for each cell, which is one workload on one stack.

The format is described by the package ``llmd-benchmark-report``; a test holds ours to its model. It has no place for
intervals, for goodput or for a load that saturated. So the cell's row of our own export stands under
``results.observability.llm_bench``, where the format takes keys of anybody.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from bench_core.contract.serving.latencies import scheduled_in
from bench_core.contract.serving.log import ServeEvents
from bench_core.contract.serving.measures import Latency, ServeMetrics
from bench_core.report.conditions import engine_version
from bench_core.report.export.about import card_of, image_of, versions_of
from bench_core.report.export.detail import Detailed
from bench_core.report.export.tables import Value
from bench_core.report.served import Served
from bench_core.runs.view import RunView

VERSION = "0.2.1"
_TOOL = "llm-bench"
_STACK, _PER_TOKEN = "0.0.1", "s/token"


def reports_of(run: Detailed, rows: Mapping[str, Mapping[str, Value]]) -> dict[str, dict[str, Any]]:
    """By the cell's name, of each that has numbers.

    Args:
        rows: of the export, by the cell's name.
    """
    lines = [Served(run.view, row) for row in run.view.served if row.measured]
    return {
        line.row.planned.cell: _report(line, run.served[line.row.planned.cell], rows[line.row.planned.cell])
        for line in lines
    }


def _report(line: Served, events: ServeEvents, row: Mapping[str, Value]) -> dict[str, Any]:
    assert line.metrics is not None  # noqa: S101  # of a cell with numbers
    record = line.view.record
    # The format's ids: the same for the same measurement, whenever it is exported.
    experiment = uuid.uuid5(uuid.NAMESPACE_URL, f"llm-bench:{record.run_id}:{record.created_utc}")
    return {
        "version": VERSION,
        "run": {
            "uid": str(uuid.uuid5(experiment, f"{line.row.planned.cell}:{line.row.planned.repeat}")),
            "eid": str(experiment),
            "time": _time(events),
            "description": f"{row['model']} [{record.run_id}, {line.row.planned.cell}]",
            "keywords": [_TOOL, str(row["image"]), str(row["variant"]), str(row["point"])],
        },
        "scenario": {"stack": [_engine(line, row)], "load": _load(line, events, row)},
        "results": {
            "request_performance": {"aggregate": _aggregate(line.metrics, events)},
            "observability": {
                **_device(line),
                "llm_bench": {name: value for name, value in row.items() if value is not None},
            },
        },
    }


def _time(events: ServeEvents) -> dict[str, str]:
    """The window, by the wall clock that the log began with."""
    window, start = events.window, events.start
    assert window is not None  # noqa: S101  # of a cell with numbers
    assert start is not None  # noqa: S101
    began = datetime.fromisoformat(start.wall_time_utc.replace("Z", "+00:00"))
    first, last = (began + timedelta(seconds=moment - start.t_s) for moment in (window.begin_s, window.end_s))
    length_s = window.end_s - window.begin_s
    return {"start": first.isoformat(), "end": last.isoformat(), "duration": f"PT{length_s:.6f}S"}


def _label(line: Served) -> str:
    return f"{line.row.planned.image}.{line.row.planned.variant}"


def _engine(line: Served, row: Mapping[str, Value]) -> dict[str, Any]:
    """The one server. Of a run without a GPU the accelerator is the CPU, none of which is counted."""
    spec, card, image = line.row.spec, card_of(line), image_of(line)
    engine, _, version = engine_version(versions_of(line)).partition(" ")
    config = {
        "image": image.reference if image else None,
        "image_id": image.id if image else None,
        "versions": versions_of(line),
        "options": dict(spec.options) if spec else {},
        "artifact": row["artifact"],
        "artifact_digest": row["artifact_digest"],
        "command": list(spec.server.command) if spec and spec.server else None,
    }
    return {
        "metadata": {"schema_version": _STACK, "label": _label(line), "cfg_id": _digest(config)},
        "standardized": {
            "kind": "inference_engine",
            "tool": engine or str(row["image"]),
            "tool_version": version or "not known",
            "role": "replica",
            "replicas": 1,
            "model": {"name": str(row["model"])},
            "accelerator": {
                "model": card.name if card else str(row["cpu"]),
                "count": 1 if line.view.on_cuda else 0,
                "parallelism": {"tp": 1, "dp": 1, "dp_local": 1, "workers": 1, "ep": 1, "pp": 1},
            },
        },
        "native": {"config": config},
    }


def _load(line: Served, events: ServeEvents, row: Mapping[str, Value]) -> dict[str, Any]:
    record, load, spec = line.view.record, line.row.load, line.row.spec
    config = {
        "load": load.model_dump(mode="json"),
        "protocol": spec.serve.protocol.model_dump(mode="json") if spec and spec.serve else None,
        "schedule_digest": row["schedule_digest"],
        "workload_digest": record.workload.digest,
    }
    standardized: dict[str, Any] = {
        "tool": _TOOL,
        "tool_version": record.bench_version,
        "parallelism": max(1, len(events.generators)),
        "source": "sampled",
        "input_seq_len": _input_length(line.view, events),
    }
    if record.length == "forced" and load.load != "trace":  # a trace asks for lengths of its own
        standardized["output_seq_len"] = {"distribution": "fixed", "value": record.max_new_tokens}
    if load.request_rate is not None:
        standardized["rate_qps"] = load.request_rate
    if load.concurrency is not None:
        standardized["concurrency"] = load.concurrency
    return {
        "metadata": {"schema_version": _STACK, "cfg_id": _digest(config), "description": load.words},
        "standardized": standardized,
        "native": {"config": config},
    }


def _input_length(view: RunView, events: ServeEvents) -> dict[str, Any]:
    """Of the workload's prompts, where the run keeps them; else of those that were sent."""
    kept = view.workload
    lengths = [len(p) for p in kept.prompts] if kept else [request.prompt_tokens for request in events.requests]
    mean = math.fsum(lengths) / len(lengths)
    return {"distribution": "other", "value": mean, "min": min(lengths), "max": max(lengths)}


def _aggregate(metrics: ServeMetrics, events: ServeEvents) -> dict[str, Any]:
    window = events.window
    assert window is not None  # noqa: S101  # of a cell with numbers
    planned = scheduled_in(events.requests, window.begin_s, window.end_s)
    counts = metrics.requests
    sent = [request.prompt_tokens for request in planned if request.sent_s is not None]
    came = [request.output_tokens for request in planned if request.ok]
    output, prompts = metrics.output_throughput_tok_s.value, metrics.prompt_throughput_tok_s.value
    return {
        "requests": {
            "total": counts.sent,
            "failures": sum(counts.failed.values()),
            "incomplete": counts.unfinished,
            **_told({"input_length": _counts(sent), "output_length": _counts(came)}),
        },
        "latency": _told({
            "time_to_first_token": _latency(metrics.ttft_s, "s"),
            "time_per_output_token": _latency(metrics.tpot_s, _PER_TOKEN),
            "inter_token_latency": _latency(metrics.itl_s, _PER_TOKEN),
            "request_latency": _latency(metrics.e2e_s, "s"),
        }),
        "throughput": {
            "output_token_rate": {"units": "tokens/s", "mean": output},
            "input_token_rate": {"units": "tokens/s", "mean": prompts},
            "total_token_rate": {"units": "tokens/s", "mean": output + prompts},
            "request_rate": {"units": "queries/s", "mean": metrics.request_throughput_per_s.value},
        },
    }  # fmt: skip


def _latency(found: Latency | None, units: str) -> dict[str, Any] | None:
    if found is None:
        return None
    places = {name: getattr(found, name) for name in ("p50", "p90", "p95", "p99")}
    return {
        "units": units,
        "mean": found.mean.value,
        **{name: number.value for name, number in places.items() if number is not None},
        "max": found.max,
    }


def _counts(values: Sequence[int]) -> dict[str, Any] | None:
    if not values:
        return None
    return {"units": "count", "mean": math.fsum(values) / len(values), "min": min(values), "max": max(values)}


def _device(line: Served) -> dict[str, Any]:
    """Power and use of the device over the window, where counters tell."""
    told = line.metrics.telemetry if line.metrics else None
    if told is None:
        return {}
    means = _told({
        "power_consumption": None if told.power_w is None else {"units": "Watts", "mean": told.power_w},
        "gpu_utilization": None if told.utilisation is None else {"units": "fraction", "mean": told.utilisation},
    })  # fmt: skip
    return {"components": [{"component_label": _label(line), "aggregate": means}]} if means else {}


def _told(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if value is not None}


def _digest(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:32]
