"""The worker from its command line to its files, with the scripted engine: good runs, every failure, every bad word."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from worker_material import FAST, MODEL, NULL_IMAGE, Place, make_workload, random_prompts, require_evidence, write_image

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.asked.protocol import MeasureOptions, Timeouts
from bench_core.contract.asked.read_manifest import ReadManifest
from bench_core.contract.asked.scenario import Offline
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.records import layout
from bench_core.contract.records.artifact import ArtifactRecord
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.events import BatchEvent, CellEnded, EndEvent, StartEvent, parse_stdout
from bench_core.contract.records.outcome import EXIT_MACHINE, Outcome
from bench_core.contract.records.run import RunRecord
from bench_core.contract.records.spec import Assignment, CellSpec, plan_cells
from bench_core.contract.records.workload import Workload
from bench_core.contract.serving.cell import CapacityAsk, ServePlan
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.protocol import Limits, ServeProtocol
from bench_core.worker import cli, resolve
from bench_core.worker.engine.failure import classify
from bench_core.worker.launch import planned_parser
from bench_core.worker.resolve import Places
from bench_core.worker.supervise.supervisor import Supervisor

ROOT = Path(__file__).resolve().parents[2]
COMPLETE = set(layout.CELL_FILES)
WITHOUT_RESULT = COMPLETE - {layout.RESULT_FILE}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.prepared(tmp_path)


def test_a_good_run_leaves_whole_cells_that_can_be_recomputed(place: Place) -> None:
    ran = place.run(*FAST, "--batch-size", "1,4", "--batch-size", "16", "--max-batches", "3", "--run-id", "r")
    assert ran.code == 0, ran.err
    prompts = random_prompts()
    for batch_size, measured in ((1, 3), (4, 3), (16, 1)):
        cell = place.cell("r", f"null.scripted.b{batch_size}")
        assert cell.files == COMPLETE
        assert cell.spec.batch_size == batch_size
        assert cell.verdict.outcome is Outcome.OK
        assert cell.result == cell.recomputed()
        assert cell.result.metrics.batches == measured
        assert cell.result.metrics.output_tokens == measured * batch_size * 4
        assert cell.result.metrics.host_memory is not None
        assert cell.result.versions["python"]
        events = cell.events()
        assert isinstance(events[0], StartEvent)
        assert isinstance(events[-1], EndEvent)
        for batch in events:
            if isinstance(batch, BatchEvent):
                assert batch.prompts_digest == prompts_sha256([prompts[row] for row in batch.prompts])
    said = [parse_stdout(json.dumps(line)) for line in ran.lines()]
    assert [line.outcome for line in said if isinstance(line, CellEnded)] == [Outcome.OK] * 3
    assert None not in said
    assert not (place.results / "r" / layout.RUN_FILE).exists(), "run.json of a named run is the driver's to write"


def test_what_is_measured_is_never_faster_than_the_script_and_not_of_another_unit(place: Place) -> None:
    script = ("--option", "ttft_s=0.02", "--option", "tpot_s=0.005", "--option", "load_s=0.1", "--max-new-tokens", "5")
    assert place.run(*script, "--batch-size", "2", "--run-id", "r", "--max-batches", "5").code == 0
    found = place.cell("r", "null.scripted.b2").result.metrics
    assert found.ttft_s is not None
    assert found.tpot_s is not None
    assert found.load_s is not None
    # The upper bounds are wide, as the machine may be busy; the harness's true error is measured elsewhere.
    assert 0.019999 <= found.ttft_s.min <= found.ttft_s.median < 0.03
    # What makes a first token late on a busy machine is taken from the times of those behind it, which are on time.
    assert found.ttft_s.mean + 4 * found.tpot_s.mean >= 0.039999
    assert 0.002 <= found.tpot_s.median < 0.01
    assert found.batch_latency_s.min >= 0.04
    assert 10 / 0.08 < found.output_throughput_tok_s <= 10 / 0.04
    assert 0.1 <= found.load_s < 1.0


def test_memory_that_the_engine_holds_is_seen(place: Place) -> None:
    held = ("--option", "load_bytes=80000000", "--option", "kv_bytes_per_token=1000000", "--run-id", "r")
    place = Place.prepared(place.root / "short", [[5] * 10, [6] * 10])
    assert place.run(*FAST, *held, "--batch-size", "2").code == 0
    memory = place.cell("r", "null.scripted.b2").result.metrics.host_memory
    assert memory is not None
    assert memory.after_load_bytes is not None
    assert memory.after_prepare_bytes is not None
    assert 28_000_000 <= memory.after_prepare_bytes - memory.after_load_bytes < 40_000_000  # 2 x (10 + 4) tokens
    assert memory.peak_bytes is not None
    assert memory.peak_bytes >= memory.after_prepare_bytes > 108_000_000


def test_natural_rows_stop_at_end_of_sequence_and_forced_rows_do_not(place: Place) -> None:
    stops = (
        *FAST,
        "--max-new-tokens",
        "8",
        "--option",
        "eos_after_tokens=3",
        "--batch-size",
        "4",
        "--max-batches",
        "2",
    )
    for length, tokens in (("natural", 3), ("forced", 8)):
        assert place.run(*stops, "--length", length, "--run-id", length).code == 0
        cell = place.cell(length, "null.scripted.b4")
        rows = [row for event in cell.events() if isinstance(event, BatchEvent) for row in event.outputs]
        assert {len(row) for row in rows} == {tokens}
        assert {row[2] for row in rows} == {2}
        assert cell.result.metrics.output_tokens == tokens * 8


def test_a_run_without_a_name_gets_one_and_its_own_run_json(place: Place) -> None:
    ran = place.run(*FAST, "--max-batches", "1")
    assert ran.code == 0
    (folder,) = place.results.iterdir()
    assert layout.is_name(folder.name)
    number = json.loads(
        (layout.cell_folder(folder, "null.scripted.b1") / layout.RESULT_FILE).read_text(encoding="utf-8")
    )
    assert ran.err.splitlines()[-3:] == [
        f"null.scripted.b1: {number['metrics']['output_throughput_tok_s']:.4g} token/s over 1 batches",
        f"run folder: results/{folder.name}",
        f"tables and figures: python -m bench_core.report results/{folder.name}",
    ]
    record = RunRecord.read(folder / layout.RUN_FILE)
    assert (record.launcher, record.run_id, record.model) == ("standalone", folder.name, MODEL)
    assert [cell.cell for cell in record.cells] == ["null.scripted.b1"]


def test_a_failed_run_without_a_name_ends_with_its_cause(place: Place) -> None:
    ran = place.run(*FAST, "--max-batches", "1", "--option", "fail_in=generate", "--option", "fail_how=oom")
    assert ran.code != 0
    assert "null.scripted.b1: oom_kv: " in ran.err.splitlines()[-3]


def test_what_engines_print_stays_out_of_standard_output_and_in_the_log(tmp_path: Path) -> None:
    adapter = """
