"""Writes run folders from a script: every time in them follows from a formula, so what a report must say is known.

The tokens of a batch come ``tpot_s`` apart after ``ttft_s``, and the batch ends with the last of them: throughput, TTFT
and TPOT can be worked out on paper.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bench_core.contract.asked.protocol import MeasureProtocol
from bench_core.contract.asked.scenario import Offline
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records import layout
from bench_core.contract.records.events import (
    Arrivals,
    BatchEvent,
    BatchPhase,
    EndEvent,
    EngineEvent,
    Event,
    PhaseEvent,
    ScoreEvent,
    StartEvent,
    TelemetryEvent,
)
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.contract.records.run import GpuInfo, HostInfo, ImageInfo, PlannedCell, RunRecord
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import WorkloadRef
from bench_core.report.column import Sheet

MIB = 2**20
GIB = 2**30

MODEL = ModelInfo(
    name="synthetic/llama-2-7b",
    folder="synthetic--llama-2-7b",
    digest="5e" * 32,
    synthetic=True,
    architecture="LlamaForCausalLM",
    dtype="float16",
    parameters=6_738_415_616,
    vocab_size=32000,
    context_length=4096,
    hidden_size=4096,
    intermediate_size=11008,
    layers=32,
    attention_heads=32,
    kv_heads=32,
    head_dim=128,
    tied_embeddings=False,
    bos_token_id=1,
    eos_token_ids=(2,),
)
WORKLOAD = WorkloadRef(
    name="roneneldan/TinyStories:validation", digest="abcdef0123456789" * 4, prompts=6000, longest_prompt_tokens=512
)
GPU = GpuInfo(
    uuid="GPU-00000000-0000-4000-8000-000000000001",
    name="NVIDIA H100 80GB HBM3",
    memory_bytes=85_520_809_984,
    driver_version="580.95.05",
)
HOST = HostInfo(
    cpu="Intel(R) Xeon(R) Platinum 8480+",
    cores=16,
    memory_bytes=128 * GIB,
    system="Linux 6.8.0-55-generic x86_64",
    python="3.12.11",
)


@dataclass(frozen=True)
class Method:
    """A scripted engine.

    Attributes:
        ttft_s, tpot_s: at batch size 1; both grow by ``per_prompt`` (a fraction) with each further prompt.
        weights_bytes, prompt_bytes: device memory with the model alone, and for each prompt of a batch.
        arrivals: who tells token times; ``separate`` in batches of their own, ``none`` nobody.
        dies: batch sizes that fail, with the outcome and cause.
    """

    image: str
    variant: str
    label: str
    ttft_s: float = 0.02
    tpot_s: float = 0.005
    per_prompt: float = 0.01
    weights_bytes: int = 13 * GIB
    prompt_bytes: int = GIB // 4
    batching: Literal["native", "sequential"] = "native"
    arrivals: Literal["live", "engine", "separate", "none"] = "live"
    versions: dict[str, str] = field(default_factory=lambda: {"python": "3.12.11"})
    facts: dict[str, str] = field(default_factory=dict)
    pool: dict[str, int] = field(default_factory=dict)
    dies: dict[int, tuple[Outcome, str]] = field(default_factory=dict)
    unreached: tuple[int, ...] = ()
    reference: int | None = None
    ranked: bool = True
    speculative: bool = False
    nll_nat_per_token: float | None = None  # scored in the first batch size's cell; text 1 is 0.1 above, text 2 below
    differs_from: int | None = None  # place of the first output token that is not the others'

    def factor(self, batch_size: int) -> float:
        """How much longer everything takes in a batch of this size."""
        return float(batch_size) if self.batching == "sequential" else 1.0 + self.per_prompt * (batch_size - 1)

    def latency_s(self, batch_size: int, new_tokens: int) -> float:
        """One batch, without the jitter that ``jitter`` gives its batches (which has the mean 0)."""
        return (self.ttft_s + self.tpot_s * (new_tokens - 1)) * self.factor(batch_size)

    def device_bytes(self, batch_size: int) -> int:
        """Device memory when caches are made."""
        return self.weights_bytes + batch_size * self.prompt_bytes


@dataclass(frozen=True)
class Script:
    """A run to write.

    Attributes:
        gpus: that the model of each cell is split over; what the script says of a device is their sum.
    """

    methods: tuple[Method, ...]
    batch_sizes: tuple[int, ...] = (1, 4)
    device: Literal["cuda", "cpu"] = "cuda"
    new_tokens: int = 20
    batches: int = 4
    run_id: str = "2026-11-23T06-00-00-demo"
    notes: dict[str, str] = field(default_factory=dict)
    model: ModelInfo = MODEL
    length: Literal["forced", "natural"] = "forced"
    gpus: int = 1

    @property
    def cards(self) -> tuple[GpuInfo, ...]:
        """Of each cell; none on a CPU."""
        others = (GPU.model_copy(update={"uuid": f"{GPU.uuid[:-1]}{n + 1}"}) for n in range(1, self.gpus))
        return (GPU, *others) if self.device == "cuda" else ()


# Added to the latency of batches 0, 1, 2, 3, 0, ...: mean 0 over each four.
JITTER_S = (-0.002, 0.001, 0.002, -0.001)
SETTLED_BYTES = 600 * MIB  # on the GPU before the engine is there
HOST_BYTES = 2 * GIB


def write_run(root: Path, script: Script, *, compressed: bool = False) -> Path:
    """Writes a run as a driver and its workers would leave it; returns its folder."""
    folder = root / script.run_id
    folder.mkdir(parents=True)
    cells = [
        PlannedCell(
            cell=layout.cell_id(method.image, method.variant, f"b{size}", gpus=script.gpus),
            image=method.image,
            variant=method.variant,
            scenario=Offline(batch_size=size),
            gpus=script.gpus,
            label=method.label,
            ranked=method.ranked,
            reference=method.reference,
        )
        for method in script.methods
        for size in script.batch_sizes
    ]
    record = RunRecord(
        run_id=script.run_id,
        created_utc="2026-11-23T06:00:00Z",
        bench_version="0.1.0",
        git_commit="0123456789abcdef0123456789abcdef01234567",
        launcher="docker",
        device=script.device,
        host=HOST,
        gpus=script.cards,
        images={
            method.image: ImageInfo(
                reference=f"llm-bench/{method.image}:{script.device}",
                id="sha256:" + "c0ffee" * 10 + "c0ff",
                notes=script.notes.get(method.image, ""),
            )
            for method in script.methods
        },
        model=script.model,
        workload=WORKLOAD,
        max_new_tokens=script.new_tokens,
        length=script.length,
        cells=tuple(cells),
    )
    (folder / layout.RUN_FILE).write_text(record.to_json(), encoding="utf-8")
    for method in script.methods:
        for size in script.batch_sizes:
            if size not in method.unreached:
                _write_cell(folder, script, method, size, compressed)
    return folder


def read_log(cell: Path) -> list[dict[str, Any]]:
    """The events of a cell's folder as plain data, to be changed and written back."""
    return [json.loads(line) for line in (cell / layout.EVENTS_FILE).read_text(encoding="utf-8").splitlines()]


