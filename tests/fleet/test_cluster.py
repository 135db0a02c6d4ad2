"""Real Ray clusters of several raylets on this machine, the driver called as a person calls it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import ROOT, Drive, Made
from ray_nodes import Nodes

from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.run import RunRecord
from bench_core.contract.records.spec import CellSpec
from bench_core.runs.load import load_run
from bench_core.verify.run import verify_run

pytestmark = pytest.mark.cluster

NULL = (
    *("--images", "null", "--device", "cpu", "--launcher", "process", "--yes", "--samples", "16"),
    *("--max-new-tokens", "4", "--no-harness-check", "--exhaustive", "--max-warmup-batches", "1"),
    *("--control", "none", "--beside-sample", "0"),
)
QUICK = ("--option", "null.load_s=0", "--option", "null.ttft_s=0.01", "--option", "null.tpot_s=0.001")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three nodes."""
    with pytest.MonkeyPatch.context() as patch:
        found = Nodes(tmp_path_factory.mktemp("nodes"), patch)
        try:
            for number in range(3):
                found.add(f"node{number}", labels={"rack": str(number % 2)})
            yield found
        finally:
            found.close()


@pytest.fixture(scope="module")
def fleet_run(nodes: Nodes, make_run: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve cells on three nodes."""
    root = tmp_path_factory.mktemp("fleet")
    more = ("--batch-sizes", "1,2", "--repeats", "6", "--run-id", "mine", "--cluster", nodes.address)
    make_run(root, *NULL, *QUICK, *more)
    return root / "results" / "mine"


def specs(run: Path) -> dict[str, CellSpec]:
    return {path.parent.name: CellSpec.read(path) for path in run.glob(f"cells/*/{layout.SPEC_FILE}")}


def hosts(run: Path) -> dict[str, str]:
    return {cell: spec.placement.host for cell, spec in specs(run).items() if spec.placement is not None}


def test_cells_run_on_every_node_and_come_back_into_one_run(fleet_run: Path) -> None:
    view = load_run(fleet_run)
    assert len(view.rows) == 12
    assert all(row.measured for row in view.rows)
    assert set(hosts(fleet_run).values()) == {"node0", "node1", "node2"}
    verification = verify_run(fleet_run)
    assert (verification.differences, verification.cells) == ((), 12)
    visit = RunRecord.read(fleet_run / layout.RUN_FILE).visits[0]
    assert set(visit.nodes) == {"node0", "node1", "node2"}
    assert [place.host for place in visit.workers] == ["node0", "node1", "node2"]
    assert not list(fleet_run.rglob(".*")), "nothing half-written is left"


def test_what_is_read_is_copied_once_to_each_node_and_nothing_of_the_work_stays(
    fleet_run: Path, nodes: Nodes, make_run: Made
) -> None:
    for name in ("node0", "node1", "node2"):
        assert len(list((nodes.folder(name) / "parcels").iterdir())) == 2, "a model without weights, and a workload"
        assert not list((nodes.folder(name) / "work").iterdir())
    again = make_run(
        fleet_run.parents[1], *NULL, *QUICK, "--batch-sizes", "1", "--run-id", "again", "--cluster", nodes.address
    )
    assert "sending" not in again.stdout


def test_a_dry_run_shows_which_cell_is_expected_where(nodes: Nodes, drive: Drive) -> None:
    called = drive(*NULL, *QUICK, "--batch-sizes", "1,2,4", "--cluster", nodes.address, "--dry-run")
    assert called.code == 0, called.err
    assert f"cluster {nodes.address}: 3 nodes, 3 launches at a time" in called.out
    assert "on node0 (node0, 2 CPUs, 2 GPUs), as estimated: null.scripted.b1, null.scripted.b2" in called.out
    chosen = drive(*NULL, "--batch-sizes", "1", "--cluster", nodes.address, "--node-labels", "rack=1", "--dry-run")
    assert "1 node, 1 launch at a time" in chosen.out
    assert "on node1 " in chosen.out
    none = drive(*NULL, "--batch-sizes", "1", "--cluster", nodes.address, "--node-labels", "rack=9", "--dry-run")
    assert none.code == 2
    assert "no node with rack=9 of the cluster" in none.err


def test_a_resumed_run_goes_on_where_it_was_and_on_one_host(fleet_run: Path, nodes: Nodes, make_run: Made) -> None:
    root = fleet_run.parents[1]
    more = make_run(root, "--resume", "mine", "--repeats", "7", "--cluster", nodes.address)
    assert "resumes mine: 12 of 14 cells asked for are complete and kept" in more.stdout
    alone = make_run(root, "--resume", "mine", "--repeats", "8")
    assert "resumes mine: 14 of 16 cells asked for are complete and kept" in alone.stdout
    assert len(load_run(fleet_run).rows) == 16
    assert verify_run(fleet_run).differences == ()


def begun(command: tuple[str, ...], root: Path) -> subprocess.Popen[str]:
    folders = [f"--{name}={root / name}" for name in ("results", "data", "models")]
    line = [sys.executable, "-m", "bench_core.drive", *command, *folders]
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(what: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def cells_with(run: Path, name: str) -> set[str]:
    return {path.parent.name for path in run.glob(f"cells/*/{name}")}


def test_a_lost_nodes_cells_are_measured_by_the_others(nodes: Nodes, tmp_path: Path) -> None:
    nodes.add("doomed", labels={"fault": "lost"})
    nodes.add("steady", labels={"fault": "lost"})
    slow = ("--option", "null.load_s=0", "--option", "null.ttft_s=0.15")
    command = (*NULL, *slow, "--batch-sizes", "1,2", "--repeats", "4", "--run-id", "mine")
    driver = begun((*command, "--cluster", nodes.address, "--node-labels", "fault=lost"), tmp_path)
    run = tmp_path / "results" / "mine"
    try:
        # One cell of the doomed node's launch is complete, and the next one goes on.
        wait_for(lambda: any(host == "doomed" for host in hosts(run).values()))
        mine = next(cell for cell, host in hosts(run).items() if host == "doomed")
        wait_for(lambda: mine in cells_with(run, layout.OUTCOME_FILE))
        time.sleep(0.5)
        nodes.kill("doomed")
        out, _ = driver.communicate(timeout=120)
    finally:
        driver.kill()
        nodes.kill("steady")
    assert driver.returncode == 3, out
    assert "doomed is lost: " in out
    view = load_run(run)
    assert len(view.rows) == 8
    assert all(row.measured for row in view.rows), out
    assert hosts(run)[mine] == "doomed", "a complete cell of a lost node is kept"
    ended = re.findall(r"^\[\d+/8\] (\S+) ", out, re.MULTILINE)
    assert sorted(ended) == sorted({*ended}), "each cell ends once"
    assert len(ended) == 8
    assert verify_run(run).differences == ()


def test_one_signal_ends_every_launch_after_the_batch_in_hand(nodes: Nodes, tmp_path: Path) -> None:
    slow = ("--option", "null.load_s=0", "--option", "null.ttft_s=0.4")
    command = (*NULL, *slow, "--batch-sizes", "1", "--repeats", "5", "--run-id", "mine", "--cluster", nodes.address)
    driver = begun(command, tmp_path)
    run = tmp_path / "results" / "mine"
    try:
        wait_for(lambda: len(cells_with(run, layout.EVENTS_FILE)) == 3)
        driver.send_signal(signal.SIGINT)
        out, _ = driver.communicate(timeout=120)
    finally:
        driver.kill()
    assert driver.returncode == 130, out
    view = load_run(run)
    assert sorted(row.verdict.outcome for row in view.every if row.verdict) == [Outcome.KILLED] * 3
    assert (run / layout.REPORT_FILE).is_file()


def test_two_drivers_on_the_same_nodes_take_turns(nodes: Nodes, tmp_path: Path) -> None:
    """Ray deals a node out to one launch at a time; the other driver's waits in Ray's queue."""
    slow = ("--option", "null.load_s=0", "--option", "null.ttft_s=0.1", "--node-labels", "rack=1")
    command = (*NULL, *slow, "--batch-sizes", "1", "--repeats", "2", "--run-id", "mine", "--cluster", nodes.address)
    roots = [tmp_path / "one", tmp_path / "two"]
    drivers = [begun(command, root) for root in roots]
    for driver in drivers:
        out, _ = driver.communicate(timeout=180)
        assert driver.returncode == 0, out
    times = []
    for root in roots:
        rows = load_run(root / "results" / "mine").rows
        assert len(rows) == 2
        times += [row.alive_s for row in rows if hasattr(row, "alive_s") and row.alive_s is not None]
    assert len(times) == 4
    times.sort()
    assert all(first[1] <= second[0] for first, second in pairwise(times)), times


def test_a_ray_of_this_host_alone_asks_for_a_token_that_nobody_keeps(
    make_run: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    looked = "from bench_core.drive.cluster.link import Link\nlink = Link('local')\n"
    looked += "from ray._private.authentication.authentication_utils import is_token_auth_enabled as on\n"
    looked += "print(on(), [one.name for one in link.members()])\nlink.close()"
    done = subprocess.run([sys.executable, "-c", looked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True ['"), done.stdout
    make_run(tmp_path, *NULL, *QUICK, "--batch-sizes", "1", "--run-id", "mine", "--cluster", "local")
    assert all(row.measured for row in load_run(tmp_path / "results" / "mine").rows)
    assert not (tmp_path / ".ray").exists()


def test_without_a_cluster_there_the_driver_says_so(drive: Drive) -> None:
    for address, words in (("ray://127.0.0.1", "is no cluster"), ("10.0.0.1:6379", "is no cluster")):
        called = drive(*NULL, "--cluster", address)
        assert called.code == 2
        assert words in called.err


def test_what_looks_at_one_host_is_refused(drive: Drive) -> None:
    called = drive(*NULL, "--self-check", "--cluster", "ray://127.0.0.1:1")
    assert called.code == 2
    assert "--self-check is of one host" in called.err
    labels = drive(*NULL, "--cluster", "ray://127.0.0.1:1", "--node-labels", "rack")
    assert "--node-labels 'rack' is no KEY=VALUE" in labels.err
