"""Writes folders of runs under load from a script: a queue with some slots, so that every time follows from a formula.

A request waits for a free slot, its first token comes ``ttft_s`` after that, the others ``tpot_s`` apart, each a little
longer the more slots are taken.
"""

from __future__ import annotations

import gzip
import hashlib
import heapq
import json
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from report_runs import GPU, HOST, MIB, MODEL

from bench_core.contract.asked.protocol import MeasureProtocol
from bench_core.contract.measures.cpu_use import BusyRule, CpuReading
from bench_core.contract.records import layout
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.events import EndEvent, PhaseEvent, StartEvent, TelemetryEvent
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.contract.records.record import Record
from bench_core.contract.records.run import ImageInfo, PlannedCell, RunRecord, VisitInfo
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import Workload
from bench_core.contract.serving.capacity import Capacity, LoadTrial, search_capacity
from bench_core.contract.serving.cell import ServePlan, ServerFacts
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.log import CpuEvent, ServeEvents
from bench_core.contract.serving.protocol import PAUSE_AFTER_FAILED_S, ServeProtocol
from bench_core.contract.serving.requests import CourseEvent, GeneratorEvent, RequestEvent, WindowEvent
from bench_core.contract.serving.result import ServeResult, serving_result
from bench_core.contract.serving.schedule import Schedule, make_schedule
from bench_core.contract.serving.window import Course

TOKENS = 10
BEGUN_S, RAMP_S, LONGEST_RAMP_S = 100.0, 2.0, 20.0
LOOK_EVERY_S = 0.25
_REFUSED_AFTER_S = 1e-4
HARNESS = "4b" * 32
PROMPTS = tuple(tuple(random.Random(k).randrange(3, 999) for _ in range(20 + k)) for k in range(7))  # noqa: S311


@dataclass(frozen=True)
class Engine:
    """A scripted server.

    Attributes:
        slots: requests that it works on at once.
        fails: every so manieth request, from how it ends; 0: none. ``refuses``: likewise, no connection.
        busy: others take its CPUs.
        dies: it runs out of memory when it is loaded.
        speculative: it guesses tokens.
        untold: events of each answer, of a server that tells neither ids nor how many tokens there were; 0: it tells.
    """

    image: str
    variant: str
    label: str
    ttft_s: float = 0.05
    tpot_s: float = 0.01
    slots: int = 16
    ranked: bool = True
    fails: int = 0
    refuses: int = 0
    busy: bool = False
    dies: bool = False
    speculative: bool = False
    untold: int = 0


FAST = Engine("vllm", "fp16", "vLLM fp16", ttft_s=0.03, tpot_s=0.006, slots=24)
SLOW = Engine("transformers", "fp16", "Transformers fp16", ttft_s=0.08, tpot_s=0.02, slots=8)
SCRIPTED = Engine("null", "scripted", "null scripted", ranked=False)


@dataclass(frozen=True)
class LoadScript:
    """A run to write. ``loads``: words; ``window_s``: length of each window, at most where it is ``followed``: then it
    ends by the rules of a client, and its log has the looks at the load."""

    engines: tuple[Engine, ...] = (FAST, SLOW)
    loads: tuple[str, ...] = ("c4", "r20")
    window_s: float = 10.0
    followed: bool = False
    slo: tuple[str, ...] = ("ttft_s=0.2", "tpot_s=0.03")
    device: Any = "cuda"
    run_id: str = "loaded"
    prompts: tuple[tuple[int, ...], ...] = field(default=PROMPTS, repr=False)

    @property
    def protocol(self) -> ServeProtocol:
        """Of every cell."""
        ramp_s = LONGEST_RAMP_S if self.followed else RAMP_S
        return ServeProtocol(max_serve_seconds=self.window_s, max_ramp_seconds=ramp_s, slo=self.slo)


def load_of(word: str) -> Serve:
    """The load point of a word."""
    load = Serve.of_word(word)
    assert load is not None
    return load