class Twisted(NullAdapter):
    def generate(self, *arguments):
        print("printed by the engine")
        os.write(1, b"written by the engine\\n")
        return super().generate(*arguments)
"""
    place, image = Place.prepared(tmp_path / "p"), write_image(tmp_path / "image", adapter)
    ran = place.run(
        "--max-new-tokens", "2", "--max-batches", "1", "--max-warmup-batches", "1", "--run-id", "r", image=image
    )
    assert ran.code == 0, ran.err
    assert all(parse_stdout(line) for line in ran.out.splitlines())
    log = place.cell("r", "twisted.only.b1").log
    assert log.count("printed by the engine") == log.count("written by the engine") == 2
    assert "printed by the engine" in ran.err


def test_ten_thousand_lines_of_chatter_a_batch_are_no_trouble(place: Place) -> None:
    ran = place.run(
        *FAST, "--option", "chatter_lines=10000", "--max-batches", "2", "--max-warmup-batches", "1", "--run-id", "r"
    )
    assert ran.code == 0
    assert place.cell("r", "null.scripted.b1").log.count("null chatters") == 30_000


# Failures. How the script fails, in which phase, and the verdict that this must be.

HOWS = ("error", "oom", "unsupported", "abort", "kill", "exit")
LOAD_VERDICTS = {
    "error": Outcome.LOAD_FAILED, "oom": Outcome.OOM_LOAD, "unsupported": Outcome.UNSUPPORTED,
    "abort": Outcome.CRASHED, "kill": Outcome.KILLED, "exit": Outcome.CRASHED,
}  # fmt: skip
VERDICTS = LOAD_VERDICTS | {"error": Outcome.GENERATE_FAILED, "oom": Outcome.OOM_KV}
CAUSES = {
    "error": "scripted: error in", "oom": "scripted: oom in", "unsupported": "scripted: unsupported in",
    "abort": "SIGABRT", "kill": "SIGKILL", "exit": "ended with code 0 before its work was done",
}  # fmt: skip

HELD = 32 << 20  # bytes that the engine holds from its load on
EXIT_CODES = {"abort": -6, "kill": -9, "exit": 0}  # of an engine that ended itself


@pytest.mark.parametrize("how", HOWS)
def test_a_load_that_fails_is_the_verdict_on_every_cell(place: Place, how: str) -> None:
    ran = place.run(
        *FAST, "--option", "fail_in=load", "--option", f"fail_how={how}", "--batch-size", "1,4", "--run-id", "r"
    )
    assert ran.code == LOAD_VERDICTS[how].worker_exit_code
    for batch_size in (1, 4):
        cell = place.cell("r", f"null.scripted.b{batch_size}")
        assert cell.files == WITHOUT_RESULT
        assert (cell.verdict.outcome, cell.verdict.phase) == (LOAD_VERDICTS[how], "load")
        require_evidence(cell.verdict, 1 << 20, EXIT_CODES.get(how))
        assert CAUSES[how] in cell.verdict.cause
        assert isinstance(cell.events()[0], StartEvent)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(("where", "phase"), [("prepare", "prepare"), ("generate", "warmup")])
def test_a_batch_size_that_fails_takes_no_other_with_it(place: Place, where: str, phase: str, how: str) -> None:
    ran = place.run(
        *FAST, "--option", f"fail_in={where}", "--option", f"fail_how={how}", "--option", "fail_from_batch_size=4",
        "--option", f"load_bytes={HELD}", "--batch-size", "1,4,2", "--max-batches", "1", "--run-id", "r",
    )  # fmt: skip
    assert ran.code == VERDICTS[how].worker_exit_code
    failed = place.cell("r", "null.scripted.b4")
    assert failed.files == WITHOUT_RESULT
    assert (failed.verdict.outcome, failed.verdict.phase) == (VERDICTS[how], phase)
    require_evidence(failed.verdict, HELD, EXIT_CODES.get(how))
    assert CAUSES[how] in failed.verdict.cause
    for batch_size in (1, 2):
        good = place.cell("r", f"null.scripted.b{batch_size}")
        assert good.files == COMPLETE
        assert good.verdict.outcome is Outcome.OK
        assert good.verdict.evidence == {}, "a good cell has no memory at death"
        assert good.result == good.recomputed()


def test_a_failure_between_measured_batches_keeps_the_events_before_it_and_gives_no_result(place: Place) -> None:
    failing = ("--option", "fail_in=generate", "--option", "fail_how=kill", "--option", "fail_after_batches=3")
    ran = place.run(*FAST, *failing, "--max-warmup-batches", "1", "--run-id", "r")
    assert ran.code == Outcome.KILLED.worker_exit_code
    cell = place.cell("r", "null.scripted.b1")
    assert cell.files == WITHOUT_RESULT
    assert cell.verdict.phase == "measure"
    assert [e.phase for e in cell.events() if isinstance(e, BatchEvent)] == ["warmup", "measure", "measure"]


def test_outputs_that_break_the_contract_are_no_result(tmp_path: Path) -> None:
    adapter = """
