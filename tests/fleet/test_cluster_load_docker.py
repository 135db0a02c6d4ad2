"""A server in a container that load generators of other nodes reach, and what it reaches itself."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from client_nodes import requests_so_far
from docker.models.containers import Container
from ray_nodes import Nodes
from test_cluster import begun, wait_for

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
    *("--option", "null.load_s=0", "--option", "null.ttft_s=0.05", "--option", "null.tpot_s=0.005"),
    *("--max-ramp-seconds", "2", "--serve-precision", "0.00001", "--max-serve-seconds", "20"),  # all of the time
)
# Asks a server of names by its address, over UDP and TCP, then the container's own resolver: the Docker engine.
LOOK = """
import socket, struct, sys
QUERY = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + b"\\x07example\\x03org\\0" + struct.pack(">2H", 1, 1)
def said(kind, address):
    with socket.socket(socket.AF_INET, kind) as one:
        one.settimeout(3)
        try:
            one.connect((address, 53))
            if kind == socket.SOCK_STREAM:
                return "answered"
            one.send(QUERY)
            return "refused" if one.recv(512)[3] & 15 in (2, 5) else "answered"  # it could not or would not ask others
        except OSError as error:
            return type(error).__name__
given = sys.argv[1]
print(said(socket.SOCK_DGRAM, given), said(socket.SOCK_STREAM, given), said(socket.SOCK_DGRAM, "127.0.0.11"))
"""


def name_server() -> str:
    """That this machine asks."""
    lines = Path("/etc/resolv.conf").read_text(encoding="utf-8").splitlines()
    return next(line.split()[1] for line in lines if line.startswith("nameserver"))


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


def look(server: Container, told: list[str]) -> None:
    done = server.exec_run(["python", "-c", LOOK, name_server()])
    assert isinstance(done.output, bytes)
    told.append(done.output.decode())


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
        looking = threading.Thread(target=look, args=(server, told), daemon=True)
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
    assert len(told[0].split()) == 3, told
    assert "answered" not in told[0].split(), told
    careless = docker_client.containers.run(
        "llm-bench/null:cpu", [LOOK, name_server()], entrypoint=["python", "-c"], remove=True
    )
    assert "answered" in careless.decode().split(), "without these options the probe notices"
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