def write_loaded(root: Path, script: LoadScript = LoadScript()) -> Path:
    """Writes a run as a driver and its clients would leave it; returns its folder."""
    folder = root / script.run_id
    (folder / layout.SCHEDULES_FOLDER).mkdir(parents=True)
    workload = Workload(
        name="embedded", tokenizer="byte-level", max_prompt_tokens=64, truncated=0, dropped_empty=0, duplicates=0,
        digest=prompts_sha256(script.prompts), prompts=script.prompts,
    )  # fmt: skip
    (folder / layout.WORKLOAD_FILE).write_bytes(workload.packed())
    schedules = {}
    for word in script.loads:
        horizon_s = script.protocol.max_ramp_seconds + script.window_s + 60
        schedules[word] = make_schedule(load_of(word), 1, len(script.prompts), TOKENS, horizon_s)
        (folder / layout.SCHEDULES_FOLDER / f"{word}.json.gz").write_bytes(schedules[word].packed())
    record = _record(script, workload)
    _put(folder / layout.RUN_FILE, record)
    begun_s = BEGUN_S
    for engine in script.engines:
        for word in script.loads:
            _cell(folder, script, engine, word, schedules[word], workload, begun_s)
            begun_s += script.protocol.max_ramp_seconds + script.window_s + 100
    return folder


def _put(path: Path, record: Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record.to_json(), encoding="utf-8")


def _record(script: LoadScript, workload: Workload) -> RunRecord:
    cells = tuple(
        PlannedCell(
            cell=layout.cell_id(engine.image, engine.variant, word), image=engine.image, variant=engine.variant,
            scenario=load_of(word), label=engine.label, ranked=engine.ranked,
        )
        for engine in script.engines
        for word in script.loads
    )  # fmt: skip
    images = {e.image: ImageInfo(reference=e.image, id="sha256:" + "c0ffee" * 10 + "c0ff") for e in script.engines}
    gpus = (GPU,) if script.device == "cuda" else ()
    facts: dict[str, Any] = {
        "bench_version": "0.2.0", "git_commit": "01" * 20, "launcher": "docker", "host": HOST, "gpus": gpus,
        "images": images,
    }  # fmt: skip
    visit = VisitInfo(
        started_utc="2026-11-23T06:00:00Z", harness=HARNESS, cells=tuple(cell.cell for cell in cells), **facts
    )
    return RunRecord(
        run_id=script.run_id, created_utc="2026-11-23T06:00:00Z", device=script.device, model=MODEL,
        workload=workload.reference, max_new_tokens=TOKENS, length="forced", cells=cells, visits=(visit,), **facts,
    )  # fmt: skip


def _cell(
    run: Path, script: LoadScript, engine: Engine, word: str, schedule: Schedule, workload: Workload, begun_s: float
) -> None:
    load, cell = load_of(word), layout.cell_id(engine.image, engine.variant, word)
    folder = layout.cell_folder(run, cell)
    spec = CellSpec(
        image=engine.image, variant=engine.variant, label=engine.label, batching="native", token_times="live",  # noqa: S106
        scenario=load, ranked=engine.ranked, speculative=engine.speculative, device=script.device, model=MODEL,
        artifact="hf", artifact_digest=MODEL.digest, options={}, workload=workload.reference, max_new_tokens=TOKENS,
        length="forced",
        gpu_uuid=GPU.uuid if script.device == "cuda" else None, threads=8,
        protocol=MeasureProtocol(busy=BusyRule(cpus=1.0)),
        serve=ServePlan(protocol=script.protocol, schedule=schedule.digest),
        server=ServerFacts(
            command=("serve",), path="/v1/completions", prompt="ids", cpus=tuple(range(8)), client_cpus=(8, 9),
            network="internal",
        ),
    )  # fmt: skip
    _put(folder / layout.SPEC_FILE, spec)
    events = _events(script, engine, load, schedule, workload, begun_s)
    lines = "".join(event.model_dump_json() + "\n" for event in events)
    folder.joinpath(layout.EVENTS_FILE).write_text(lines, encoding="utf-8")
    end = events[-1]
    assert isinstance(end, EndEvent)
    digest = hashlib.sha256(lines.encode()).hexdigest()
    verdict = Verdict(outcome=end.outcome, cause=end.cause, phase=end.phase, judged_by="worker", events_sha256=digest)
    _put(folder / layout.OUTCOME_FILE, verdict)
    if end.outcome is Outcome.OK:
        found = ServeEvents.of_lines(lines.splitlines(), cell)
        _put(folder / layout.RESULT_FILE, serving_result(cell, found, script.protocol.limits, spec.protocol.busy))


