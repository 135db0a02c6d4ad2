"""A box starts on a GPU that is ours alone and whose memory has come back; else it waits, is refused, or is marked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pynvml
import pytest

from bench_core.contract.errors import BadInput
from bench_core.contract.records.run import GpuInfo
from bench_core.drive.ask.request import Request, Suite
from bench_core.drive.launch.processes.launcher import ProcessLauncher
from bench_core.drive.plan.plan import Plan
from bench_core.drive.run import gpu_gate, gpus
from bench_core.drive.run.execute import Execution
from bench_core.drive.run.gpu_gate import GpuGate, Occupancy, Occupant, OnBusy, look
from bench_core.drive.run.progress import Display

UUID = "GPU-1"
FREE = Occupancy((), 400 << 20, 0)
OURS_LEFT = Occupancy((), 1400 << 20, 0)
BUSY = Occupancy((Occupant(4711, "python", 12_000_000_000),), 12_400_000_000, 97)


class Card:
    """A GPU that shows one state after the other, the last for ever, on a clock of its own."""

    def __init__(self, *states: Occupancy | None) -> None:
        self.states = list(states)
        self.now_s = 0.0
        self.told: list[str] = []

    def look(self, uuid: str) -> Occupancy | None:
        assert uuid == UUID
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def gate(self, on_busy: OnBusy, wait_s: float = 60.0) -> GpuGate:
        return GpuGate(on_busy, wait_s, self.told.append, look_at=self.look, sleep=self.sleep, clock=lambda: self.now_s)


def test_a_free_gpu_is_entered_at_once_and_a_silent_one_too() -> None:
    for state in (FREE, None):
        card = Card(state)
        assert card.gate("wait").enter(UUID) == ""
        assert (card.now_s, card.told) == (0.0, [])


def test_a_busy_gpu_is_named_and_waited_for() -> None:
    card = Card(BUSY, BUSY, BUSY, FREE)
    assert card.gate("wait").enter(UUID) == ""
    assert card.now_s == 3.0
    assert card.told == ["GPU-1 is busy: process 4711 (python), 12.0 GB; waiting for at most 60 s"]


@pytest.mark.parametrize(("on_busy", "waited_s"), [("wait", 60.0), ("refuse", gpu_gate.GRACE_S)])
def test_a_gpu_that_stays_busy_is_refused(on_busy: OnBusy, waited_s: float) -> None:
    card = Card(BUSY)
    with pytest.raises(BadInput, match=r"GPU-1 is busy: process 4711 \(python\), 12.0 GB") as refused:
        card.gate(on_busy).enter(UUID)
    assert card.now_s == waited_s
    assert "--resume" in refused.value.hint


def test_an_ignored_busy_gpu_marks_the_cells() -> None:
    card = Card(BUSY)
    assert card.gate("ignore").enter(UUID) == "the GPU was busy: process 4711 (python), 12.0 GB"


def test_a_stop_ends_the_waiting() -> None:
    card = Card(BUSY)
    assert card.gate("wait", 1e9).enter(UUID, lambda: card.now_s >= 2) == ""
    assert card.now_s == 2.0


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (Occupancy((Occupant(1, "a", None),), 0, 0), "memory not told"),
        (Occupancy((Occupant(1, "mps", 30 << 20),), 1 << 20, 50), "50 % utilisation (process 1 (mps)"),
        (Occupancy((), 8 << 30, 0), "processes that NVML does not show"),
    ],
)
def test_load_and_nameless_memory_are_noticed(state: Occupancy, word: str) -> None:
    assert word in state.trouble


def test_what_disturbs_nothing_is_no_trouble() -> None:
    assert Occupancy((Occupant(1, "desktop", 100 << 20),), 700 << 20, 2).trouble == ""


def test_memory_that_has_not_come_back_marks_the_next_cells_and_only_those(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int | None]] = []

    def came_back(uuid: str, baseline: int | None) -> bool:
        asked.append((uuid, baseline))
        return len(asked) != 2

    monkeypatch.setattr(gpu_gate, "memory_came_back", came_back)
    card = Card(FREE)
    gate = card.gate("wait")
    assert gate.enter(UUID) == ""
    gate.leave(UUID, "null.a")
    card.states = [OURS_LEFT]
    assert gate.enter(UUID) == ""
    gate.leave(UUID, "null.b")
    assert gate.enter(UUID) == "1.0 GB of GPU memory had not come back after null.b"
    gate.leave(UUID, "null.c")
    assert gate.enter(UUID) == ""
    assert asked == [(UUID, FREE.used_bytes)] * 3, "the baseline is that of the beginning, not of what leaked"


def test_what_is_no_cell_must_give_memory_back_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion, the measuring of the device, the scripted engine: what they leave is not the cells' baseline."""
    baselines: list[int | None] = []
    monkeypatch.setattr(gpu_gate, "memory_came_back", lambda _, baseline: baselines.append(baseline))
    card = Card(FREE)
    gate = card.gate("wait")
    gate.begin(UUID)
    card.states = [OURS_LEFT]
    gate.leave(UUID, "the conversion to x")
    assert gate.enter(UUID) == "1.0 GB of GPU memory had not come back after the conversion to x"
    assert baselines == [FREE.used_bytes]