def write_log(cell: Path, events: Iterable[dict[str, Any]]) -> None:
    """Puts events in place of a cell's own."""
    (cell / layout.EVENTS_FILE).write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")


def measured(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The measured batches among them, in order."""
    return [event for event in events if event["type"] == "batch" and event["phase"] == "measure"]


def set_latencies(cell: Path, latencies_s: Sequence[float]) -> None:
    """Gives a cell's measured batches these latencies."""
    events = read_log(cell)
    for event, latency_s in zip(measured(events), latencies_s, strict=True):
        event["latency_s"] = latency_s
    write_log(cell, events)


def fields(sheet: Sheet) -> list[dict[str, str]]:
    """A table's rows, by column."""
    titles = [title for title, _ in sheet.columns]
    return [dict(zip(titles, (entry.text for entry in row), strict=True)) for row in sheet.rows]


def visit_again(
    run_folder: Path, script: Script, method: Method, batch_size: int, *, faster: float, dies: bool = False
) -> None:
    """Adds a visit on another card, a day later, that measured one cell again, ``faster`` times as fast."""
    record = RunRecord.read(run_folder / layout.RUN_FILE)
    repeat = 1 + len(record.all_visits)
    card = GPU.model_copy(update={"uuid": f"GPU-{repeat:08d}-0000-4000-8000-000000000000", "driver_version": "590.1"})
    method = replace(method, ttft_s=method.ttft_s / faster, tpot_s=method.tpot_s / faster)
    if dies:
        method = replace(method, dies={batch_size: (Outcome.KILLED, "stopped on request")})
    planned = PlannedCell(
        cell=layout.cell_id(method.image, method.variant, f"b{batch_size}", repeat),
        image=method.image,
        variant=method.variant,
        scenario=Offline(batch_size=batch_size),
        repeat=repeat,
        label=method.label,
    )
    visit = record.all_visits[0].model_copy(
        update={"started_utc": f"2026-11-2{2 + repeat}T06:00:00Z", "gpus": (card,), "cells": (planned.cell,)}
    )
    changes = {
        "cells": (*record.cells, planned),
        "gpus": (*record.gpus, card),
        "visits": (*record.all_visits, visit),
    }
    (run_folder / layout.RUN_FILE).write_text(record.model_copy(update=changes).to_json(), encoding="utf-8")
    _write_cell(run_folder, script, method, batch_size, False, repeat=repeat, gpu=card)


def measured_repeatedly(run_folder: Path, repeats: int) -> None:
    """Says of a run that its grid was to be measured so often: cells of :func:`visit_again` up to there are repeats."""
    record = RunRecord.read(run_folder / layout.RUN_FILE).model_copy(update={"repeats": repeats})
    (run_folder / layout.RUN_FILE).write_text(record.to_json(), encoding="utf-8")


def cell_path(run_folder: Path, method: Method, batch_size: int) -> Path:
    """The folder of a cell."""
    gpus = RunRecord.read(run_folder / layout.RUN_FILE).cells[0].gpus
    return layout.cell_folder(run_folder, layout.cell_id(method.image, method.variant, f"b{batch_size}", gpus=gpus))


def _write_cell(
    run_folder: Path, script: Script, method: Method, size: int, compressed: bool, repeat: int = 1, gpu: GpuInfo = GPU
) -> None:
    cell = layout.cell_id(method.image, method.variant, f"b{size}", repeat, script.gpus)
    folder = layout.cell_folder(run_folder, cell)
    folder.mkdir(parents=True)
    spec = CellSpec(
        image=method.image,
        variant=method.variant,
        label=method.label,
        batching=method.batching,
        token_times=method.arrivals,
        speculative=method.speculative,
        scenario=Offline(batch_size=size),
        repeat=repeat,
        device=script.device,
        gpus=script.gpus,
        gpu_uuid=gpu.uuid if script.device == "cuda" else None,
        gpu_uuids=tuple(card.uuid for card in script.cards) if script.gpus > 1 else (),
        threads=16,
        model=script.model,
        artifact="hf",
        artifact_digest="5e" * 32,
        options={},
        workload=WORKLOAD,
        max_new_tokens=script.new_tokens,
        length=script.length,
        protocol=MeasureProtocol(),
    )
    (folder / layout.SPEC_FILE).write_text(spec.to_json(), encoding="utf-8")
    outcome, cause = method.dies.get(size, (Outcome.OK, ""))
    ok = outcome is Outcome.OK
    verdict = Verdict(
        outcome=outcome,
        cause=cause,
        phase=None if ok else "prepare",
        judged_by="worker",
        exit_code=0 if ok else 1,
        evidence={} if ok else {"device_used_bytes": "84000000000"},
    )
    (folder / layout.OUTCOME_FILE).write_text(verdict.to_json(), encoding="utf-8")
    lines = "".join(event.model_dump_json() + "\n" for event in _events(script, method, size, outcome, cause))
    if compressed:
        (folder / f"{layout.EVENTS_FILE}.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    else:
        (folder / layout.EVENTS_FILE).write_text(lines, encoding="utf-8")
    (folder / layout.LOG_FILE).write_text("an engine's chatter\n", encoding="utf-8")


def _events(script: Script, method: Method, size: int, outcome: Outcome, cause: str) -> Sequence[Event]:
    events: list[Event] = [
        StartEvent(
            t_s=100.0,
            wall_time_utc="2026-11-23T06:00:00Z",
            versions=method.versions,
            host={"cpu": HOST.cpu},
        ),
        _sample(script, 100.5, SETTLED_BYTES, 200 * MIB),
        PhaseEvent(phase="load", started_s=101.0, duration_s=9.0),
        _sample(script, 110.0, method.weights_bytes, HOST_BYTES),
    ]
    if outcome is not Outcome.OK:
        return [*events, EndEvent(t_s=112.0, outcome=outcome, phase="prepare", cause=cause)]
    top = method.device_bytes(size)
    events += [
        PhaseEvent(phase="prepare", started_s=110.0, duration_s=1.5),
        _sample(script, 111.5, top, HOST_BYTES),
        EngineEvent(t_s=111.6, facts=method.facts, memory=method.pool),
    ]
    now = 112.0
    phases: list[tuple[BatchPhase, int]] = [("warmup", 1), ("measure", script.batches)]
    if method.arrivals == "separate":
        phases.append(("latency", 2))
    for phase, number in phases:
        for index in range(number):
            jitter_s = JITTER_S[index % 4] if phase == "measure" else 0.0
            batch = _batch(script, method, size, phase, index, now, jitter_s)
            now += batch.latency_s
            events += [batch, _sample(script, now, top, HOST_BYTES + size * MIB)]
            now += 0.01
    if method.nll_nat_per_token is not None and size == script.batch_sizes[0]:
        sums = tuple(-100 * (method.nll_nat_per_token + above) for above in (0.1, -0.1))
        events.append(
            ScoreEvent(
                started_s=now,
                duration_s=0.5,
                texts=(0, 1),
                digest="7e" * 32,
                scored_tokens=(100, 100),
                log_probability_nat=sums,
            )
        )
    return [
        *events,
        PhaseEvent(phase="close", started_s=now, duration_s=0.2),
        EndEvent(t_s=now + 0.3, outcome=Outcome.OK),
    ]


def _batch(
    script: Script, method: Method, size: int, phase: BatchPhase, index: int, now: float, jitter_s: float
) -> BatchEvent:
    factor = method.factor(size)
    step_us = round(method.tpot_s * factor * 1e6)
    offsets = tuple(round(method.ttft_s * factor * 1e6) + step_us * k for k in range(script.new_tokens))
    told = method.arrivals in ("live", "engine") or (method.arrivals == "separate" and phase == "latency")
    first = index * size
    return BatchEvent(
        phase=phase,
        index=index,
        prompts=tuple(range(first, first + size)),
        prompts_digest=f"{first:064x}",
        prompt_tokens=(50,) * size,
        started_s=now,
        latency_s=method.latency_s(size, script.new_tokens) + jitter_s,
        outputs=(_output(script, method),) * size,
        arrivals=Arrivals(
            source="engine" if method.arrivals == "engine" else "worker", shared=True, offsets_us=(offsets,)
        )
        if told
        else None,
    )


def _output(script: Script, method: Method) -> tuple[int, ...]:
    """The same tokens of all methods, up to where one differs; from there on none is equal."""
    end = script.new_tokens if method.differs_from is None else method.differs_from
    return (*range(3, 3 + end), *(1000 + place for place in range(end, script.new_tokens)))


def _sample(script: Script, t_s: float, device_bytes: int, rss_bytes: int) -> TelemetryEvent:
    device = (device_bytes,) if script.device == "cuda" else None
    return TelemetryEvent(t_s=(t_s,), rss_bytes=(rss_bytes,), device_used_bytes=device)


# --- ready methods, about as fast and as large as a 7B model's on a large GPU ----------------------------------------

FP32 = Method(
    "transformers",
    "fp32",
    "Transformers fp32",
    ttft_s=0.06,
    tpot_s=0.034,
    per_prompt=0.004,
    weights_bytes=26 * GIB,
    prompt_bytes=GIB,
    versions={"python": "3.12.11", "torch": "2.11.0", "transformers": "5.17.0"},
    facts={"attention": "sdpa"},
    dies={64: (Outcome.OOM_KV, "CUDA out of memory. Tried to allocate 2.00 GiB")},
)
VLLM = Method(
    "vllm",
    "fp16",
    "vLLM fp16",
    ttft_s=0.012,
    tpot_s=0.006,
    per_prompt=0.008,
    weights_bytes=70 * GIB,
    prompt_bytes=0,
    arrivals="engine",
    versions={"python": "3.12.11", "vllm": "0.26.0"},
    facts={"attention": "FLASH_ATTN", "quantisation": "none"},
    pool={"reserved_bytes": 56 * GIB, "used_bytes": 9 * GIB},
)
CT2 = Method(
    "ctranslate2",
    "int8_float16",
    "CTranslate2 int8_float16",
    ttft_s=0.015,
    tpot_s=0.009,
    per_prompt=0.02,
    weights_bytes=7 * GIB,
    arrivals="separate",
    versions={"python": "3.12.11", "ctranslate2": "4.8.5"},
)
SEQUENTIAL = Method(
    "llama-cpp-python",
    "high-level",
    "llama.cpp q4_k_m, high-level API",
    ttft_s=0.02,
    tpot_s=0.008,
    batching="sequential",
    weights_bytes=5 * GIB,
    prompt_bytes=0,
    arrivals="none",
    versions={"python": "3.12.11", "llama-cpp-python": "0.3.36"},
)


def many_methods() -> tuple[Method, ...]:
    """Twelve, to see whether a figure of them can be read."""
    return (
        FP32,
        replace(FP32, variant="fp16", label="Transformers fp16", tpot_s=0.022, weights_bytes=13 * GIB, dies={}),
        replace(
            FP32,
            image="bitsandbytes",
            variant="int8",
            label="bitsandbytes int8",
            tpot_s=0.09,
            per_prompt=0.006,
            weights_bytes=8 * GIB,
            dies={},
        ),
        replace(
            FP32,
            image="bitsandbytes",
            variant="nf4",
            label="bitsandbytes nf4",
            tpot_s=0.05,
            per_prompt=0.02,
            weights_bytes=5 * GIB,
            dies={},
        ),
        VLLM,
        replace(VLLM, variant="gptq", label="vLLM gptq-int4 (marlin)", tpot_s=0.004, per_prompt=0.02),
        CT2,
        replace(CT2, variant="float16", label="CTranslate2 float16", tpot_s=0.011, weights_bytes=13 * GIB),
        SEQUENTIAL,
        Method("llama-cpp-python", "q4_k_m", "llama.cpp q4_k_m", tpot_s=0.0065, per_prompt=0.06, weights_bytes=5 * GIB),
        Method("exllamav2", "gptq", "ExLlamaV2 GPTQ", tpot_s=0.0042, per_prompt=0.05, weights_bytes=5 * GIB),
        Method(
            "exllama", "gptq", "ExLlama GPTQ", tpot_s=0.0085, per_prompt=0.03, weights_bytes=5 * GIB, unreached=(64,)
        ),
    )
