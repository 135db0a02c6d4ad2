"""A server and a client that nobody but a person starts: they agree on the cells, and leave a run as any other."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT

from bench_core.client.by_hand import _special
from bench_core.client.cli import main
from bench_core.contract.asked.protocol import MeasureOptions
from bench_core.contract.records import layout
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.outcome import EXIT_BAD_INPUT, Outcome, Verdict
from bench_core.contract.records.run import RunRecord
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import Workload
from bench_core.contract.serving.schedule import Schedule, make_schedule
from bench_core.drive.launch.processes.launcher import free_ports
from bench_core.report.write.files import write_report
from bench_core.runs.load import load_run
from bench_core.system.cpus import deal
from bench_core.verify.run import verify_run

TOKENS = 10
SHORT = (
    *("--max-serve-seconds", "2", "--max-ramp-seconds", "1", "--max-new-tokens", str(TOKENS), "--run-id", "mine"),
    *("--option", "ttft_s=0.005", "--option", "tpot_s=0.002", "--option", "load_s=0"),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    places = [f"--{name}={folder / name}" for name in ("data", "models")]
    for name in ("data", "models"):
        (folder / name).mkdir()
    command = [sys.executable, "-m", "bench_core.prepare", "--samples", "12", *places]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


class ByHand:
    """A server's supervisor, and clients of it."""

    def __init__(self, prepared: Path, results: Path, port: int, process: subprocess.Popen[str]) -> None:
        self.prepared, self.results, self.port, self.process = prepared, results, port, process

    def command(self, *words: str) -> list[str]:
        places = ["--data", str(self.prepared / "data"), "--results", str(self.results)]
        server = ["--server", f"127.0.0.1:{self.port}", "--network", "loopback"]
        return [sys.executable, "-m", "bench_core.client", *server, *places, *words]

    def client(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@contextmanager
def supervisor(prepared: Path, results: Path, *words: str) -> Iterator[ByHand]:
    port = free_ports()
    places = ["--data", str(prepared / "data"), "--models", str(prepared / "models")]
    command = [sys.executable, "-m", "bench_core.worker", "--serve", str(port), "--device", "cpu", *places]
    image = ["--image-folder", str(ROOT / "images/null")]
    with subprocess.Popen([*command, *image, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield ByHand(prepared, results, port, process)
        finally:
            process.kill()


@pytest.fixture
def by_hand(prepared: Path, tmp_path: Path) -> Iterator[ByHand]:
    with supervisor(prepared, tmp_path) as found:
        yield found


def test_two_load_points_make_a_run_that_reports_and_verifies(by_hand: ByHand, tmp_path: Path) -> None:
    """The schedules are the driver's, made of the same seed; CPUs are shared out; the server ends with its client."""
    loads = ("--concurrency", "2", "--request-rate", "20", "--arrival-seed", "7", "--slo", "ttft_s=0.5")
    done = by_hand.client(*loads, *SHORT, "--then", "clear away")
    assert done.returncode == 0, done.stderr
    assert by_hand.process.wait(30) == 0
    folder = tmp_path / "mine"
    record = RunRecord.read(folder / layout.RUN_FILE)
    assert (record.launcher, [cell.cell for cell in record.cells]) == (
        "standalone", ["null.scripted.c2", "null.scripted.r20"]
    )  # fmt: skip
    assert verify_run(folder).differences == ()
    for row in load_run(folder).served:
        assert row.result is not None, row.problem
        assert row.result.metrics.kept is not None
        spec = CellSpec.read(layout.cell_folder(folder, row.planned.cell) / layout.SPEC_FILE)
        assert spec.server is not None
        assert spec.load is not None
        shares = deal(1)
        assert (spec.server.cpus, spec.server.client_cpus) == (shares.server, shares.client)
        assert spec.server.network == "loopback"
        kept = Schedule.read_packed(folder / layout.SCHEDULES_FOLDER / f"{spec.load.word}.json.gz")
        horizon_s = MeasureOptions(max_serve_seconds=2, max_ramp_seconds=1).horizon_s
        assert kept == make_schedule(spec.load, 7, 12, TOKENS, horizon_s)
        told = next(line for line in done.stderr.splitlines() if line.startswith(f"{row.planned.cell}: "))
        assert f"{row.result.metrics.output_throughput_tok_s.value:.4g} output token/s" in told
    assert done.stderr.splitlines()[-3:] == [
        "run folder: results/mine",
        "tables and figures: python -m bench_core.report results/mine",
        "remove the containers that are left: clear away",
    ]
    write_report(folder)
    assert verify_run(folder).differences == ()


def test_a_trace_is_sent_as_it_is(by_hand: ByHand, prepared: Path, tmp_path: Path) -> None:
    ids = [{"arrival_s": k / 20, "prompt_token_ids": [5, 6, 7 + k], "output_tokens": 3 + k} for k in range(4)]
    counts = [{"arrival_s": 0.2 + k / 20, "prompt_tokens": 9, "output_tokens": 4} for k in range(4)]
    trace = prepared / "data" / "trace.jsonl"
    trace.write_text("".join(json.dumps(line) + "\n" for line in [*ids, *counts]), encoding="utf-8")
    done = by_hand.client("--trace", "trace.jsonl", *SHORT)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "mine"
    assert verify_run(folder).differences == ()
    workload = Workload.parse(gzip.decompress((folder / layout.WORKLOAD_FILE).read_bytes()), "it")
    assert workload.prompts[:4] == tuple((5, 6, 7 + k) for k in range(4))
    [row] = load_run(folder).served
    assert row.result is not None
    assert row.result.metrics.requests.ok == len(ids) + len(counts)


def test_prompts_of_a_given_length_are_made_without_the_tokenizers_own_token() -> None:
    assert _special(_workload((1, 5), (1, 6))) == 1
    assert _special(_workload((1, 5), (2, 5))) == 0
    assert _special(_workload((1, 5))) == 0, "of one prompt nobody can tell"


def _workload(*prompts: tuple[int, ...]) -> Workload:
    return Workload(
        name="w", tokenizer="t", max_prompt_tokens=9, truncated=0, dropped_empty=0, duplicates=0,
        digest=prompts_sha256(prompts), prompts=prompts,
    )  # fmt: skip


def test_what_cannot_be_is_refused_in_words(by_hand: ByHand, tmp_path: Path) -> None:
    """By the client itself, or by the server's supervisor through it. Nothing is written."""
    for words, cause in (
        ((), "no load is asked for"),
        (("--concurrency", "2", "--arrival-seed", "-1"), "is not a whole number of 0 or more"),
        (("--concurrency", "2", "--assignment", "a.json"), "--concurrency would change nothing"),
        (("--concurrency", "2", "--workload", "nowhere"), "nowhere"),
    ):
        done = by_hand.client(*words)
        assert done.returncode == EXIT_BAD_INPUT, words
        assert cause in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("--option", "nope=1"), "image null has no option 'nope'"),
        (("--variant", "nope"), "nope"),
        (("--max-new-tokens", "100000"), "tokens"),
    ],
)
def test_the_servers_refusal_is_the_clients(
    by_hand: ByHand, tmp_path: Path, words: tuple[str, ...], cause: str
) -> None:
    done = by_hand.client("--concurrency", "2", *words)
    assert done.returncode == EXIT_BAD_INPUT, done.stderr
    assert cause in done.stderr
    assert by_hand.process.wait(30) == 0, "the server ends with its client"
    assert list(tmp_path.iterdir()) == []