def test_less_than_at_the_beginning_is_the_new_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's memory that was there at first and went is not ours to leave."""
    baselines: list[int | None] = []

    def came_back(uuid: str, baseline: int | None) -> bool:
        baselines.append(baseline)
        return True

    monkeypatch.setattr(gpu_gate, "memory_came_back", came_back)
    card = Card(BUSY, BUSY, FREE)
    gate = card.gate("wait")
    gate.begin(UUID)
    assert gate.enter(UUID) == ""
    gate.leave(UUID, "null.a")
    assert baselines == [FREE.used_bytes]


def test_an_execution_settles_every_card_of_a_call() -> None:
    """What the session calls after boxes that are no cell's reaches the gate of each GPU."""
    left: list[tuple[str, str]] = []

    class Gate:
        def begin(self, uuid: str) -> None:
            left.append((uuid, "begin"))

        def leave(self, uuid: str, what: str) -> None:
            left.append((uuid, what))

    cards = [GpuInfo(uuid=f"GPU-{n}", name="N", memory_bytes=1 << 30, driver_version="1") for n in (1, 2)]
    request, nothing = Request(suite=Suite()), Plan("cuda", ())
    execution = Execution(request, nothing, ProcessLauncher(), cards, Display(), gate=cast(GpuGate, Gate()))
    execution.settle("the conversion to x")
    what = ("begin", "the conversion to x")
    assert left == [(f"GPU-{n}", word) for word in what for n in (1, 2)]


@dataclass
class _Memory:
    used: int


@dataclass
class _Process:
    pid: int
    usedGpuMemory: int | None  # noqa: N815  # NVML's name


@dataclass
class _Rates:
    gpu: int


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """NVML's answers; an exception is raised."""
    answers: dict[str, Any] = {
        "nvmlInit": None,
        "nvmlDeviceGetHandleByUUID": "handle",
        "nvmlDeviceGetMemoryInfo": _Memory(5 << 30),
        "nvmlDeviceGetComputeRunningProcesses": [_Process(os.getpid(), 4 << 30), _Process(2**22 + 1, None)],
        "nvmlDeviceGetUtilizationRates": _Rates(30),
    }

    def answer(name: str) -> Any:
        def call(*_arguments: Any) -> Any:
            if isinstance(answers[name], Exception):
                raise answers[name]
            return answers[name]

        return call

    for name in answers:
        monkeypatch.setattr(pynvml, name, answer(name))
    return answers


def test_nvmls_answers_are_read(nvml: dict[str, Any]) -> None:
    found = look(UUID)
    assert found is not None
    me = Path("/proc/self/comm").read_text().strip()
    assert found.occupants == (Occupant(os.getpid(), me, 4 << 30), Occupant(2**22 + 1, "name not readable", None))
    assert (found.used_bytes, found.utilisation_percent) == (5 << 30, 30)


def test_what_nvml_does_not_tell_is_left_out(nvml: dict[str, Any]) -> None:
    nvml["nvmlDeviceGetComputeRunningProcesses"] = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    nvml["nvmlDeviceGetUtilizationRates"] = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert look(UUID) == Occupancy((), 5 << 30, None)
    nvml["nvmlDeviceGetHandleByUUID"] = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
    assert look(UUID) is None


def test_memory_is_polled_until_it_is_back_or_the_limit_is_over(
    nvml: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("bench_core.drive.run.gpus.time.monotonic", lambda: clock[0])

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] > 2:
            nvml["nvmlDeviceGetMemoryInfo"] = _Memory(1 << 30)

    monkeypatch.setattr("bench_core.drive.run.gpus.time.sleep", sleep)
    assert gpus.memory_came_back(UUID, 1 << 30)
    assert 2 < clock[0] < 3
    assert not gpus.memory_came_back(UUID, 1 << 20)
