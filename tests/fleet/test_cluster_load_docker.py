"""A server in a container that load generators of other nodes reach, and what it reaches itself."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container
from ray_nodes import Nodes
from test_cluster import begun, wait_for
from test_cluster_load import SHORT, requests_so_far

from bench_core.contract.records import layout
from bench_core.contract.records.spec import CellSpec
from bench_core.drive.launch.published import own_addresses
from bench_core.runs.load import load_run
from bench_core.verify.run import verify_run

pytestmark = [pytest.mark.alone, pytest.mark.docker]

CELL = "null.scripted.c6"
NULL = (
    *("--images", "null", "--device", "cpu", "--launcher", "docker", "--yes", "--samples", "16", "--run-id", "mine"),
    *("--max-new-tokens", "8", "--no-harness-check", "--control", "none", "--beside-sample", "0", "--concurrency", "6"),
    *("--option", "null.load_s=0", "--option", "null.ttft_s=0.05", "--option", "null.tpot_s=0.005", *SHORT),
)
LOOK = """
import socket, sys
def said(kind, address):
    with socket.socket(socket.AF_INET, kind) as one:
        one.settimeout(3)
        try:
            one.connect(address)
            if kind == socket.SOCK_DGRAM:
                one.send(b"question")
                one.recv(64)
            return "answered"
        except OSError as error:
            return type(error).__name__
print(said(socket.SOCK_STREAM, ("198.51.100.1", 443)), said(socket.SOCK_STREAM, ("1.1.1.1", 443)))
print(said(socket.SOCK_DGRAM, ("1.1.1.1", 53)))
try:
    print(socket.gethostbyname("example.org"))
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three that share this machine's engine."""
    with pytest.MonkeyPatch.context() as patch:
        found = Nodes(tmp_path_factory.mktemp("nodes"), patch)
        try:
            for number in range(3):
                found.add(f"node{number}")
            yield found
        finally:
            found.close()


def outer_address() -> str:
    """Of this machine, not loopback's."""
    return next(one for one in own_addresses() if not one.startswith("127."))


def server_of(client: docker.DockerClient) -> Container:
    (found,) = (
        one
        for one in client.containers.list(filters={"label": "llm-bench.run=mine"})
        if str(one.name).startswith("llm-bench-null") and "--serve" in one.attrs["Config"]["Cmd"]
    )
    return found


def test_a_server_that_others_reach_begins_nothing_to_the_outside(
    nodes: Nodes, docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    address = outer_address()
    load = ("--client-nodes", "2", "--serve-address", address, "--cluster", nodes.address)
    driver = begun((*NULL, *load), tmp_path)
    run = tmp_path / "results" / "mine"
    told: list[str] = []
    try:
        wait_for(lambda: requests_so_far(run, CELL) > 20, 300)
        server = server_of(docker_client)
        ports = server.attrs["NetworkSettings"]["Ports"]
        looking = threading.Thread(
            target=lambda: told.append(bytes(server.exec_run(["python", "-c", LOOK]).output).decode()),
            daemon=True,  # type: ignore[arg-type]
        )
        looking.start()
        (published,) = [(port, at) for port, at in ports.items() if at]
        assert published[0] == "8000/tcp"
        assert [one["HostIp"] for one in published[1]] == [address], "on the address that was named, and no other"
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", int(published[1][0]["HostPort"])), timeout=5)
        looking.join(60)
        out, _ = driver.communicate(timeout=180)
    finally:
        driver.kill()
    assert driver.returncode == 0, out
    words = told[0].split()
    assert "answered" not in words, words
    assert len(words) == 4
    assert words[3] == "gaierror", "no name is found"
    (row,) = load_run(run).served
    assert row.measured, row.problem
    assert row.breaches == ()
    assert [one.node for one in row.clients] == ["node1", "node2"]
    spec = CellSpec.read(layout.cell_folder(run, CELL) / layout.SPEC_FILE)
    assert spec.server is not None
    assert spec.server.network == "published"
    assert verify_run(run).differences == ()
    assert not docker_client.containers.list(all=True, filters={"label": "llm-bench.run=mine"})
    assert not docker_client.networks.list(filters={"label": "llm-bench.run=mine"})
