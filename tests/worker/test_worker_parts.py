"""The worker's parts: what it refuses, what a failure means, what it keeps of a log, what it samples."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from worker_material import make_spec, make_workload, random_prompts

from bench_core.contract.adapter import Completion, Decoding
from bench_core.contract.errors import BadInput
from bench_core.contract.records.events import Arrivals, EndEvent, StartEvent
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.system.cell_writer import CellWriter
from bench_core.system.files import write_text
from bench_core.system.nvml import GpuReader
from bench_core.worker.engine.failure import classify
from bench_core.worker.engine.guard import ContractBroken, PromptRefused, check_arrivals, check_prompts, checked_outputs
from bench_core.worker.engine.measure import StopRequested
from bench_core.worker.sample.sampler import Sampler, descendants, rss_bytes
from bench_core.worker.supervise import log as log_module
from bench_core.worker.supervise.log import EngineLog

MIB = 1024 * 1024

# Guard.


def test_a_good_batch_passes() -> None:
    check_prompts([[0, 319], [5]], 2, 2, 320)


@pytest.mark.parametrize(
    ("prompts", "cause"),
    [
        ([[1]], "1 prompts for a batch size of 2"),
        ([[1], [2], [3]], "3 prompts for a batch size of 2"),
        ([[1], []], "row 1: the prompt is empty"),
        ([[1, 2, 3], [1]], "row 0: 3 prompt tokens, prepared for at most 2"),
        ([[1], [320]], "row 1: a token id is outside 0..319"),
        ([[-1], [1]], "row 0: a token id is outside 0..319"),
    ],
)
def test_a_batch_that_no_engine_should_see_is_refused_by_row(prompts: list[list[int]], cause: str) -> None:
    with pytest.raises(PromptRefused) as caught:
        check_prompts(prompts, 2, 2, 320)
    assert str(caught.value) == cause


FORCED = Decoding(3)
NATURAL = Decoding(3, eos_token_ids=(2, 9))


@pytest.mark.parametrize(
    ("decoding", "rows"),
    [
        (FORCED, [[1, 2, 3], [9, 9, 9]]),  # an end-of-sequence id is a token like any other
        (NATURAL, [[1, 1, 1], [2], [1, 9], [1, 1, 2]]),
    ],
)
def test_outputs_as_promised_pass_as_plain_integers(decoding: Decoding, rows: list[list[int]]) -> None:
    outputs = checked_outputs([Completion(row) for row in rows], len(rows), decoding, 320)
    assert outputs == tuple(tuple(row) for row in rows)


@pytest.mark.parametrize(
    ("decoding", "rows", "cause"),
    [
        (FORCED, [[1, 2, 3]], "1 completions for 2 prompts"),
        (FORCED, [[1, 2, 3]] * 3, "3 completions for 2 prompts"),
        (FORCED, [[1, 2, 3], [1, 2]], "row 1: 2 output tokens instead of exactly 3"),
        (FORCED, [[1, 2, 3, 4], [1, 2, 3]], "row 0: 4 output tokens instead of exactly 3"),
        (FORCED, [[1, 2, 3], []], "row 1: 0 output tokens instead of exactly 3"),
        (NATURAL, [[2], []], "row 1: 0 output tokens, allowed are 1 to 3"),
        (NATURAL, [[1, 1, 1, 2], [2]], "row 0: 4 output tokens, allowed are 1 to 3"),
        (FORCED, [[1, 2, 320], [1, 2, 3]], "row 0: an output id is outside 0..319"),
        (FORCED, [[1, 2, 3], [-1, 2, 3]], "row 1: an output id is outside 0..319"),
        (NATURAL, [[1, 2, 1], [2]], "row 0: goes on after an end-of-sequence token"),
        (NATURAL, [[9], [2, 2]], "row 1: goes on after an end-of-sequence token"),
        (NATURAL, [[1, 1], [2]], "row 0: ends after 2 tokens without an end-of-sequence token"),
    ],
)
def test_outputs_that_break_the_promise_are_refused_by_row(
    decoding: Decoding, rows: list[list[int]], cause: str
) -> None:
    with pytest.raises(ContractBroken) as caught:
        checked_outputs([Completion(row) for row in rows], 2, decoding, 320)
    assert str(caught.value) == cause


def test_an_output_id_that_is_no_whole_number_is_refused() -> None:
    with pytest.raises(TypeError):
        checked_outputs([Completion([1.0, 2.0, 3.0])], 1, FORCED, 320)  # type: ignore[list-item]  # the point


@pytest.mark.parametrize(
    ("offsets", "cause"),
    [
        (None, "reported no token times"),
        (((1, 2), (1,)), "row 1: 1 token times for 2 output tokens"),
        (((1, 2, 3), (1, 2)), "row 0: 3 token times for 2 output tokens"),
        (((1, 2), (5, 4)), "row 1: token times run backwards"),
    ],
)
def test_token_times_that_cannot_be_are_refused_by_row(offsets: tuple[tuple[int, ...], ...] | None, cause: str) -> None:
    arrivals = None if offsets is None else Arrivals(source="worker", shared=False, offsets_us=offsets)
    with pytest.raises(ContractBroken) as caught:
        check_arrivals(arrivals, [[7, 7], [7, 7]])
    assert cause in str(caught.value)


def test_tokens_of_one_moment_are_fine() -> None:
    check_arrivals(Arrivals(source="worker", shared=True, offsets_us=((3, 3),)), [[7, 7], [7, 7]])


# What a failure means.


class Knows:
    """An adapter that knows its engine's errors."""

    def __init__(self, answer: Outcome | None) -> None:
        self.answer = answer

    def classify(self, error: BaseException) -> Outcome | None:
        return self.answer