class Twisted(NullAdapter):
    def generate(self, prompts, decoding, on_tokens):
        return [Completion(row.token_ids[:-1]) for row in super().generate(prompts, decoding, on_tokens)]
"""
    place, image = Place.prepared(tmp_path / "p"), write_image(tmp_path / "image", adapter)
    ran = place.run("--max-new-tokens", "3", "--run-id", "r", image=image)
    assert ran.code == Outcome.GENERATE_FAILED.worker_exit_code
    cell = place.cell("r", "twisted.only.b1")
    assert cell.files == WITHOUT_RESULT
    assert "2 output tokens instead of exactly 3" in cell.verdict.cause


def test_an_image_whose_package_is_missing_is_a_failed_load_with_its_cause(tmp_path: Path) -> None:
    place, image = Place.prepared(tmp_path / "p"), write_image(tmp_path / "image", "import no_such_engine\n")
    assert place.run("--run-id", "r", image=image).code == Outcome.LOAD_FAILED.worker_exit_code
    cell = place.cell("r", "twisted.only.b1")
    assert "no_such_engine" in cell.verdict.cause
    assert "Traceback" in cell.log


# Signals.


def read_until(process: subprocess.Popen[str], phase: str) -> int:
    """Reads progress until a batch of this phase has been told; how many batches that are."""
    assert process.stdout is not None
    for line in process.stdout:
        told = json.loads(line)
        if told["type"] == "progress" and told["phase"] == phase and told["done"] > 0:
            return int(told["done"])
    raise AssertionError("the worker ended before that")


SLOW = ("--option", "load_s=0", "--option", "ttft_s=0.6", "--option", "tpot_s=0", "--max-new-tokens", "1")


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_the_batch_in_hand_and_begins_no_other(place: Place, number: signal.Signals) -> None:
    process = place.start(*SLOW, "--batch-size", "1,2", "--run-id", "r")
    told = read_until(process, "measure")
    time.sleep(0.2)  # into the next batch, which takes 0.6 s
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == Outcome.KILLED.worker_exit_code
    cell = place.cell("r", "null.scripted.b1")
    assert cell.files == WITHOUT_RESULT
    assert cell.verdict.outcome is Outcome.KILLED
    assert cell.verdict.cause == "stopped on request after the batch in hand"
    assert len([event for event in cell.events() if isinstance(event, BatchEvent)]) == told + 1
    never_begun = place.cell("r", "null.scripted.b2")
    assert never_begun.files == WITHOUT_RESULT
    assert never_begun.verdict.outcome is Outcome.KILLED
    assert never_begun.verdict.cause == "stopped on request"


def test_a_second_signal_does_not_wait(place: Place) -> None:
    process = place.start(*SLOW, "--option", "ttft_s=60", "--run-id", "r")
    assert process.stdout is not None
    while json.loads(process.stdout.readline())["phase"] != "prepare":
        pass
    started = time.monotonic()
    for _ in range(2):
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert time.monotonic() - started < 10
    assert process.returncode == Outcome.KILLED.worker_exit_code
    assert place.cell("r", "null.scripted.b1").verdict.cause == "stopped on request"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    """Whether a process runs (one that has ended and waits to be reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_a_supervisor_that_is_killed_leaves_no_engine_behind_and_no_result(place: Place) -> None:
    # A batch of a minute: an engine that only notices when it has something to tell would live on for that long.
    process = place.start(*SLOW, "--option", "ttft_s=60", "--run-id", "r")
    assert process.stdout is not None
    while json.loads(process.stdout.readline())["phase"] != "prepare":
        pass
    time.sleep(0.2)
    (engine,) = children(process.pid)
    assert lives(engine)
    process.kill()
    process.communicate(timeout=20)
    deadline = time.monotonic() + 5
    while lives(engine):
        assert time.monotonic() < deadline, "the engine has outlived its supervisor"
        time.sleep(0.02)
    files = place.cell("r", "null.scripted.b1").files
    assert files == {layout.SPEC_FILE, layout.EVENTS_FILE}


def test_an_engine_killed_from_outside_is_killed_not_crashed(place: Place) -> None:
    process = place.start(*SLOW, "--run-id", "r")
    read_until(process, "measure")
    os.kill(children(process.pid)[0], signal.SIGKILL)
    process.communicate(timeout=20)
    assert process.returncode == Outcome.KILLED.worker_exit_code
    assert "SIGKILL" in place.cell("r", "null.scripted.b1").verdict.cause


# Bad command lines: code 2, a line of cause, nothing written. In this process, where a traceback is an exception.

Refuse = Callable[..., str]


@pytest.fixture
def refuse(place: Place, capsys: pytest.CaptureFixture[str]) -> Refuse:
    def call(*arguments: str, place: Place = place, image: Path | None = None, code: int = 2) -> str:
        given = place.arguments(*arguments, image=image) if image else place.arguments(*arguments)
        before = place.tree()
        assert cli.main(given) == code
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        assert lines[0].startswith("error: ")
        assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: "))
        assert captured.out == ""
        assert place.tree() == before
        return captured.err

    return call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--batch-size", "0"), ["'0' is not a whole number of 1 or more"]),
        (("--batch-size", "-1"), ["'-1' is not a whole number of 1 or more"]),
        (("--batch-size", "x"), ["'x' is not a whole number of 1 or more"]),
        (("--batch-size", "1,,4"), ["'' is not a whole number of 1 or more"]),
        (("--batch-size", "1,4,0"), ["'0' is not a whole number"]),
        (("--batch-size", "17"), ["batch size 17 needs at least 17 prompts, the workload has 16", "--samples"]),
        (("--batch-size",), ["expected one argument"]),
        (("--variant", "int3"), ["no variant 'int3'", "variants: scripted"]),
        (("--device", "tpu"), ["invalid choice", "tpu"]),
        (("--length", "long"), ["invalid choice"]),
        (("--max-new-tokens", "0"), ["not a whole number"]),
        (("--max-new-tokens", "4000"), ["exceed the context of toy, 2048 tokens", "or --max-new-tokens"]),
        (("--threads", "0"), ["not a whole number"]),
        (("--warmup-batches", "0"), ["not a whole number"]),
        (("--warmup-batches", "5000"), ["1000"]),
        (("--latency-batches", "5000"), ["1000"]),
        (("--max-batches", "0"), ["not a whole number"]),
        (("--option", "ttft_s"), ["'ttft_s' is not key=value"]),
        (("--run-id", "../x"), ["'../x' is not a name", "lower case letters"]),
        (("--run-id", "a/b"), ["'a/b' is not a name"]),
        (("--run-id", ""), ["is not a name"]),
        (("--run-id", "a\n"), ["is not a name"]),
        (("--model-folder", "other"), ["other/model.json: No such file"]),
        (("--workload", "other.json"), ["other.json: No such file"]),
        (("--convert", "ct2"), ["image null does not make 'ct2'", "it makes: none"]),
        (("--convert", "ct2", "--self-check"), ["not allowed with"]),
        (("--batch-size", "70000"), ["'70000' is more than 65536"]),
        (("--frobnicate",), ["unrecognized arguments: --frobnicate"]),
        (("extra",), ["unrecognized arguments: extra"]),
    ],
)
def test_a_bad_command_line_is_refused_with_its_cause(
    refuse: Refuse, arguments: tuple[str, ...], words: list[str]
) -> None:
    said = refuse(*arguments)
    for word in words:
        assert word in said