def _events(
    script: LoadScript, engine: Engine, load: Serve, schedule: Schedule, workload: Workload, begun_s: float
) -> list[Any]:
    start = StartEvent(
        t_s=begun_s - 20, wall_time_utc="2026-11-23T06:00:00Z", versions={"python": "3.12.11"}, host={"cpu": "x"},
        harness=HARNESS,
    )  # fmt: skip
    phase = PhaseEvent(phase="load", started_s=begun_s - 15, duration_s=9.0)
    if engine.dies:
        cause = "CUDA out of memory"
        return [start, EndEvent(t_s=begun_s, outcome=Outcome.OOM_LOAD, phase="load", cause=cause)]
    stop_s = begun_s + script.protocol.max_ramp_seconds + script.window_s
    asked = _closed(engine, load.concurrency, begun_s, stop_s) if load.concurrency else _open(engine, schedule, begun_s)
    if script.followed:
        course, window, requests = _followed(
            script, load, schedule, [_request(engine, schedule, workload, *times, cut_s=math.inf) for times in asked]
        )
        return [start, phase, *_beside(script, engine, window), *_ended(requests, [course, window])]
    overloaded = load.request_rate is not None and load.request_rate * engine.ttft_s > engine.slots * 0.5
    saturated = overloaded or _waits(asked, stop_s)
    if saturated:
        stop_s = begun_s + 6.0
    requests = [
        request
        for times in asked
        if times[1] <= stop_s and (request := _request(engine, schedule, workload, *times, cut_s=stop_s + 0.2))
    ]
    window = WindowEvent(
        begin_s=(begun_s + stop_s) / 2 if saturated else begun_s + RAMP_S, end_s=stop_s,
        warmup_steady=not saturated, reason="saturated" if saturated else "max_seconds",
    )  # fmt: skip
    return [start, phase, *_beside(script, engine, window), *_ended(requests, [window])]


def _ended(requests: list[RequestEvent], windows: list[Any]) -> list[Any]:
    """The requests, and what follows them in a log."""
    begun_s = min(request.scheduled_s for request in requests)
    last_s = max([windows[-1].end_s + 0.2, *(request.ended_s for request in requests)]) + 0.1
    taken = sum(sum(request.arrival_tokens) for request in requests)
    generator = GeneratorEvent(
        process=0, started_s=begun_s, ended_s=last_s, cpu_s=1.0, busy_s=0.5, longest_turn_s=1e-3, tokens=taken
    )
    return [*requests, generator, *windows, EndEvent(t_s=last_s + 0.1, outcome=Outcome.OK)]


def _followed(
    script: LoadScript, load: Serve, schedule: Schedule, requests: list[RequestEvent]
) -> tuple[CourseEvent, WindowEvent, list[RequestEvent]]:
    """The course of a load as a client follows it, and the requests that were sent until it was over, in the order of
    their ends."""
    due = sorted(requests, key=lambda request: request.scheduled_s)
    ended = sorted(requests, key=lambda request: request.ended_s)
    start_s = min(request.scheduled_s for request in requests)
    if schedule.offsets_us:
        start_s = due[0].scheduled_s - schedule.offsets_us[0] / 1e6
    course = Course(load, script.protocol, start_s, requests=schedule.requests)
    looks: list[tuple[float, int, int]] = []
    begun = over = 0
    now_s, look = start_s, course.look(start_s)
    while not look.over:
        now_s = start_s + (len(looks) + 1) * LOOK_EVERY_S
        while begun < len(due) and due[begun].scheduled_s <= now_s:
            course.sent(due[begun].scheduled_s)
            begun += 1
        while over < len(ended) and ended[over].ended_s <= now_s:
            course.finished(ended[over])
            over += 1
        looks.append((now_s, over, begun))
        look = course.look(now_s)
    assert look.window is not None
    t_s, known, sent = zip(*looks, strict=True)
    order = tuple(request.index for request in due[:begun])
    event = CourseEvent(start_s=start_s, t_s=t_s, ended=known, due=sent, order=order, drains=True, follows=True)
    return event, look.window, [request for request in ended if request.scheduled_s <= now_s]


