"""What becomes of a run when a cluster does what clusters do."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import ROOT, Drive, Made
from ray_nodes import Nodes, free_port
from test_cluster import NULL, QUICK, begun, cells_with, hosts, wait_for

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.placement import Placement
from bench_core.contract.records.run import GpuInfo, HostInfo
from bench_core.drive.ask.request import Suite
from bench_core.drive.cluster.hosts import Cluster, ClusterHosts, Node
from bench_core.drive.cluster.link import Link, Member
from bench_core.drive.cluster.mail import Grown, Mail
from bench_core.drive.cluster.parcels import Carrier, data_parcel
from bench_core.drive.cluster.records import NodeReport, Terms
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.plan import make_plan
from bench_core.runs.load import load_run

ray = pytest.mark.cluster
HOST = HostInfo(cpu="c", cores=8, memory_bytes=1 << 30, system="Linux", python="3.11")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """One node that stays."""
    with pytest.MonkeyPatch.context() as patch:
        found = Nodes(tmp_path_factory.mktemp("faults"), patch)
        try:
            found.add("steady", labels={"rack": "1"})
            yield found
        finally:
            found.close()


@ray
def test_a_node_that_joins_late_is_the_next_calls(nodes: Nodes, tmp_path: Path, make_run: Made) -> None:
    slow = ("--option", "null.load_s=0", "--option", "null.ttft_s=0.1")
    driver = begun(
        (*NULL, *slow, "--batch-sizes", "1", "--repeats", "2", "--run-id", "mine", "--cluster", nodes.address), tmp_path
    )
    run = tmp_path / "results" / "mine"
    try:
        wait_for(lambda: bool(cells_with(run, layout.EVENTS_FILE)))
        nodes.add("late")
        out, _ = driver.communicate(timeout=120)
    finally:
        driver.kill()
    try:
        assert driver.returncode == 0, out
        assert set(hosts(run).values()) == {"steady"}
        make_run(tmp_path, "--resume", "mine", "--repeats", "6", "--cluster", nodes.address)
    finally:
        nodes.kill("late")
    assert set(hosts(run).values()) == {"steady", "late"}
    assert all(row.measured for row in load_run(run).rows)


@ray
def test_a_node_that_cannot_be_used_is_left_out_and_named(nodes: Nodes, drive: Drive, tmp_path: Path) -> None:
    """One whose clone is in another state, and one that has no place for what it is sent."""
    other = tmp_path / "clone"
    for name in ("bench_core", "images", "docker"):
        shutil.copytree(ROOT / name, other / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "bench_core" / "__init__.py").open("a", encoding="utf-8") as stream:
        stream.write("# another state\n")
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    nodes.add("another", {"PYTHONPATH": str(other)})
    nodes.add("full", {"BENCH_NODE_FOLDER": str(file / "below")})
    try:
        called = drive(*NULL, *QUICK, "--batch-sizes", "1", "--cluster", nodes.address, "--dry-run")
    finally:
        nodes.kill("another")
        nodes.kill("full")
    assert called.code == 0, called.err
    assert "1 node, 1 launch at a time" in called.out
    assert "node another is left out: its clone of this repository holds another state than the driver's" in called.out
    assert "node full is left out: " in called.out


@ray
def test_what_is_larger_than_the_object_store_goes_through_it_in_pieces(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(bytes(range(256)) * (200 << 12))  # 200 MiB through a store of 80
    parcel = data_parcel(tmp_path, ["large.bin"])
    link = Link(nodes.address)
    told: list[str] = []
    try:
        member = next(one for one in link.members() if one.name == "steady")
        carrier = Carrier(link, {"steady": link.porter(member)}, told.append)
        assert carrier.carry(parcel, ["steady"]) == {}
        assert carrier.carry(parcel, ["steady"]) == {}
    finally:
        link.close()
    assert len(told) == 1, "it is sent once"
    arrived = nodes.folder("steady") / "parcels" / parcel.key / "large.bin"
    assert arrived.stat().st_size == 200 << 20
    assert arrived.read_bytes() == (tmp_path / "large.bin").read_bytes()


@ray
def test_a_head_that_is_gone_ends_the_run_and_another_one_goes_on_with_it(tmp_path: Path) -> None:
    slow = ("--option", "null.load_s=0", "--option", "null.ttft_s=0.1")
    run = tmp_path / "results" / "mine"
    with pytest.MonkeyPatch.context() as patch:
        first = Nodes(tmp_path / "first", patch)
        try:
            first.add("node0")
            command = (*NULL, *slow, "--batch-sizes", "1", "--repeats", "6", "--run-id", "mine")
            driver = begun((*command, "--cluster", first.address), tmp_path)
            wait_for(lambda: len(cells_with(run, layout.OUTCOME_FILE)) >= 2)
        finally:
            first.close()
        out, _ = driver.communicate(timeout=240)
        assert driver.returncode == 3, out
        assert "error: node0 is lost: the cluster at ray://" in out
        complete = sum(row.measured for row in load_run(run).rows)
        assert 2 <= complete < 6
        again = Nodes(tmp_path / "again", patch)
        try:
            again.add("node0")
            resumed = begun(("--resume", "mine", "--cluster", again.address), tmp_path)
            out, _ = resumed.communicate(timeout=240)
        finally:
            again.close()
    assert resumed.returncode == 0, out
    assert f"{complete} of 6 cells asked for are complete and kept" in out
    assert all(row.measured for row in load_run(run).rows)


@ray
def test_a_cluster_with_a_token_refuses_who_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own commands, as docs/fleet.md has them."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("BENCH_NODE_FOLDER", str(tmp_path / "node"))
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "GRPC_ENABLE_FORK_SUPPORT": "0"}
    gcs, client = free_port(), free_port()
    start = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", "2"),
        *("--node-ip-address", "127.0.0.1", "--port", str(gcs), "--ray-client-server-port", str(client)),
        *("--include-dashboard", "false", "--disable-usage-stats", "--object-store-memory", str(80 << 20)),
    ]
    command = (*NULL, *QUICK, "--batch-sizes", "1", "--run-id", "mine", "--cluster", f"ray://127.0.0.1:{client}")
    with (tmp_path / "head.log").open("wb") as log:
        head = subprocess.Popen(start, env={**os.environ, **secret}, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: b"Ray runtime started" in (tmp_path / "head.log").read_bytes())
        refused = []  # beside each other: Ray's client tries for half a minute
        for variables in ({}, {**secret, "RAY_AUTH_TOKEN": secrets.token_hex(32)}):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("RAY_AUTH_MODE", "disabled")
                for name, value in variables.items():
                    patch.setenv(name, value)
                refused.append(begun(command, tmp_path))
        for driver in refused:
            out, _ = driver.communicate(timeout=120)
            assert driver.returncode == 3, out
            assert "error: the cluster at ray://127.0.0.1:" in out
        assert not (tmp_path / "results").exists()
        for name, value in secret.items():
            monkeypatch.setenv(name, value)
        allowed = begun(command, tmp_path)
        out, _ = allowed.communicate(timeout=120)
        assert allowed.returncode == 0, out
    finally:
        head.terminate()
        head.wait(30)


# --- without a cluster ------------------------------------------------------------------------------------------------


def gpu(number: int, name: str, driver: str) -> GpuInfo:
    return GpuInfo(uuid=f"GPU-{number}", name=name, memory_bytes=80 << 30, driver_version=driver)


def node(name: str, *gpus: GpuInfo, cpus: float = 8) -> Node:
    shares = tuple(Placement(worker=one.uuid, workers=len(gpus)) for one in gpus)
    report = NodeReport(host=HOST, code="c", gpus=gpus, shares=shares)
    return Node(Member(name, name, cpus, len(gpus)), report)


class Nowhere:
    address = "ray://nowhere:1"


def cluster_of(*found: Node) -> Cluster:
    return Cluster(cast(Link, Nowhere()), Terms(launcher="docker", device="cuda", run=""), list(found), {})


def test_several_models_of_gpu_are_several_runs() -> None:
    found = cluster_of(
        node("a", gpu(0, "H200", "1"), gpu(1, "H200", "1")), node("b", gpu(2, "L4", "1")), node("c", gpu(3, "L4", "1"))
    )
    kinds = {words: [one.member.name for one in members] for (words, _), members in found.kinds.items()}
    assert kinds == {"H200": ["a"], "L4": ["b", "c"]}


def test_nodes_with_several_driver_versions_are_used_and_the_plan_says_so() -> None:
    found = cluster_of(node("a", gpu(0, "H200", "580.1")), node("b", gpu(1, "H200", "570.9")))
    suite = Suite(images=("null",), batch_sizes=(1, 2), repeats=2)
    of_both = ClusterHosts(found, found.nodes, suite)
    words = of_both.words(make_plan(suite, Catalogue(), "cpu"), lambda job: 1.0)
    assert "their GPUs have several driver versions: 570.9, 580.1; the report names them" in words
    assert [line.partition(" (")[0] for line in words[2:]] == ["on GPU-0", "on GPU-1"]
    _, gpus = of_both.devices(suite, build_only=False)
    assert [one.driver_version for one in gpus] == ["580.1", "570.9"]


def test_a_gpu_is_asked_of_ray_with_its_share_of_the_nodes_cpus() -> None:
    found = cluster_of(node("a", *(gpu(number, "H200", "1") for number in range(4)), cpus=30))
    workers = ClusterHosts(found, found.nodes, Suite()).workers((), Suite(), "docker")
    assert [worker.name for worker in workers] == [f"a GPU {number}" for number in range(4)]
    slots = ClusterHosts(found, found.nodes, Suite())._slots
    assert {(slot.demand.cpus, slot.demand.gpus) for slot in slots} == {(7.0, 1)}
    with pytest.raises(BadInput, match="--compare-on-one-gpu"):
        ClusterHosts(found, found.nodes, Suite(compare_on_one_gpu=True))
    with pytest.raises(BadInput, match="--gpus names GPUs of one host"):
        ClusterHosts(found, found.nodes, Suite(gpus=("0",)))


def test_files_go_ahead_of_the_words_that_follow_them_and_a_replaced_file_is_sent_anew(tmp_path: Path) -> None:
    sent: list[tuple[int, str, Any]] = []

    def put(items: list[tuple[int, str, Any]]) -> int:
        sent.extend(items)
        return 0

    mail = Mail(7, put, tmp_path, lambda: None)
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "outcome.json").write_bytes(b"1")
    (tmp_path / "cells" / "result.json").write_bytes(b"2")
    mail.send("line", b"ended")
    mail.close()
    assert [kind for _, kind, _ in sent] == ["file", "file", "line"]
    assert [what[0] for _, kind, what in sent if kind == "file"] == ["cells/result.json", "cells/outcome.json"]

    grown = Grown(tmp_path)
    assert len(list(grown.pieces())) == 2
    with (tmp_path / "cells" / "result.json").open("ab") as stream:
        stream.write(b"3")
    assert list(grown.pieces()) == [("cells/result.json", 1, b"3")]
    (tmp_path / "cells" / ".new").write_bytes(b"other")
    (tmp_path / "cells" / ".new").replace(tmp_path / "cells" / "result.json")
    assert list(grown.pieces()) == [("cells/result.json", 0, b"other")]


def test_a_mailbox_that_has_gone_ends_the_launch() -> None:
    stops: list[float] = []

    def put(_items: object) -> int:
        raise ConnectionError("gone")

    mail = Mail(1, put, None, lambda: stops.append(time.monotonic()))
    mail.send("line", b"x")
    with pytest.raises(ConnectionError, match="gone"):
        mail.close()
    assert len(stops) == 2, "asked, then ended"