# What a driver hands over, in one file.


def _assigned(place: Place, read: ReadManifest | None = None, **changes: Any) -> tuple[str, ...]:
    """The options that name a file with a plan of the scripted engine's default variant at batch size 2."""
    manifest = Manifest.load(NULL_IMAGE)
    workload = Workload.read(place.data / "w.json").reference
    variant = manifest.variant("scripted", {"ttft_s": 0.001, "tpot_s": 0.0002, "load_s": 0.0}, "cpu")
    asked = MeasureOptions(max_new_tokens=3, max_batches=2)
    (cell,) = plan_cells(asked, manifest, variant, "cpu", [Offline(batch_size=2)], MODEL, workload)
    cell = cell.model_copy(update=changes)
    handed = Assignment(cells=(cell,), workload="w.json", threads=1, timeouts=Timeouts(), manifest=read)
    (place.data / "handed.json").write_text(handed.to_json(), encoding="utf-8")
    return ("--assignment", "handed.json")


def test_cells_that_a_driver_hands_over_are_measured_as_planned(place: Place) -> None:
    given = [word for word in place.arguments(*_assigned(place), "--run-id", "r") if word not in ("--device", "cpu")]
    assert cli.main(given) == 0
    cell = place.cell("r", "null.scripted.b2")
    planned = Assignment.read(place.data / "handed.json").cells[0]
    assert {name: getattr(cell.spec, name) for name in type(planned).model_fields} == dict(planned)
    assert cell.result.metrics.batches == 2


