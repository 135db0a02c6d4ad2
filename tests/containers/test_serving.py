"""Cells under load in real containers: the scripted server, each of its failures, and what is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import docker
import pytest
from conftest import ROOT, Run
from private_engine import until

from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.serving.capacity import Capacity
from bench_core.contract.serving.log import ServeEvents
from bench_core.runs.files import read_serve_events
from bench_core.runs.load import load_run
from bench_core.runs.view import ServedRow
from bench_core.verify.run import verify_run

pytestmark = pytest.mark.docker

by_the_clock = pytest.mark.alone  # others' use of the CPUs is in every latency

SHORT = ("--max-serve-seconds", "3", "--max-ramp-seconds", "1", "--samples", "16", "--max-new-tokens", "20")
NULL = ("--images", "null", *SHORT, "--run-id", "mine", "--no-device-rates", "--no-harness-check")
CELL = "null.scripted.c4"


def script(**options: object) -> list[str]:
    """Of the scripted server, as options of the command."""
    return [word for name, value in options.items() for word in ("--option", f"null.{name}={value}")]


@pytest.fixture
def leaves_nothing(docker_client: docker.DockerClient) -> Any:
    """No container and no network of these runs stays."""
    yield
    left = docker_client.containers.list(all=True, filters={"label": "llm-bench.run=mine"})
    networks = docker_client.networks.list(filters={"label": "llm-bench.run=mine"})
    assert not left
    assert not networks


def row(tmp_path: Path, cell: str = CELL) -> ServedRow:
    """What became of a cell."""
    view = load_run(tmp_path / "results" / "mine")
    return next(found for found in view.served if found.planned.cell == cell)


def events(tmp_path: Path, cell: str = CELL) -> ServeEvents:
    """Of a cell."""
    folder = tmp_path / "results" / "mine"
    return read_serve_events(folder, layout.cell_folder(folder, cell))


@by_the_clock
@pytest.mark.usefixtures("leaves_nothing")
def test_a_load_is_measured_and_verified_and_nothing_outside_can_be_reached(
    run: Run, tmp_path: Path, docker_client: docker.DockerClient
) -> None:
    """Closed loop, open loop and a trace in one run; hardened containers that see each other and nobody else."""
    trace = tmp_path / "trace.jsonl"
    lines = [{"arrival_s": k / 10, "prompt_tokens": 5 + k, "output_tokens": 4 + k % 3} for k in range(12)]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    seen: list[dict[str, Any]] = []
    command = [
        sys.executable, "-m", "bench_core.drive", "--launcher", "docker", "--device", "cpu", *NULL,
        "--concurrency", "4", "--request-rate", "20", "--trace", str(trace),
        *(f"--{name}={tmp_path / name}" for name in ("results", "data", "models")),
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: len(_of_run(docker_client)) == 2, "server and client", 120)
    containers = _of_run(docker_client)
    seen = [one.attrs for one in containers]
    reached = [_reaches(one) for one in containers]
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    for attrs in seen:
        host = attrs["HostConfig"]
        assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
        assert not host["PortBindings"]
    assert reached == [[], []], "addresses outside"
    folder = tmp_path / "results" / "mine"
    view = load_run(folder)
    assert [(found.planned.cell.rpartition(".")[2], found.status) for found in view.served] == [
        ("c4", "ok"), ("r20", "ok"), ("trace", "ok"),
    ]  # fmt: skip
    assert all(found.breaches == () for found in view.served)
    spec = view.served[0].spec
    assert spec is not None
    assert spec.server is not None
    assert spec.server.network == "internal"
    assert not set(spec.server.cpus) & set(spec.server.client_cpus)
    done = verify_run(folder)
    assert done.differences == ()
    traced = {request.index: request for request in events(tmp_path, "null.scripted.trace").requests}
    assert [traced[k].output_tokens for k in range(12)] == [4 + k % 3 for k in range(12)]
    assert [traced[k].prompt_tokens for k in range(12)] == [5 + k for k in range(12)]


def _of_run(client: docker.DockerClient) -> list[Any]:
    return list(client.containers.list(filters={"label": "llm-bench.run=mine"}))


def _reaches(container: Any) -> list[str]:
    """Addresses outside of the cell's network that a container can connect to."""
    code = (
        "import socket, json\n"
        "found = []\n"
        "for address in [('172.17.0.1', 22), ('8.8.8.8', 53), ('172.17.0.1', 2375), ('1.1.1.1', 443)]:\n"
        "    try:\n"
        "        socket.create_connection(address, 1).close(); found.append(address[0])\n"
        "    except ConnectionRefusedError: found.append(address[0])\n"
        "    except OSError: pass\n"
        "print(json.dumps(found))\n"
    )
    return list(json.loads(container.exec_run(["python", "-c", code]).output))


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize(
    ("how", "outcome", "cause"),
    [
        ("exit", Outcome.CRASHED, "while requests were sent to it"),
        ("kill", Outcome.KILLED, "ended from outside by SIGKILL"),
    ],
)
def test_a_server_that_dies_costs_the_cell_in_hand_and_the_next_gets_a_new_one(
    run: Run, tmp_path: Path, how: str, outcome: Outcome, cause: str
) -> None:
    """What had been answered before is kept."""
    done = run(*NULL, "--concurrency", "1,4", *script(die_after_requests=8, die_how=how))
    assert done.returncode == 1, done.stderr
    for cell in ("null.scripted.c1", CELL):
        found = row(tmp_path, cell)
        assert found.verdict is not None
        assert (found.verdict.outcome, found.verdict.phase) == (outcome, "measure")
        assert cause in found.verdict.cause
        assert found.complete is (outcome is not Outcome.KILLED)
        answered = sum(request.ok for request in events(tmp_path, cell).requests)
        assert answered == 8 if cell != CELL else 5 <= answered <= 8, "up to three are in flight beside the last"


