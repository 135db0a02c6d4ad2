"""What becomes of a load from other nodes when its nodes, its driver or a person end it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_nodes import NAMED, NULL, SHORT, ClientNodes, client_nodes, hosts_of_load, requests_so_far
from conftest import Drive
from ray_nodes import Nodes
from test_cluster import begun, wait_for

from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.serving.log import parse_serve_events
from bench_core.contract.serving.requests import RequestEvent
from bench_core.runs.load import load_run
from bench_core.verify.run import verify_run

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientNodes]:
    """One that has the server and two that send."""
    with client_nodes(tmp_path_factory.mktemp("clients")) as found:
        yield found


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


def test_a_killed_driver_leaves_no_client(nodes: Nodes, tmp_path: Path) -> None:
    before = hosts_of_load()
    load = ("--concurrency", "4", "--client-nodes", "1", *NAMED, "--max-serve-seconds", "60")
    driver = begun((*NULL, *load, "--cluster", nodes.address), tmp_path)
    wait_for(lambda: requests_so_far(tmp_path / "results" / "mine", "null.scripted.c4") > 20)
    driver.kill()
    driver.communicate()
    wait_for(lambda: hosts_of_load() <= before, 90)
