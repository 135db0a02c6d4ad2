"""Load from other nodes of a cluster: the server on one, requests from others, one of them with a clock of its own."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Drive, Made
from ray_nodes import Nodes
from test_cluster import begun, wait_for

from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.serving.latencies import ttft_s
from bench_core.contract.serving.log import ServeEvents, parse_serve_events
from bench_core.contract.serving.requests import RequestEvent
from bench_core.contract.serving.schedule import Schedule
from bench_core.runs.files import read_serve_events
from bench_core.runs.load import load_run
from bench_core.runs.view import ServedRow
from bench_core.verify.run import verify_run

ray = pytest.mark.alone  # clocks and latencies are compared

AHEAD_S = 5000
NULL = (
    *("--images", "null", "--device", "cpu", "--launcher", "process", "--yes", "--samples", "16"),
    *("--max-new-tokens", "8", "--no-harness-check", "--control", "none", "--beside-sample", "0", "--run-id", "mine"),
    *("--option", "null.load_s=0", "--option", "null.ttft_s=0.05", "--option", "null.tpot_s=0.005"),
)
NAMED = ("--serve-address", "127.0.0.1")
SHORT = ("--max-ramp-seconds", "2", "--max-serve-seconds", "5")
CLOSED, OPEN = "null.scripted.c7", "null.scripted.r60"


class ClientNodes(Nodes):
    """With one that is in a time namespace of its own, where CLOCK_MONOTONIC is ahead."""

    _ahead: subprocess.Popen[bytes] | None = None

    def add_ahead(self, name: str, log: Path) -> None:
        """As on a machine of its own: ``ray start``."""
        own = {"BENCH_NODE_FOLDER": str(self.folder(name)), "BENCH_LOCK_FOLDER": str(self._root / f"{name}.locks")}
        own_rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        command = [
            *("unshare", *own_rights, "--time", "--monotonic", str(AHEAD_S), "--"),
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--address", self.gcs, "--node-name", name),
            *("--num-cpus", "2", "--object-store-memory", str(80 << 20), "--disable-usage-stats", "--block"),
        ]
        with log.open("wb") as stream:
            self._ahead = subprocess.Popen(
                command, env={**os.environ, **own}, stdout=stream, stderr=stream, start_new_session=True
            )

    def close(self) -> None:
        """All of them."""
        if self._ahead is not None:
            self._ahead.terminate()
            self._ahead.wait(30)
        super().close()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientNodes]:
    """One that has the server and two that send, the second with another clock."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("clients")
        found = ClientNodes(root, patch)
        try:
            for name in ("a-server", "b-client"):
                found.add(name)
            found.add_ahead("c-ahead", root / "ahead.log")
            wait_for(lambda: b"Ray runtime started" in (root / "ahead.log").read_bytes())
            yield found
        finally:
            found.close()


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


@ray
def test_a_dry_run_shows_who_sends_and_where_servers_listen(nodes: Nodes, drive: Drive) -> None:
    words = (*NULL, "--concurrency", "4", "--cluster", nodes.address, "--dry-run")
    called = drive(*words, "--client-nodes", "1", "--client-processes", "2", *NAMED)
    assert called.code == 0, called.err
    assert "load on a-server: from c-ahead, 2 load generators on each" in called.out
    assert "servers listen on 127.0.0.1 of a-server" in called.out
    many = drive(*words, "--client-nodes", "3", *NAMED)
    assert many.code == 2
    assert "--client-nodes 3: 3 nodes of the cluster have 1 CPU or more, and one node has the server" in many.err
    elsewhere = drive(*words, "--client-nodes", "1", "--serve-address", "203.0.113.0/24")
    assert "no node that can be measured on has an address in 203.0.113.0/24" in elsewhere.err