@pytest.mark.parametrize(
    ("load", "varied", "at_once"),
    [
        (Serve(load="concurrency", concurrency=2), "concurrency", {2, None}),
        (Serve(load="concurrency", concurrency=2), None, {2}),
        (Serve(load="rate", request_rate=2), "request_rate", {None}),
    ],
)
def test_how_many_requests_are_in_flight_is_known_but_for_open_loops_and_what_a_search_varies(
    place: Place, load: Serve, varied: Literal["request_rate", "concurrency"] | None, at_once: set[int | None]
) -> None:
    _assigned(place, scenario=load, serve=ServePlan(protocol=ServeProtocol(), schedule="0" * 64))
    handed = Assignment.read(place.data / "handed.json")
    if varied is not None:
        limits = Limits(ttft_s=1.0)
        ask = CapacityAsk(
            varied=varied, first=2, limit=8, arrivals="poisson", limits=limits, attainment=0.9, conditions={}
        )
        handed = handed.model_copy(update={"capacity": ask})
    parsed = planned_parser().parse_args([])
    resolver = resolve.Planned(Places(NULL_IMAGE, place.data, place.models, place.results), parsed, handed)
    request, _ = resolver.measure_request("r")
    assert request.at_once == at_once


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": "another"}, "planned with another label than there is here"),
        ({"token_times": "none"}, "planned with another token_times"),
        ({"model": MODEL.model_copy(update={"digest": "1" * 64})}, "planned with another model"),
        ({"workload": make_workload([[5] * 9] * 4).reference}, "planned with another workload"),
    ],
)
def test_a_plan_of_something_else_than_there_is_here_is_no_failure_of_the_cell(
    place: Place, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], said: str
) -> None:
    words = [word for word in place.arguments(*_assigned(place, **changes), "--run-id", "r") if word != "cpu"]
    words.remove("--device")
    assert cli.main(words) == EXIT_MACHINE
    assert said in capsys.readouterr().err
    assert list(place.results.iterdir()) == []