def _beside(script: LoadScript, engine: Engine, window: WindowEvent) -> Iterable[Any]:
    """Samples of memory, and readings of the CPUs, at both ends of the window."""
    times = (window.begin_s, window.end_s)
    used = (9000 * MIB, 9100 * MIB) if script.device == "cuda" else None
    lasted_s = window.end_s - window.begin_s
    idle_s = 0.0 if engine.busy else 6.5 * lasted_s
    return [
        TelemetryEvent(t_s=times, rss_bytes=(700 * MIB, 710 * MIB), device_used_bytes=used),
        CpuEvent(reading=CpuReading(t_s=times[0], cpus=8, idle_s=0.0, own_s=0.0)),
        CpuEvent(reading=CpuReading(t_s=times[1], cpus=8, idle_s=idle_s, own_s=1.4 * lasted_s)),
    ]


_Times = tuple[int, float, float]  # index, when it was to be sent, when a slot took it


def _lasts_s(engine: Engine) -> float:
    return engine.ttft_s + engine.tpot_s * (TOKENS - 1)


def _open(engine: Engine, schedule: Schedule, begun_s: float) -> list[_Times]:
    free = [begun_s] * engine.slots
    found = []
    for index, offset in enumerate(schedule.offsets_us):
        due_s = begun_s + offset / 1e6
        taken_s = max(due_s, heapq.heappop(free))
        heapq.heappush(free, taken_s + _lasts_s(engine) * _stretch(index))
        found.append((index, due_s, taken_s))
    return found


def _closed(engine: Engine, concurrency: int, begun_s: float, stop_s: float) -> list[_Times]:
    streams = [begun_s] * concurrency
    free = [begun_s] * engine.slots
    found = []
    for index in range(100_000):
        due_s = heapq.heappop(streams)
        if due_s > stop_s:
            break
        if _refused(engine, index):
            found.append((index, due_s, due_s))
            heapq.heappush(streams, due_s + _REFUSED_AFTER_S + PAUSE_AFTER_FAILED_S)
            continue
        taken_s = max(due_s, heapq.heappop(free))
        found.append((index, due_s, taken_s))
        ended_s = _ended_s(engine, index, due_s, taken_s)
        heapq.heappush(free, ended_s)
        heapq.heappush(streams, ended_s)
    return found


def _refused(engine: Engine, index: int) -> bool:
    return bool(engine.refuses) and index % engine.refuses == engine.refuses - 1


def _waits(asked: Sequence[_Times], stop_s: float) -> bool:
    return any(taken_s - due_s > 1.0 for _, due_s, taken_s in asked if due_s < stop_s)


def _stretch(index: int) -> float:
    """How much longer than the formula a request takes: within 10 %."""
    return 1.0 + random.Random(index).random() / 10  # noqa: S311


def _arrivals(engine: Engine, index: int, due_s: float, taken_s: float) -> list[int]:
    """Microseconds after it was sent, which is when it was to be."""
    wait_s, stretch = taken_s - due_s, _stretch(index)
    return [round((wait_s + (engine.ttft_s + k * engine.tpot_s) * stretch) * 1e6) for k in range(TOKENS)]


def _ended_s(engine: Engine, index: int, due_s: float, taken_s: float) -> float:
    return due_s + _arrivals(engine, index, due_s, taken_s)[-1] / 1e6 + 1e-4