def hosts_of_load() -> set[int]:
    """Processes of this machine that have load generators for a client elsewhere."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"bench_core.client.nodes.host" in words or b"bench_core.client.load.generator" in words:
            found.add(int(path.parent.name))
    return found


def requests_so_far(run: Path, cell: str) -> int:
    path = layout.cell_folder(run, cell) / layout.EVENTS_FILE
    return path.read_bytes().count(b'"type":"request"') if path.is_file() else 0


@ray
def test_a_client_node_that_is_lost_is_replaced_and_what_it_had_is_kept_aside(nodes: Nodes, tmp_path: Path) -> None:
    nodes.add("b-doomed", num_gpus=0)  # without a GPU: it is the first to send
    nodes.add("s-server", labels={"role": "server"})
    before = hosts_of_load()
    load = ("--concurrency", "6", "--client-nodes", "1", *NAMED, "--max-ramp-seconds", "3", "--max-serve-seconds", "9")
    driver = begun((*NULL, *load, "--cluster", nodes.address, "--node-labels", "role=server"), tmp_path)
    run, cell = tmp_path / "results" / "mine", "null.scripted.c6"
    try:
        wait_for(lambda: requests_so_far(run, cell) > 100)
        nodes.kill("b-doomed")
        out, _ = driver.communicate(timeout=180)
    finally:
        driver.kill()
        nodes.kill("s-server")
    assert "client node b-doomed is lost" in out
    assert driver.returncode == 0, out
    (row,) = load_run(run).served
    assert row.measured, row.problem
    assert [one.node for one in row.clients] == ["c-ahead"]
    (aside,) = (run / layout.SET_ASIDE_FOLDER).glob(f"{cell}.*/{layout.EVENTS_FILE}")
    lines = parse_serve_events(aside.read_bytes().splitlines(), "aside")
    assert sum(isinstance(one, RequestEvent) for one in lines) > 100
    assert verify_run(run).differences == ()
    wait_for(lambda: hosts_of_load() <= before, 20)


@ray
def test_without_another_node_to_send_the_run_says_so_and_goes_on_later(nodes: Nodes, tmp_path: Path) -> None:
    """Fewer living nodes than a load asks for: a failure of the environment, and no outcome of the cell."""
    nodes.add("b-doomed", num_gpus=0)
    before = hosts_of_load()
    load = ("--concurrency", "6", "--client-nodes", "3", *NAMED, *SHORT)
    driver = begun((*NULL, *load, "--cluster", nodes.address), tmp_path)
    run, cell = tmp_path / "results" / "mine", "null.scripted.c6"
    try:
        wait_for(lambda: requests_so_far(run, cell) > 50)
        nodes.kill("b-doomed")
        out, _ = driver.communicate(timeout=180)
    finally:
        driver.kill()
    assert driver.returncode == 3, out
    assert "client node b-doomed is lost" in out
    assert "a load from 3 other nodes, and 2 can be used (" in out
    assert not [row for row in load_run(run).served if row.complete]
    wait_for(lambda: hosts_of_load() <= before, 20)
    nodes.add("b-doomed", num_gpus=0)
    try:
        again = begun(("--resume", "mine", "--cluster", nodes.address, *NAMED), tmp_path)
        out, _ = again.communicate(timeout=180)
    finally:
        nodes.kill("b-doomed")
    assert again.returncode == 0, out
    assert [row.status for row in load_run(run).served] == ["ok"]


@ray
def test_one_signal_ends_a_load_from_other_nodes_and_leaves_no_client(nodes: Nodes, tmp_path: Path) -> None:
    before = hosts_of_load()
    load = ("--concurrency", "4", "--client-nodes", "1", *NAMED, "--max-serve-seconds", "60")
    driver = begun((*NULL, *load, "--cluster", nodes.address), tmp_path)
    run = tmp_path / "results" / "mine"
    try:
        wait_for(lambda: requests_so_far(run, "null.scripted.c4") > 20)
        assert hosts_of_load() > before
        driver.send_signal(signal.SIGINT)
        out, _ = driver.communicate(timeout=60)
    finally:
        driver.kill()
    assert driver.returncode == 130, out
    (row,) = load_run(run).served
    assert row.verdict is not None
    assert row.verdict.outcome is Outcome.KILLED
    wait_for(lambda: hosts_of_load() <= before, 20)


@ray
def test_a_killed_driver_leaves_no_client(nodes: Nodes, tmp_path: Path) -> None:
    before = hosts_of_load()
    load = ("--concurrency", "4", "--client-nodes", "1", *NAMED, "--max-serve-seconds", "60")
    driver = begun((*NULL, *load, "--cluster", nodes.address), tmp_path)
    wait_for(lambda: requests_so_far(tmp_path / "results" / "mine", "null.scripted.c4") > 20)
    driver.kill()
    driver.communicate()
    wait_for(lambda: hosts_of_load() <= before, 90)


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