@pytest.mark.parametrize("option", ["--batch-size=4", "--precision=0.1", "--max-new-tokens=3", "--option=ttft_s=1"])
def test_an_option_beside_a_drivers_plan_is_refused(place: Place, refuse: Refuse, option: str) -> None:
    said = refuse(*_assigned(place), "--device", "cpu", option)
    assert "would change nothing: --assignment says what is measured" in said


@pytest.mark.parametrize("content", ["", "{}", '{"cells": []}', "[1]"])
def test_a_damaged_assignment_is_refused(place: Place, content: str) -> None:
    (place.data / "handed.json").write_text(content, encoding="utf-8")
    words = [word for word in place.arguments("--assignment", "handed.json") if word not in ("--device", "cpu")]
    assert cli.main(words) == 2


def test_a_gpu_that_is_not_there_is_refused(refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "given_gpus", list)
    assert "--device cuda: no GPU answers" in refuse("--device", "cuda", code=EXIT_MACHINE)


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "given_gpus", list)
    assert resolve.choose_device("auto", 3).kind == "cpu"
    assert resolve.choose_device("auto", 3).threads == 3


def test_a_variant_of_another_device_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    image = write_image(tmp_path / "image", manifest="  gpu: {artifact: none, devices: [cuda]}\n")
    said = refuse("--variant", "gpu", image=image)
    assert "variant gpu of twisted does not run on cpu" in said
    assert "variants that do: only" in said