@pytest.mark.parametrize(
    ("error", "phase", "answer", "outcome"),
    [
        (RuntimeError("x"), "start", None, Outcome.LOAD_FAILED),
        (RuntimeError("x"), "load", None, Outcome.LOAD_FAILED),
        (RuntimeError("x"), "prepare", None, Outcome.GENERATE_FAILED),
        (RuntimeError("x"), "measure", None, Outcome.GENERATE_FAILED),
        (MemoryError(), "load", None, Outcome.OOM_LOAD),
        (MemoryError(), "prepare", None, Outcome.OOM_KV),
        (RuntimeError("x"), "load", Outcome.OOM_KV, Outcome.OOM_LOAD),
        (RuntimeError("x"), "warmup", Outcome.OOM_LOAD, Outcome.OOM_KV),
        (RuntimeError("x"), "measure", Outcome.OOM_KV, Outcome.OOM_KV),
        (RuntimeError("x"), "load", Outcome.UNSUPPORTED, Outcome.UNSUPPORTED),
        (RuntimeError("x"), "prepare", Outcome.UNSUPPORTED, Outcome.UNSUPPORTED),
        (ContractBroken("row 0"), "measure", None, Outcome.GENERATE_FAILED),
        # What the worker itself refuses is not the engine's failure, whatever the adapter would say of it.
        (PromptRefused("row 0"), "measure", Outcome.OOM_KV, Outcome.BAD_SPEC),
        (BadInput("cause"), "load", Outcome.OOM_KV, Outcome.BAD_SPEC),
        (StopRequested(), "measure", Outcome.OOM_KV, Outcome.KILLED),
    ],
)
def test_an_exception_becomes_an_outcome(
    error: Exception, phase: str, answer: Outcome | None, outcome: Outcome
) -> None:
    found, cause = classify(error, phase, Knows(answer))  # type: ignore[arg-type]  # only its classify is asked
    assert found is outcome
    assert cause
    assert "\n" not in cause


def test_without_an_adapter_an_exception_is_still_an_outcome() -> None:
    assert classify(ImportError("no engine\nhere"), "start", None) == (
        Outcome.LOAD_FAILED, "ImportError: no engine",
    )  # fmt: skip
    assert classify(MemoryError("m"), "start", None)[0] is Outcome.OOM_LOAD


# worker.log.


class Pipe:
    """An engine's end of the log."""

    def __init__(self, echo: BinaryIO) -> None:
        read, self.write_end = os.pipe()
        self.log = EngineLog(read, echo)

    def print(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.write_end, view) :]

    def end(self) -> str:
        os.close(self.write_end)
        self.log.join()
        return self.log.cell_text()

    def until(self, condition: Callable[[str], bool]) -> None:
        """Waits for what the draining thread has read."""
        deadline = time.monotonic() + 10
        while not condition(self.log.cell_text()):
            assert time.monotonic() < deadline, "the log was not drained"
            time.sleep(0.001)


@pytest.fixture
def echo() -> io.BytesIO:
    return io.BytesIO()


def test_ten_thousand_lines_are_kept_and_echoed(echo: io.BytesIO) -> None:
    pipe = Pipe(echo)
    printed = b"".join(b"line %d of an engine that likes to talk\n" % number for number in range(10_000))
    pipe.log.begin_cell()
    pipe.print(printed)
    assert pipe.end().encode() == printed
    assert echo.getvalue() == printed


def test_fifty_megabytes_without_a_line_end_neither_block_nor_fill_memory(echo: io.BytesIO) -> None:
    pipe = Pipe(echo)
    pipe.log.begin_cell()
    before = rss_bytes([os.getpid()]) or 0
    for _ in range(50):
        pipe.print(b"x" * MIB)
    after = rss_bytes([os.getpid()]) or 0
    text = pipe.end()
    assert (
        text
        == "x" * log_module.MAX_BYTES + f"\n[{50 * MIB - log_module.MAX_BYTES} more bytes were printed and not kept]\n"
    )
    assert len(echo.getvalue()) == log_module.MAX_BYTES
    assert after - before < 40 * MIB


def test_bytes_that_are_no_text_are_shown_as_escapes(echo: io.BytesIO) -> None:
    pipe = Pipe(echo)
    pipe.print(b"caf\xc3\xa9 \xff\xfe\x00 end")
    assert pipe.end() == "café \\xff\\xfe\x00 end"


