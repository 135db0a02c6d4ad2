"""The counters of CPU time: of the cell's own processes, on the CPUs that it may use, read when no clock runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from worker_material import make_spec, make_workload, random_prompts

from bench_core.contract.adapter import Completion, Decoding, TokenSink
from bench_core.contract.asked.protocol import MeasureProtocol
from bench_core.contract.measures.cpu_use import CpuReading, cpu_use
from bench_core.contract.records.events import BatchEvent
from bench_core.contract.records.record import Record
from bench_core.system.machine import cpu_times
from bench_core.worker.engine.measure import CellRun
from bench_core.worker.sample.cpu_meter import CpuMeter, container_counter, tree_cpu_s

STAT = """\
cpu  100 0 50 900 20 5 5 30 0 0
cpu0 60 0 30 400 10 5 0 10 0 0
cpu1 40 0 20 500 10 0 5 20 0 0
cpu3 0 0 0 7 0 0 0 0 0 0
intr 12345 0 0
ctxt 999
"""
LOOP = "import time\nwhile time.process_time() < {seconds}: pass\n"  # however long that takes
# A process that burns in a child that it waits for, then in itself.
FAMILY = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {LOOP.format(seconds=0.5)!r}])
print("waited", flush=True)
while True: pass
"""


@contextmanager
def process(code: str) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def until(met: Callable[[], bool]) -> None:
    """Waits, a minute at most: where much else runs, a process may have to wait for a CPU."""
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_only_the_cpus_that_the_cell_may_use_count(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(STAT, encoding="ascii")
    ticks = os.sysconf("SC_CLK_TCK")
    both, one = cpu_times(frozenset({0, 1, 2}), stat), cpu_times(frozenset({1}), stat)
    assert both is not None
    assert one is not None
    assert (both.cpus, both.idle_s, both.steal_s) == (2, 920 / ticks, 30 / ticks)
    assert (one.cpus, one.idle_s, one.steal_s) == (1, 510 / ticks, 20 / ticks)


@pytest.mark.parametrize(
    "text", ["", "cpu  1 2 3\n", "cpu0 0 0 0 0 0 0 0 0 0 0\n", "cpu0 a b c d e f g h\n", "cpu0 1\n"]
)
def test_a_machine_that_does_not_tell_is_believed(tmp_path: Path, text: str) -> None:
    """A sandbox may show only noughts, which would look like CPUs that are never idle."""
    stat = tmp_path / "stat"
    stat.write_text(text, encoding="ascii")
    assert cpu_times(frozenset({0}), stat) is None
    assert cpu_times(frozenset({0}), tmp_path / "missing") is None
    assert CpuMeter(os.getpid(), proc=tmp_path).read() is None


@pytest.mark.alone
def test_a_process_tree_is_counted_with_what_has_ended() -> None:
    with process(FAMILY) as family:
        assert family.stdout is not None
        assert family.stdout.readline() == "waited\n"
        before = tree_cpu_s(family.pid)
        mine = Path(f"/proc/{family.pid}/stat").read_text().rpartition(")")[2].split()
        child_s = (int(mine[13]) + int(mine[14])) / os.sysconf("SC_CLK_TCK")
        assert before > child_s > 0.4, "the child that it waited for"
        until(lambda: tree_cpu_s(family.pid) > before + 0.05)
    assert tree_cpu_s(2**22 + 1) == 0.0


@pytest.mark.alone
def test_what_a_tree_runs_is_its_own_and_what_another_runs_is_not() -> None:
    """With as many loops as CPUs beside it, however busy the machine is already."""
    loops = len(os.sched_getaffinity(0)) + 1
    with process("while True: pass") as cell:
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
        try:
            meter, begin = CpuMeter(cell.pid), time.monotonic()
            first, theirs = meter.read(), sum(tree_cpu_s(other.pid) for other in others)
            began_s = tree_cpu_s(cell.pid)
            until(lambda: tree_cpu_s(cell.pid) > began_s + 0.2 and time.monotonic() > begin + 2.0)
            last, theirs = meter.read(), sum(tree_cpu_s(other.pid) for other in others) - theirs
        finally:
            for other in others:
                other.kill()
                other.wait()
    assert first is not None
    assert last is not None
    use = cpu_use(first, last)
    assert use is not None
    assert use.own_cpus * use.window_s > 0.15
    # At least what these loops got: others on the machine come on top.
    assert use.others_cpus >= theirs / use.window_s - 0.1
    assert use.own_cpus + use.others_cpus + use.idle_cpus == pytest.approx(use.cpus, abs=0.1)


def write_group(root: Path, name: str, counter: str, members: list[int]) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(counter, encoding="ascii")
    (path.parent / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in members), encoding="ascii")
    return root


@pytest.mark.parametrize(
    ("name", "counter"),
    [
        ("cpu.stat", "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n"),
        ("cpuacct/cpuacct.usage", "2500000000\n"),
        ("cpu,cpuacct/cpuacct.usage", "2500000000\n"),
    ],
)
def test_a_containers_counter_counts_where_nobody_else_is_in_it(tmp_path: Path, name: str, counter: str) -> None:
    me = os.getpid()
    read = container_counter(write_group(tmp_path / "ours", name, counter, [1, me]), me)
    assert read is not None
    assert read() == pytest.approx(2.5)
    crowd = write_group(tmp_path / "theirs", name, counter, [1, me, os.getppid()])  # a machine's own root group
    assert container_counter(crowd, me) is None
    assert container_counter(write_group(tmp_path / "empty", name, counter, []), me) is None
    assert container_counter(write_group(tmp_path / "odd", name, "x y\n", [me]), me) is None
    assert container_counter(tmp_path / "none", me) is None


class Engine:
    """Notes when it is called."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def prepare(self, *_: int) -> None: ...

    def generate(self, prompts: list[list[int]], decoding: Decoding, _sink: TokenSink) -> list[Completion]:
        self.notes.append("engine")
        return [Completion((1,) * decoding.max_new_tokens) for _ in prompts]


def test_counters_are_read_outside_of_the_clock() -> None:
    notes: list[str] = []
    events: list[Record] = []
    ticks = iter(range(1, 10_000))

    def clock() -> int:
        notes.append("clock")
        return next(ticks) * 1_000_000

    def read() -> CpuReading:
        notes.append("counters")
        return CpuReading(t_s=float(next(ticks)), cpus=2, idle_s=0.0, own_s=0.0)

    workload = make_workload(random_prompts(8))
    spec = make_spec(workload, protocol=MeasureProtocol(max_batches=2), token_times="none")  # noqa: S106  # of output
    CellRun(Engine(notes), spec, workload, clock, events.append, lambda: False, None, read).run()  # type: ignore[arg-type]
    batches = [event for event in events if isinstance(event, BatchEvent)]
    assert len(batches) == 3
    assert all(batch.cpu is not None for batch in batches)
    around = [notes[n - 2 : n + 3] for n, note in enumerate(notes) if note == "engine"]
    assert around == [["counters", "clock", "engine", "clock", "counters"]] * 3