def test_nothing_prepared_is_refused_with_what_to_do(refuse: Refuse, tmp_path: Path) -> None:
    empty = Place(tmp_path / "empty")
    empty.root.mkdir()
    said = refuse(place=empty)
    assert "nothing is prepared" in said
    assert "python -m bench_core.prepare" in said


def test_an_image_folder_without_an_image_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    assert "image.yaml: cannot be read" in refuse(image=tmp_path / "nowhere")


def test_a_damaged_workload_is_refused(refuse: Refuse, place: Place) -> None:
    path = place.data / "w.json"
    content = json.loads(path.read_text())
    content["prompts"][0][0] += 1
    path.write_text(json.dumps(content))
    assert "the prompts do not match the digest" in refuse()
    path.write_text("{")
    assert "w.json" in refuse()


def test_a_workload_of_another_tokenizer_is_refused(refuse: Refuse, place: Place) -> None:
    (place.data / "w.json").write_text(make_workload([[5, 320]]).to_json())
    assert "has a vocabulary of 320" in refuse()


def test_a_missing_artifact_is_refused_with_how_to_make_it(refuse: Refuse, tmp_path: Path) -> None:
    image = write_image(tmp_path / "image", manifest="  other: {artifact: gguf-f16}\n")
    said = refuse("--variant", "other", image=image)
    assert "artifact gguf-f16 of toy is missing" in said
    assert "--convert gguf-f16" in said


def test_an_artifact_that_is_not_what_its_name_says_is_refused(refuse: Refuse, place: Place, tmp_path: Path) -> None:
    """Some engines would run unquantised weights under the name of a quantised variant."""
    image = write_image(tmp_path / "image", manifest="  other: {artifact: gptq-int4-g128}\n")
    folder = place.models / "toy" / "gptq-int4-g128"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    record = ArtifactRecord.of_folder(
        folder,
        artifact="gptq-int4-g128",
        source_digest=MODEL.digest,
        converter_digest="r",
        made_by="a person",
        seconds=0,
    )
    (folder / layout.ARTIFACT_FILE).write_text(record.to_json())
    said = refuse("--variant", "other", image=image)
    assert "artifact gptq-int4-g128 is unquantised" in said
    assert "name another variant or artifact" in said


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("ttft_s=nan", "option null.ttft_s: "), ("ttft_s=1e999", "option null.ttft_s: "),
        ("vocabulary=1e3", "option null.vocabulary: '1e3' is not a whole number"),
        ("vocabulary=3", "at least 4"), ("fail_in=lode", "one of '', 'load'"),
        ("ttft=1", "image null has no option 'ttft'"), ("ttft", "is not key=value"),
    ],
)  # fmt: skip
def test_an_option_that_is_not_declared_or_of_another_type_is_refused(refuse: Refuse, option: str, said: str) -> None:
    assert said in refuse("--option", option)


def test_options_stand_in_the_spec_with_defaults_in_their_declared_types(place: Place) -> None:
    given = ("--option", "ttft_s=1e-3", "--option", "tpot_s=0", "--option", "vocabulary=0100", "--max-batches", "1")
    assert place.run(*given, "--max-new-tokens", "1", "--run-id", "r").code == 0
    options = CellSpec.read(place.results / "r" / "cells" / "null.scripted.b1" / "spec.json").options
    declared = Manifest.load(NULL_IMAGE).options
    assert set(options) == set(declared)
    shown = {name: options[name] for name in ("ttft_s", "tpot_s", "vocabulary", "load_s", "fail_in")}
    assert shown == {"ttft_s": 0.001, "tpot_s": 0.0, "vocabulary": 100, "load_s": 0.05, "fail_in": ""}
    assert {name: type(value).__name__ for name, value in options.items()} == {
        name: option.type for name, option in declared.items()
    }


