"""Makes a run of any size as the scripted engine would leave it, from a seed.

For benchmarks of what reads runs, and for trials of what compares them:

    PYTHONPATH=. python tests/report/make_large_run.py FOLDER --cells 5000 --batches 100 --seed 1

Batches have the scripted times with a noise that neighbouring batches share, and with a factor that a whole cell has of
its own, since a process differs from start to start. Both are drawn from the seed. All files are there that a driver
and its workers write, so that ``verify`` finds nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from report_runs import GIB, GPU, HOST, MIB, MODEL

from bench_core.contract.asked.protocol import MeasureProtocol
from bench_core.contract.asked.scenario import Offline
from bench_core.contract.measures.cell import CellEvents, summarise
from bench_core.contract.records import layout
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.events import parse_events
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.contract.records.record import Record
from bench_core.contract.records.run import GpuInfo, ImageInfo, PlannedCell, RunRecord, VisitInfo
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import Workload

IMAGE = "null"
SIZES = (1, 2, 4, 8)
NEW_TOKENS = 8
TTFT_S, TPOT_S = 0.02, 0.005
PROMPT_TOKENS = (8, 16)  # the shortest and the longest
_HARNESS = "4b" * 32
_LIKE_ITS_NEIGHBOUR = 0.3  # correlation of neighbouring batches' noise
_PAUSE_S = 0.001


@dataclass(frozen=True)
class Noise:
    """How measured times differ from the script, as shares of a batch's latency.

    Attributes:
        batches: standard deviation between batches.
        cells: between cells of the same script: all batches of one share it.
        slower: how much longer everything takes.
    """

    batches: float = 0.004
    cells: float = 0.001
    slower: float = 0.0


QUIET = Noise()


def make_large_run(
    folder: Path,
    cells: int,
    batches: int,
    seed: int,
    *,
    noise: Noise = QUIET,
    repeats: int = 1,
    gpu: GpuInfo | None = GPU,
    version: str = "1.0",
) -> None:
    """Writes a run of ``cells`` cells with ``batches`` measured batches each into ``folder``, which must not be there.

    Args:
        seed: of noise alone: runs of different seeds are of the same cells and the same prompts.
        repeats: how often each cell is measured; ``cells`` counts cells without their repeats.
        gpu: where it was measured; ``None``: on the CPU.
        version: of the engine.
    """
    folder.mkdir(parents=True)
    workload = _workload(max(SIZES) * batches)
    (folder / layout.WORKLOAD_FILE).write_bytes(workload.packed())
    planned = [
        PlannedCell(
            cell=layout.cell_id(IMAGE, variant, f"b{size}", repeat), image=IMAGE, variant=variant, repeat=repeat,
            scenario=Offline(batch_size=size), label=f"null {variant}",
        )
        for repeat in range(1, repeats + 1)
        for variant, size in _grid(cells)
    ]  # fmt: skip
    record = _record(folder.name, workload, planned, repeats, gpu)
    _put(folder / layout.RUN_FILE, record)
    digests = {size: _digests(workload, size, batches) for size in SIZES}
    for number, cell in enumerate(planned):
        writer = _Cell(record, workload, cell, digests[cell.batch_size], 1000.0 + number * 100.0 * (1 + batches))
        writer.write(folder, batches, noise, random.Random(f"{seed}/{cell.cell}"), version)  # noqa: S311


def _grid(cells: int) -> Iterator[tuple[str, int]]:
    for number in range(cells):
        yield f"v{number // len(SIZES) + 1:05d}", SIZES[number % len(SIZES)]


def _workload(prompts: int) -> Workload:
    rng = random.Random("prompts")  # noqa: S311
    made = tuple(
        tuple(rng.randrange(3, MODEL.vocab_size) for _ in range(rng.randint(*PROMPT_TOKENS))) for _ in range(prompts)
    )
    return Workload(
        name="embedded", tokenizer="byte-level", max_prompt_tokens=64, truncated=0, dropped_empty=0, duplicates=0,
        digest=prompts_sha256(made), prompts=made,
    )  # fmt: skip


def _digests(workload: Workload, size: int, batches: int) -> list[str]:
    return [prompts_sha256(workload.prompts[k * size : (k + 1) * size]) for k in range(batches)]


def _record(
    run_id: str, workload: Workload, planned: list[PlannedCell], repeats: int, gpu: GpuInfo | None
) -> RunRecord:
    device: Literal["cuda", "cpu"] = "cuda" if gpu is not None else "cpu"
    image = ImageInfo(reference=f"llm-bench/{IMAGE}:{device}", id="sha256:" + "c0ffee" * 10 + "c0ff", recipe="12" * 32)
    facts: dict[str, Any] = {
        "bench_version": "0.2.0", "git_commit": "01" * 20, "launcher": "docker", "host": HOST,
        "gpus": (gpu,) if gpu is not None else (), "images": {IMAGE: image},
    }  # fmt: skip
    visit = VisitInfo(
        started_utc="2026-11-23T06:00:00Z", harness=_HARNESS, cells=tuple(cell.cell for cell in planned), **facts
    )
    return RunRecord(
        run_id=run_id, created_utc="2026-11-23T06:00:00Z", device=device, model=MODEL, workload=workload.reference,
        max_new_tokens=NEW_TOKENS, length="forced", cells=tuple(planned), visits=(visit,), repeats=repeats, **facts,
    )  # fmt: skip


def _put(path: Path, record: Record) -> None:
    path.write_text(record.to_json(), encoding="utf-8")


@dataclass(frozen=True)
class _Cell:
    """One cell to write. ``begun_s``: when its log begins; no two of a run overlap."""

    record: RunRecord
    workload: Workload
    planned: PlannedCell
    digests: list[str]
    begun_s: float

    def write(self, run: Path, batches: int, noise: Noise, rng: random.Random, version: str) -> None:
        """Its folder with all files."""
        folder = layout.cell_folder(run, self.planned.cell)
        folder.mkdir(parents=True)
        _put(folder / layout.SPEC_FILE, self._spec())
        lines = [json.dumps(event, separators=(",", ":")) for event in self._events(batches, noise, rng, version)]
        text = "".join(f"{line}\n" for line in lines)
        (folder / layout.EVENTS_FILE).write_text(text, encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        _put(
            folder / layout.OUTCOME_FILE,
            Verdict(outcome=Outcome.OK, judged_by="worker", exit_code=0, events_sha256=digest),
        )
        events = CellEvents()
        for event in parse_events(lines, layout.EVENTS_FILE):
            events.add(event)
        _put(folder / layout.RESULT_FILE, summarise(self.planned.cell, events))

    @property
    def _gpu(self) -> GpuInfo | None:
        return self.record.gpus[0] if self.record.gpus else None

    def _spec(self) -> CellSpec:
        planned, record = self.planned, self.record
        return CellSpec(
            image=planned.image, variant=planned.variant, label=planned.label, batching="native", token_times="live",  # noqa: S106
            scenario=planned.scenario, repeat=planned.repeat, device=record.device,
            gpu_uuid=self._gpu.uuid if self._gpu is not None else None, threads=16, model=record.model, artifact="none",
            artifact_digest=None, options={"ttft_s": TTFT_S, "tpot_s": TPOT_S}, workload=record.workload,
            max_new_tokens=record.max_new_tokens, length=record.length,
            protocol=MeasureProtocol(max_warmup_batches=1, precision=None),
        )  # fmt: skip

    def _events(self, batches: int, noise: Noise, rng: random.Random, version: str) -> Iterator[dict[str, Any]]:
        now = self.begun_s
        yield {
            "type": "start", "version": 1, "t_s": now, "wall_time_utc": "2026-11-23T06:00:00Z",
            "versions": {"python": "3.12.11", IMAGE: version}, "host": {"cpu": HOST.cpu}, "harness": _HARNESS,
        }  # fmt: skip
        yield self._sample(now + 0.1, MIB * 200)
        for phase, lasts_s in (("load", 1.0), ("prepare", 0.5)):
            now += 0.2
            yield {"type": "phase", "phase": phase, "started_s": now, "duration_s": lasts_s}
            now += lasts_s
            yield self._sample(now, GIB)
        longer = (1 + noise.slower) * math.exp(rng.gauss(0.0, noise.cells))
        fresh = noise.batches * math.sqrt(1 - _LIKE_ITS_NEIGHBOUR**2)
        beside = rng.gauss(0.0, noise.batches)
        for number in range(batches + 1):  # the first is the warm-up
            phase, index, place = ("measure", number - 1, number - 1) if number else ("warmup", 0, batches - 1)
            now += _PAUSE_S
            event = self._batch(phase, index, place, now, longer * math.exp(beside))
            beside = _LIKE_ITS_NEIGHBOUR * beside + rng.gauss(0.0, fresh)
            now += event["latency_s"]
            yield event
            yield self._sample(now, GIB + MIB * self.planned.batch_size)
        yield {"type": "phase", "phase": "close", "started_s": now + _PAUSE_S, "duration_s": 0.01}
        yield {"type": "end", "t_s": now + 0.1, "outcome": "ok"}

    def _batch(self, phase: str, index: int, place: int, now: float, longer: float) -> dict[str, Any]:
        size = self.planned.batch_size
        rows = range(place * size, (place + 1) * size)
        offsets = [round((TTFT_S + k * TPOT_S) * longer * 1e6) for k in range(NEW_TOKENS)]
        return {
            "type": "batch", "phase": phase, "index": index, "prompts": [*rows], "prompts_digest": self.digests[place],
            "prompt_tokens": [len(self.workload.prompts[row]) for row in rows], "started_s": round(now, 9),
            "latency_s": offsets[-1] / 1e6 + 1e-5,
            "outputs": [[3 + (row + k) % 250 for k in range(NEW_TOKENS)] for row in rows],
            "arrivals": {"source": "worker", "shared": True, "offsets_us": [offsets]},
        }  # fmt: skip

    def _sample(self, now: float, used_bytes: int) -> dict[str, Any]:
        event: dict[str, Any] = {"type": "telemetry", "t_s": [round(now, 9)], "rss_bytes": [used_bytes]}
        if self._gpu is not None:
            energy_mj = round((now - self.begun_s) * 300_000)
            event |= {"device_used_bytes": [used_bytes * 10], "power_w": [300.0], "energy_mj": [energy_mj]}
        return event


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make a run as the scripted engine would leave it, of any size.")
    parser.add_argument("folder", type=Path, help="of the run; must not be there")
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--batches", type=int, default=100, help="measured batches of each cell")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slower", type=float, default=0.0, help="how much longer everything takes: 0.05 for 5 %%")
    given = parser.parse_args()
    make_large_run(given.folder, given.cells, given.batches, given.seed, noise=Noise(slower=given.slower))


if __name__ == "__main__":
    main()