@pytest.mark.usefixtures("leaves_nothing")
def test_a_server_that_runs_out_of_memory_says_so(run: Run, tmp_path: Path) -> None:
    done = run(*NULL, "--concurrency", "4", *script(die_after_requests=8, die_how="oom"))
    assert done.returncode == 1, done.stderr
    verdict = row(tmp_path).verdict
    assert verdict is not None
    assert verdict.outcome is Outcome.OOM_KV, verdict.cause
    assert "out of memory" in verdict.cause


@pytest.mark.usefixtures("leaves_nothing")
def test_a_server_that_never_becomes_ready_is_a_timeout_for_every_cell(run: Run, tmp_path: Path) -> None:
    done = run(*NULL, "--concurrency", "1,4", "--load-timeout-s", "2", *script(ready_after_s=3600))
    assert done.returncode == 1, done.stderr
    for cell in ("null.scripted.c1", CELL):
        verdict = row(tmp_path, cell).verdict
        assert verdict is not None
        assert (verdict.outcome, verdict.phase) == (Outcome.TIMEOUT, "load")
        assert "did not answer within 2 s" in verdict.cause


@by_the_clock
@pytest.mark.usefixtures("leaves_nothing")
def test_requests_that_fail_are_counted_and_named_and_the_others_measured(run: Run, tmp_path: Path) -> None:
    """One in ten, in each way that a server can fail one."""
    done = run(*NULL, "--concurrency", "8", "--request-timeout-s", "1", *script(fail_every=10, request_fails="each"))
    assert done.returncode == 0, done.stderr
    found = row(tmp_path, "null.scripted.c8")
    assert found.result is not None
    ends: set[str] = {request.end for request in events(tmp_path, "null.scripted.c8").requests}
    assert ends >= {"ok", "status", "broken", "garbage", "wrong_length", "timeout"}
    counts = found.result.metrics.requests
    assert sum(counts.failed.values()) >= 5
    assert counts.ok + sum(counts.failed.values()) + counts.unfinished == counts.scheduled
    assert "failed" in done.stdout


@pytest.mark.usefixtures("leaves_nothing")
def test_nothing_but_failures_is_a_failure(run: Run, tmp_path: Path) -> None:
    done = run(*NULL, "--concurrency", "4", *script(fail_every=1, request_fails="short"))
    assert done.returncode == 1, done.stderr
    verdict = row(tmp_path).verdict
    assert verdict is not None
    assert verdict.outcome is Outcome.GENERATE_FAILED
    assert "wrong_length" in verdict.cause


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("who", ["client", "server", "driver"])
def test_what_is_killed_or_stopped_in_a_window_is_measured_by_a_resumed_run(
    run: Run, tmp_path: Path, docker_client: docker.DockerClient, who: str
) -> None:
    """The client's container, the server's, or Ctrl-C at the driver: a typed outcome, no orphan, and ``--resume``."""
    places = [f"--{name}={tmp_path / name}" for name in ("results", "data", "models")]
    base = [sys.executable, "-m", "bench_core.drive", "--launcher", "docker", "--device", "cpu"]
    words = [*NULL, "--concurrency", "4", "--max-serve-seconds", "8", "--serve-precision", "0.0001"]
    process = subprocess.Popen(
        [*base, *words, *places], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    log = layout.cell_folder(tmp_path / "results" / "mine", CELL) / layout.EVENTS_FILE
    until(lambda: log.is_file() and log.read_text().count('"request"') > 20, "requests", 120)
    if who == "driver":
        process.send_signal(signal.SIGINT)
    else:
        image = "client" if who == "client" else "null"
        [found] = [one for one in _of_run(docker_client) if any(f"/{image}:" in tag for tag in one.image.tags)]
        found.kill()
    out, _ = process.communicate(timeout=120)
    assert process.returncode != 0, out
    verdict = row(tmp_path).verdict
    assert verdict is not None
    assert verdict.outcome is Outcome.KILLED, verdict
    assert not row(tmp_path).complete
    resume = run("--resume", "mine", "--no-device-rates")
    assert resume.returncode == 0, resume.stdout + resume.stderr
    assert row(tmp_path).result is not None


@by_the_clock
@pytest.mark.usefixtures("leaves_nothing")
def test_a_capacity_is_searched_on_one_server(run: Run, tmp_path: Path) -> None:
    """The client writes the trials into the run's folder; two slots keep a limit that a third request breaks."""
    limits = ("--slo", "ttft_s=0.12", "--attainment", "0.8", "--capacity-of", "concurrency", "--capacity-limit", "4")
    slots = script(served_at_once=2, ttft_s=0.05, tpot_s=0.01)
    done = run(*NULL, "--find-capacity", "null.scripted", *limits, *slots)
    assert done.returncode == 0, done.stderr
    found = Capacity.read(tmp_path / "results" / "mine" / layout.CAPACITY_FOLDER / "null.scripted.json")
    assert found.highest == 2
    folders = [
        path.name for path in sorted((tmp_path / "results" / "mine" / layout.CAPACITY_FOLDER / found.home).iterdir())
    ]
    assert folders == [trial.folder for trial in found.trials]
    assert verify_run(tmp_path / "results" / "mine").differences == ()