def test_what_was_printed_while_loading_heads_the_log_of_every_cell(echo: io.BytesIO) -> None:
    pipe = Pipe(echo)
    pipe.print(b"loading\n")
    pipe.log.begin_cell()
    pipe.print(b"first cell\n")
    assert pipe.log.cell_text() == "loading\nfirst cell\n"
    pipe.log.begin_cell()
    pipe.print(b"second cell\n")
    assert pipe.end() == "loading\nsecond cell\n"


class Gone(io.BytesIO):
    """Standard error of a worker whose reader has gone."""

    def write(self, data: object) -> int:
        raise BrokenPipeError


def test_an_engine_is_drained_even_if_nobody_reads_the_echo() -> None:
    pipe = Pipe(Gone())
    printer = threading.Thread(target=pipe.print, args=(b"y" * MIB,), daemon=True)  # more than a pipe holds
    printer.start()
    printer.join(timeout=10)
    assert not printer.is_alive(), "the engine hangs in its own print"
    assert pipe.end() == "y" * MIB


# Sampling.


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that takes 100 MB when it is sent a line, and says so."""
    code = (
        "import sys\nsys.stdout.write('up\\n'); sys.stdout.flush(); sys.stdin.readline()\n"
        "held = b'x' * 100_000_000\nsys.stdout.write('held\\n'); sys.stdout.flush(); sys.stdin.readline()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    yield process
    process.kill()
    process.communicate()


def grow(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"held\n"


def test_a_process_that_takes_100_mb_is_seen_to_take_them(child: subprocess.Popen[bytes]) -> None:
    sampler = Sampler(child.pid, None)
    sampler.sample()
    grow(child)
    sampler.sample()
    event = sampler.take()
    assert event is not None
    before, after = event.rss_bytes
    assert before is not None
    assert after is not None
    assert 100_000_000 <= after - before < 110_000_000
    assert event.t_s[0] < event.t_s[1]
    assert event.device_used_bytes is None


def test_samples_are_taken_once(child: subprocess.Popen[bytes]) -> None:
    sampler = Sampler(child.pid, None)
    assert sampler.take() is None
    sampler.sample()
    assert sampler.take() is not None
    assert sampler.take() is None


def test_sampling_goes_on_by_itself_until_stopped(child: subprocess.Popen[bytes]) -> None:
    sampler = Sampler(child.pid, None)
    sampler.start()
    time.sleep(0.5)
    sampler.stop()
    event = sampler.take()
    assert event is not None
    assert 3 <= len(event.t_s) <= 11  # every 50 ms, on a machine that may be busy
    assert sampler.take() is None


def test_a_process_that_has_gone_has_no_memory_and_stops_no_sampler(child: subprocess.Popen[bytes]) -> None:
    sampler = Sampler(child.pid, None)
    child.kill()
    child.wait()
    sampler.sample()
    event = sampler.take()
    assert event is not None
    assert event.rss_bytes == (None,)


def test_children_of_children_count() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        family = descendants(process.pid)
        assert len(family) == 2
        assert (rss_bytes(family) or 0) > (rss_bytes([process.pid]) or 0)
    finally:
        process.communicate(b"\n")


def test_a_process_that_ends_while_it_is_looked_at_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(os, "listdir", gone)
    monkeypatch.setattr(os, "scandir", gone)
    assert descendants(os.getpid()) == [os.getpid()]


class DeafGpu(GpuReader):
    """A GPU that answers some questions."""

    def __init__(self) -> None:
        """Opens nothing."""

    def used_bytes(self) -> int | None:
        return 7

    power_w = sm_clock_mhz = memory_clock_mhz = temperature_c = utilisation_percent = throttle_reasons = lambda self: (
        None
    )

    def energy_mj(self) -> int | None:
        return None


def test_a_gpu_that_does_not_answer_leaves_gaps_not_noughts() -> None:
    sampler = Sampler(os.getpid(), DeafGpu())
    sampler.sample()
    event = sampler.take()
    assert event is not None
    assert event.device_used_bytes == (7,)
    assert event.power_w == event.energy_mj == event.throttle_reasons == (None,)


# Files.


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    write_text(path, "old")
    write_text(path, "new \udcff")
    assert path.read_text() == "new \\udcff"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.json"
    write_text(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_a_verdict_of_ok_stands_only_if_the_log_on_disk_gives_a_result(tmp_path: Path) -> None:
    spec = make_spec(make_workload(random_prompts()))
    writer = CellWriter(tmp_path, spec)
    writer.event(StartEvent(t_s=1.0, wall_time_utc="x", versions={}, host={}))
    writer.event(EndEvent(t_s=2.0, outcome=Outcome.OK))
    verdict = writer.end(Verdict(outcome=Outcome.OK, judged_by="worker"), "log")
    assert verdict.outcome is Outcome.CRASHED
    assert "no measured batch" in verdict.cause
    assert Verdict.read(writer.folder / "outcome.json") == verdict
    assert not (writer.folder / "result.json").exists()