def _request(
    engine: Engine, schedule: Schedule, workload: Workload, index: int, due_s: float, taken_s: float, cut_s: float
) -> RequestEvent:
    """``cut_s``: what is in flight then is left unfinished."""
    prompt = schedule.prompt_of(index)
    ids = workload.prompts[prompt]
    at_us = _arrivals(engine, index, due_s, taken_s)
    ended_s = _ended_s(engine, index, due_s, taken_s)
    end, cause = "ok", ""
    status: int | None = 200
    sent_s: float | None = due_s
    if _refused(engine, index):
        end, status, cause, at_us = "refused", None, "no connection: Connection refused", []
        sent_s, ended_s = None, due_s + _REFUSED_AFTER_S
    elif engine.fails and index % engine.fails == 0:
        end, status, cause, at_us = "status", 500, "HTTP status 500", []
        ended_s = max(ended_s, due_s)
    elif ended_s > cut_s and taken_s - due_s > 0.5:
        at_us = [at for at in at_us if due_s + at / 1e6 < cut_s]
        end, cause, ended_s = "unfinished", "the cell ended", cut_s
    at_us = at_us[: engine.untold or None]
    tokens = len(at_us)
    return RequestEvent.model_validate({
        "index": index, "process": 0, "prompt": prompt, "prompt_digest": prompts_sha256([ids])[:16],
        "prompt_tokens": len(ids), "scheduled_s": due_s, "sent_s": sent_s, "headers_s": sent_s, "arrivals_us": at_us,
        "arrival_tokens": [1] * tokens, "ended_s": ended_s, "output_tokens": tokens, "asked_tokens": TOKENS,
        "counted_by": ("events" if engine.untold else "ids") if tokens else None,
        "output_digest": "ab" * 8 if tokens and not engine.untold else None, "end": end,
        "status": status, "cause": cause,
    })  # fmt: skip


def write_search(run: Path, script: LoadScript, engine: Engine, first: int, limit: int) -> Capacity:
    """Writes a search for the highest concurrency within the script's limits into a run, with its trials."""
    workload = Workload.parse(gzip.decompress((run / layout.WORKLOAD_FILE).read_bytes()), "workload")
    limits = script.protocol.limits
    assert limits is not None
    begun_s = BEGUN_S + 10_000
    home = run / layout.CAPACITY_FOLDER / f"{engine.image}.{engine.variant}"

    def attempt(load: float) -> LoadTrial:
        nonlocal begun_s
        number, word = len(list(home.glob("*"))) + 1, f"c{load:g}"
        folder = home / layout.trial_folder(number)
        schedule = make_schedule(load_of(word), 1, len(script.prompts), TOKENS, 60.0)
        (folder / layout.SCHEDULES_FOLDER).mkdir(parents=True)
        (folder / layout.SCHEDULES_FOLDER / f"{word}.json.gz").write_bytes(schedule.packed())
        _cell(folder, script, engine, word, schedule, workload, begun_s)
        begun_s += 1000
        cell = layout.cell_folder(folder, layout.cell_id(engine.image, engine.variant, word))
        metrics = ServeResult.read(cell / layout.RESULT_FILE).metrics
        return LoadTrial.of(load, number, Verdict.read(cell / layout.OUTCOME_FILE), metrics)

    found = search_capacity("concurrency", first, limit, attempt, window_s=script.protocol.max_serve_seconds)
    record = Capacity(
        image=engine.image, variant=engine.variant, varied="concurrency", limits=limits, conditions={}, limit=limit,
        trials=found.trials, highest=found.highest, lowest_failing=found.lowest_failing, problem=found.problem,
    )  # fmt: skip
    _put(run / layout.CAPACITY_FOLDER / f"{record.method}.json", record)
    return record


# --- changing one ---------------------------------------------------------------------------------------------------

Line = dict[str, Any]


def change_log(run: Path, cell: str, change: Callable[[list[Line]], object], *, sealed: bool = False) -> None:
    """Changes a cell's events in place; ``sealed``: and makes outcome.json name the new log."""
    folder = layout.cell_folder(run, cell)
    path = folder / layout.EVENTS_FILE
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    if sealed:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        edit(folder / layout.OUTCOME_FILE, lambda record: record.update(events_sha256=digest))


def recompute(run: Path, cell: str) -> None:
    """Makes result.json follow from the events that are there now, as somebody would who covers a change up."""
    folder = layout.cell_folder(run, cell)
    spec = CellSpec.read(folder / layout.SPEC_FILE)
    assert spec.serve is not None
    found = ServeEvents.of_lines((folder / layout.EVENTS_FILE).read_text(encoding="utf-8").splitlines(), cell)
    _put(folder / layout.RESULT_FILE, serving_result(cell, found, spec.serve.protocol.limits, spec.protocol.busy))


def edit(path: Path, change: Callable[[Line], object]) -> None:
    """Changes a JSON file in place."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
