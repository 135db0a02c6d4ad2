"""``python tests/drive/benchmark_view.py [SECONDS]``: what following a run takes of one CPU, beside rich's own bar.

Another process writes the event log of a cell as an engine would that ends a batch at the given rate. Each side has a
process of its own, whose whole CPU time counts.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress as Bar

from bench_core.contract.asked.scenario import Offline
from bench_core.contract.records import layout
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.events import Progress
from bench_core.contract.records.run import PlannedCell
from bench_core.contract.records.workload import Workload
from bench_core.drive.show.display import FollowedDisplay
from bench_core.drive.show.follow import Follower
from bench_core.drive.show.outline import Outline
from bench_core.drive.show.terminal import Terminal


class Engine(NamedTuple):
    """What writes the log."""

    words: str
    rows: int
    tokens: int
    batches_per_s: float


ENGINES = (
    Engine("batch size 64, 200 tokens, 3 batches/s (a fast GPU)", 64, 200, 3.0),
    Engine("batch size 1, 64 tokens, 5 batches/s", 1, 64, 5.0),
    Engine("batch size 1, 8 tokens, 200 batches/s", 1, 8, 200.0),
)


def batch(engine: Engine, index: int) -> bytes:
    """A line of the log."""
    rows = engine.rows
    offsets = [[20_000 + 5_000 * k for k in range(engine.tokens)] for _ in range(rows)]
    event = {
        "type": "batch", "phase": "measure", "index": index, "prompts": [*range(rows)], "prompts_digest": "d" * 64,
        "prompt_tokens": [100 + index % 7] * rows, "started_s": index / engine.batches_per_s,
        "latency_s": (0.9 + index % 5 / 100) / engine.batches_per_s, "outputs": [[12_345] * engine.tokens] * rows,
        "arrivals": {"source": "worker", "shared": False, "offsets_us": offsets},
    }  # fmt: skip
    return json.dumps(event).encode() + b"\n"


def write_log(engine: Engine, log: Path, seconds: float) -> None:
    """Writes as long as the sides look."""
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = [batch(engine, index) for index in range(50)]
    began_s = time.monotonic()
    with log.open("wb", buffering=0) as stream:
        index = 0
        while (now_s := time.monotonic() - began_s) < seconds:
            while index < now_s * engine.batches_per_s:
                stream.write(lines[index % len(lines)])
                index += 1
            time.sleep(0.05)


def news(engine: Engine, seconds: float, take: Callable[[Progress], None]) -> None:
    """What a worker tells of each batch."""
    began_s, index = time.monotonic(), 0
    while (now_s := time.monotonic() - began_s) < seconds:
        while index < now_s * engine.batches_per_s:
            index += 1
            take(Progress(cell="one.two.b1", phase="measure", done=index, of=10**6))
        time.sleep(0.05)


def _terminal() -> Console:
    return Console(file=Path(os.devnull).open("w", encoding="utf-8"), force_terminal=True, width=120, height=40)


def nothing(engine: Engine, _folder: Path, seconds: float) -> None:
    """The news alone."""
    news(engine, seconds, lambda _: None)


def bar(engine: Engine, _folder: Path, seconds: float) -> None:
    """rich's bar, which draws itself ten times a second and reads no log."""
    with Bar(console=_terminal()) as shown:
        task = shown.add_task("one.two.b1", total=10**6)
        news(engine, seconds, lambda one: shown.update(task, completed=one.done))


def view(engine: Engine, folder: Path, seconds: float, *, on_cpu: bool) -> None:
    """The view of a run."""
    outline = Outline(folder, "", cells={"one.two.b1": seconds}, on_cpu=on_cpu)
    display = FollowedDisplay(outline, None)
    display.follower = Follower(outline, Terminal(_terminal()), None)
    scenario = Offline(batch_size=engine.rows)
    planned = PlannedCell(image="one", variant="two", scenario=scenario, cell="one.two.b1", label="one")
    workload = Workload(
        name="none",
        tokenizer="none",
        max_prompt_tokens=1,
        truncated=0,
        dropped_empty=0,
        duplicates=0,
        prompts=((1,),),
        digest=prompts_sha256([[1]]),
    )
    with display:
        display.measures(folder, workload, [planned])
        news(engine, seconds, display.progress)


def view_on_gpu(engine: Engine, folder: Path, seconds: float) -> None:
    """As of a run on a GPU."""
    view(engine, folder, seconds, on_cpu=False)


def view_on_cpu(engine: Engine, folder: Path, seconds: float) -> None:
    """As of a run on a CPU."""
    view(engine, folder, seconds, on_cpu=True)


def _side(side: Callable[[Engine, Path, float], None], engine: Engine, seconds: float, told: object) -> None:
    with tempfile.TemporaryDirectory() as home:
        log = Path(home) / layout.CELLS_FOLDER / "one.two.b1" / layout.EVENTS_FILE
        writer = multiprocessing.get_context("spawn").Process(target=write_log, args=(engine, log, seconds + 2))
        writer.start()
        while not log.exists():
            time.sleep(0.01)
        before_s = time.process_time()
        side(engine, Path(home), seconds)
        told.put(time.process_time() - before_s)  # type: ignore[attr-defined]
        writer.terminate()
        writer.join()


def main() -> None:
    """Prints a line for each engine and side."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    context = multiprocessing.get_context("spawn")
    for engine in ENGINES:
        sys.stdout.write(f"{engine.words}, {seconds:g} s each\n")
        for side in (nothing, bar, view_on_gpu, view_on_cpu):
            told = context.Queue()
            process = context.Process(target=_side, args=(side, engine, seconds, told))
            process.start()
            share = told.get() / seconds
            process.join()
            sys.stdout.write(f"  {side.__name__:12} {share:7.2%} of one CPU\n")
            sys.stdout.flush()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
