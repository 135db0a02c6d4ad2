"""Load from other nodes of a cluster: the server on one, requests from others, one of them with a clock of its own."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_nodes import AHEAD_S, NAMED, NULL, SHORT, ClientNodes, client_nodes
from conftest import Drive, Made
from ray_nodes import Nodes

from bench_core.contract.records import layout
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.serving.latencies import ttft_s
from bench_core.contract.serving.log import ServeEvents
from bench_core.contract.serving.requests import RequestEvent
from bench_core.contract.serving.schedule import Schedule
from bench_core.runs.files import read_serve_events
from bench_core.runs.load import load_run
from bench_core.runs.view import ServedRow
from bench_core.verify.run import verify_run

ray = pytest.mark.alone  # clocks and latencies are compared

CLOSED, OPEN = "null.scripted.c7", "null.scripted.r60"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientNodes]:
    """One that has the server and two that send."""
    with client_nodes(tmp_path_factory.mktemp("clients")) as found:
        yield found


@pytest.fixture(scope="module")
def run(nodes: Nodes, make_run: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed loop and an open one."""
    root = tmp_path_factory.mktemp("load")
    load = ("--concurrency", "7", "--request-rate", "60", "--client-nodes", "2", *NAMED, *SHORT)
    make_run(root, *NULL, *load, "--cluster", nodes.address)
    return root / "results" / "mine"


def events_of(run: Path, cell: str) -> ServeEvents:
    return read_serve_events(run, layout.cell_folder(run, cell))


def row_of(run: Path, cell: str) -> ServedRow:
    return next(row for row in load_run(run).served if row.planned.cell == cell)


def of_node(events: ServeEvents, node: str) -> list[RequestEvent]:
    (processes,) = (one.processes for one in events.clients if one.node == node)
    return [request for request in events.requests if request.process in processes]


@ray
@pytest.mark.parametrize("cell", [CLOSED, OPEN])
def test_two_nodes_send_each_request_of_one_schedule_once(run: Path, cell: str) -> None:
    row, events = row_of(run, cell), events_of(run, cell)
    assert row.measured, row.problem
    assert row.breaches == ()
    assert [one.node for one in events.clients] == ["b-client", "c-ahead"]
    for number, name in enumerate(("b-client", "c-ahead")):
        mine = sorted(request.index for request in of_node(events, name))
        assert mine == list(range(number, 2 * len(mine), 2)), "every second request, from the first on, once"
    spec = CellSpec.read(layout.cell_folder(run, cell) / layout.SPEC_FILE)
    assert spec.serve is not None
    assert (spec.serve.protocol.client_nodes, spec.server and spec.server.network) == (2, "published")
    if cell == OPEN:
        schedule = Schedule.read_packed(run / layout.SCHEDULES_FOLDER / "r60.json.gz")
        start_s = events.clients[0].start_ns / 1e9
        for request in events.requests:
            due_s = start_s + schedule.offsets_us[request.index] / 1e6
            assert request.scheduled_s == pytest.approx(due_s, abs=2e-6), "as if one process had sent all"
            assert request.prompt == schedule.prompts[request.index]
    verification = verify_run(run)
    assert (verification.differences, verification.cells) == ((), 2)


@ray
@pytest.mark.parametrize("cell", [CLOSED, OPEN])
def test_a_clock_that_is_ahead_is_found_within_its_bound_and_moves_no_latency(run: Path, cell: str) -> None:
    events = events_of(run, cell)
    near, ahead = events.clients
    assert abs(ahead.offset_s - AHEAD_S) <= ahead.bound_s
    assert abs(near.offset_s) <= near.bound_s
    assert 0 < ahead.bound_s < 0.01
    assert abs(ahead.drift_s) <= ahead.bound_s + ahead.bound_after_s, "both are one clock, but for their zero"
    medians = []
    for one in (near, ahead):
        answered = [request for request in of_node(events, one.node) if request.ok]
        waits = [wait for request in answered if (wait := ttft_s(request, from_sent=True)) is not None]
        # Never before the script sends it, but for the moment between the server's read and the client's stamp.
        assert min(waits) > 0.045
        writing = [(r.last_token_s or 0.0) - (r.first_token_s or 0.0) for r in answered]
        assert statistics.median(writing) == pytest.approx(7 * 0.005, rel=0.3)
        medians.append(statistics.median(waits))
    assert max(medians) < 0.05 + 0.03
    assert abs(medians[0] - medians[1]) < 0.02


@ray
def test_the_report_tells_offset_bound_and_drift_of_each_node(run: Path) -> None:
    report = (run / layout.REPORT_FILE).read_text(encoding="utf-8")
    assert "1 process on each of 2 other nodes that send requests" in report
    assert "- **Client nodes**: b-client, c-ahead; clocks known to " in report
    table = report.partition("### Clocks of client nodes")[2]
    ahead = [line for line in table.splitlines() if "| c-ahead |" in line]
    assert len(ahead) == 2
    assert all(abs(float(line.split("|")[5]) - AHEAD_S) < 0.01 for line in ahead)


@ray
def test_numbers_agree_with_the_script(run: Path) -> None:
    closed, opened = row_of(run, CLOSED).result, row_of(run, OPEN).result
    assert closed is not None
    assert opened is not None
    tpot = closed.metrics.tpot_s
    assert tpot is not None
    assert tpot.p50 is not None
    assert tpot.p50.value == pytest.approx(0.005, rel=0.3)
    each_s = 0.05 + 7 * 0.005
    assert 0.6 * 7 / each_s < closed.metrics.request_throughput_per_s.value <= 7 / each_s * 1.02
    assert opened.metrics.request_throughput_per_s.value == pytest.approx(60, rel=0.15)


# --- without a cluster ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("--concurrency", "4", "--client-nodes", "2"), "--client-nodes 2: on one host there are no others"),
        (
            ("--concurrency", "4", "--client-nodes", "2", "--cluster", "ray://127.0.0.1:1"),
            "--client-nodes 2: servers would listen where other hosts reach them, and without asking who it is",
        ),
        (("--batch-sizes", "1", "--client-nodes", "2"), "--client-nodes 2: closed batches have no client"),
        (("--concurrency", "4", *NAMED), "--serve-address would change nothing without --client-nodes"),
        (
            ("--concurrency", "4", "--client-nodes", "2", "--cluster", "local", "--serve-address", "0.0.0.0/0"),
            "--serve-address 0.0.0.0/0 stands for all addresses of a node",
        ),
        (
            ("--concurrency", "4", "--client-nodes", "2", "--cluster", "local", "--serve-address", "head.example"),
            "--serve-address 'head.example' is no IPv4 address or network",
        ),
        (("--concurrency", "4", "--client-nodes", "65"), "--client-nodes"),
    ],
)
def test_what_cannot_be_is_refused_in_plain_words(drive: Drive, words: tuple[str, ...], cause: str) -> None:
    called = drive(*NULL, *words)
    assert called.code == 2
    assert cause in called.err