def test_a_cell_that_is_measured_is_never_measured_over(place: Place, refuse: Refuse) -> None:
    assert place.run(*FAST, "--max-batches", "1", "--batch-size", "2", "--run-id", "r").code == 0
    said = refuse(*FAST, "--max-batches", "1", "--batch-size", "1,2", "--run-id", "r")
    assert "null.scripted.b2 is already measured in r" in said
    assert "--run-id" in said


def test_a_cell_that_failed_can_be_measured_again(place: Place) -> None:
    assert place.run(*FAST, "--option", "fail_in=load", "--run-id", "r").code != 0
    assert place.run(*FAST, "--max-batches", "1", "--run-id", "r").code == 0
    cell = place.cell("r", "null.scripted.b1")
    assert cell.files == COMPLETE
    assert cell.verdict.outcome is Outcome.OK


def test_a_run_folder_of_somebody_else_is_refused(
    refuse: Refuse, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of the system is given by the test, since root may write anywhere."""
    (place.results / "r").mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    said = refuse("--run-id", "r", code=EXIT_MACHINE)
    assert "cannot be written: Permission denied" in said
    assert "check its owner" in said


def test_results_that_are_a_file_are_refused(refuse: Refuse, place: Place) -> None:
    place.results.rmdir()
    place.results.write_text("")
    assert "cannot be written" in refuse("--run-id", "r", code=EXIT_MACHINE)


def test_the_process_itself_says_it_too_without_a_traceback(place: Place) -> None:
    ran = place.run("--batch-size", "x")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/results/r"), EXIT_MACHINE),
        (OSError(errno.EIO, "Input/output error"), EXIT_MACHINE),
        (OSError(errno.EROFS, "Read-only file system"), EXIT_MACHINE),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), Outcome.KILLED.worker_exit_code),
        (BlockingIOError(errno.EAGAIN, "no process to be had"), Outcome.KILLED.worker_exit_code),
    ],
)
def test_a_disk_that_fails_the_supervisor_is_the_machines_failure(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: OSError, code: int
) -> None:
    """What an engine may bring about itself (its folder removed, too many processes) is not."""

    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(Supervisor, "measure", fail)
    assert cli.main(place.arguments(*FAST, "--run-id", "r")) == code
    assert (
        f"this machine did not let the worker go on: {'/results/r: ' if error.filename else ''}"
        in capsys.readouterr().err
    )
    assert not list((place.results / "r").glob(f"cells/*/{layout.OUTCOME_FILE}"))


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), Outcome.KILLED),
        (RuntimeError("safetensors: I/O error: No space left on device (os error 28)"), Outcome.KILLED),
        (MachineFailure("GPU-1 does not answer through NVML"), Outcome.KILLED),
        (OSError(errno.EROFS, "Read-only file system"), Outcome.LOAD_FAILED),
        (OSError(errno.EMFILE, "Too many open files"), Outcome.LOAD_FAILED),
        (BadInput("no such thing"), Outcome.BAD_SPEC),
    ],
)
def test_an_engines_exception_that_tells_of_the_machine_is_not_the_cells(error: Exception, outcome: Outcome) -> None:
    assert classify(error, "load", None)[0] is outcome


@pytest.mark.parametrize("same", [True, False])
def test_an_image_file_that_the_driver_has_read_is_read_again_only_if_it_differs(place: Place, same: bool) -> None:
    read = ReadManifest.of(NULL_IMAGE)
    handed = read if same else read.model_copy(update={"sha256": "0" * 64})
    words = place.arguments(*_assigned(place, handed), "--run-id", "r")
    given = [word for word in words if word not in ("--device", "cpu")]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "bench_core.worker", *given],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert place.cell("r", "null.scripted.b2").result.metrics.batches == 2
    assert any(line.split("|")[-1].strip() == "yaml" for line in done.stderr.splitlines()) is not same


@pytest.mark.parametrize("path", sorted((ROOT / "images").glob("*/image.yaml")), ids=lambda path: path.parent.name)
def test_an_image_file_is_handed_over_without_loss(path: Path) -> None:
    handed = ReadManifest.of(path.parent)
    assert ReadManifest.parse(handed.to_json(), "handed.json") == handed
    assert handed.manifest == Manifest.load(path.parent)