def test_what_the_client_decides_is_not_for_the_server(prepared: Path, tmp_path: Path) -> None:
    with supervisor(prepared, tmp_path, "--max-new-tokens", "5") as found:
        assert found.process.wait(60) == EXIT_BAD_INPUT
        assert found.process.stderr is not None
        assert "--max-new-tokens is not for --serve: its client says it" in found.process.stderr.read()


def test_an_option_of_the_servers_command_line_counts_where_the_client_says_nothing(
    prepared: Path, tmp_path: Path
) -> None:
    own = ("--option", "vocabulary=64", "--option", "ttft_s=0.5")
    with supervisor(prepared, tmp_path, *own) as found:
        done = found.client("--concurrency", "2", *SHORT)
    assert done.returncode == 0, done.stderr
    spec = CellSpec.read(layout.cell_folder(tmp_path / "mine", "null.scripted.c2") / layout.SPEC_FILE)
    assert (spec.options["vocabulary"], spec.options["ttft_s"]) == (64, 0.005)


def test_a_server_whose_supervisor_is_killed_leaves_a_verdict(by_hand: ByHand, tmp_path: Path) -> None:
    """No driver sees it: silence does. The cell in hand has crashed, and no other is begun."""
    words = by_hand.command("--concurrency", "1,2", *SHORT, "--max-serve-seconds", "60", "--serve-precision", "1e-6")
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as client:
        events = layout.cell_folder(tmp_path / "mine", "null.scripted.c1") / layout.EVENTS_FILE
        deadline = time.monotonic() + 60
        while not (events.is_file() and '"request"' in events.read_text(encoding="utf-8")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        _kill_tree(by_hand.process.pid)
        assert client.wait(60) == Outcome.CRASHED.worker_exit_code
        assert client.stderr is not None
        told = client.stderr.read()
    verdict = Verdict.read(events.with_name(layout.OUTCOME_FILE))
    assert verdict.outcome is Outcome.CRASHED
    assert "has not answered for" in verdict.cause
    assert "null.scripted.c2: not reached" in told


def _kill_tree(pid: int) -> None:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    os.kill(pid, signal.SIGKILL)
    for child in children:
        os.kill(int(child), signal.SIGKILL)


def test_nothing_is_measured_where_nothing_is_prepared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--server", "127.0.0.1:9", "--data", str(tmp_path), "--results", str(tmp_path), "--concurrency", "1"]
    assert main(words) == EXIT_BAD_INPUT
    assert "nothing is prepared" in capsys.readouterr().err
