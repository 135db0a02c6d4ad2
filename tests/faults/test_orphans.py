"""A driver clears away what drivers that have ended left on its machine, and never touches anything else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import docker.errors
import pytest

from bench_core.drive.launch.containers.launcher import DockerLauncher
from bench_core.drive.launch.driver_identity import DriverIdentity, this_driver
from bench_core.drive.launch.launcher import Folders, Launch
from bench_core.drive.plan.catalogue import Catalogue


@dataclass
class FakeContainer:
    """What the launcher asks of a container."""

    name: str
    labels: dict[str, str]
    status: str = "running"
    removed: bool = False
    fails: Exception | None = None
    signals: list[str] = field(default_factory=list)
    stream: list[tuple[bytes | None, bytes | None]] = field(default_factory=list)
    on_start: Any = None
    attrs: dict[str, Any] = field(default_factory=lambda: {"State": {"OOMKilled": False}})

    def remove(self, force: bool = False, v: bool = False) -> None:
        if self.fails is not None:
            raise self.fails
        self.removed = True

    def attach(self, **_: Any) -> Any:
        return iter(self.stream)

    def start(self) -> None:
        if self.on_start:
            self.on_start()

    def kill(self, signal: str) -> None:
        self.signals.append(signal)

    def wait(self, timeout: float | None = None) -> dict[str, int]:
        return {"StatusCode": 18}

    def reload(self) -> None:
        pass


class FakeNetwork:
    """A network that a driver has made."""

    def __init__(self, name: str, labels: dict[str, str]) -> None:
        self.name = name
        self.attrs = {"Labels": labels}
        self.removed = False

    def remove(self) -> None:
        self.removed = True


class FakeNetworks:
    """Networks by label."""

    def __init__(self) -> None:
        self.there: list[FakeNetwork] = []

    def list(self, *, filters: dict[str, str]) -> list[FakeNetwork]:
        return [network for network in self.there if filters["label"] in network.attrs["Labels"]]


class FakeClient:
    """Containers by label, and one to be made."""

    def __init__(self, *containers: FakeContainer) -> None:
        self.there = list(containers)
        self.networks = FakeNetworks()
        self.containers = self
        self.made: dict[str, Any] = {}
        self.next = FakeContainer("new", {})

    def list(self, *, all: bool, filters: dict[str, str], ignore_removed: bool) -> list[FakeContainer]:  # noqa: A002
        assert all
        assert ignore_removed
        return [container for container in self.there if filters["label"] in container.labels]

    def ping(self) -> bool:
        return True

    def create(self, **options: Any) -> FakeContainer:
        self.made = options
        return self.next


def launcher(client: FakeClient) -> DockerLauncher:
    return DockerLauncher(client)  # type: ignore[arg-type]


def dead() -> DriverIdentity:
    """A driver of this machine that has just ended."""
    script = "from bench_core.drive.launch.driver_identity import this_driver as t; print(repr(t()))"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    identity = eval(told, {"DriverIdentity": DriverIdentity})  # noqa: S307  # our own words
    assert isinstance(identity, DriverIdentity)
    return identity


def box(name: str, owner: DriverIdentity, **more: Any) -> FakeContainer:
    return FakeContainer(name, {**owner.labels, "llm-bench.run": "night"}, **more)


def test_only_what_an_ended_driver_of_this_machine_left_is_removed() -> None:
    gone, me = dead(), this_driver()
    orphan = box("orphan", gone)
    reused = box("reused", replace(me, started="1"))  # its number belongs to another process now
    exited = box("exited", replace(gone, boot="earlier"), status="exited")
    theirs = [
        box("mine", me),
        box("another machine", replace(gone, host="elsewhere")),
        box("another user", replace(gone, uid="12345")),
        box("another name space", replace(gone, namespace="1")),
        box("the same name, running", replace(gone, boot="another")),
        FakeContainer("half a label", {"llm-bench.driver-pid": gone.pid}),
        FakeContainer("a person's", {}),
    ]
    told: list[str] = []
    assert launcher(FakeClient(orphan, reused, exited, *theirs)).clear_orphans(told.append) == 3
    assert (orphan.removed, reused.removed, exited.removed) == (True, True, True)
    assert [container.name for container in theirs if container.removed] == []
    assert told[0] == f"removed container orphan, left by driver {gone.pid} (night)"


def test_a_network_of_an_ended_driver_is_removed_and_no_other() -> None:
    gone, me = dead(), this_driver()
    left, mine, persons = (
        FakeNetwork("left", gone.labels), FakeNetwork("mine", me.labels), FakeNetwork("a person's", {}),
    )  # fmt: skip
    client = FakeClient()
    client.networks.there = [left, mine, persons]
    told: list[str] = []
    assert launcher(client).clear_orphans(told.append) == 0, "containers are counted"
    assert [network.removed for network in (left, mine, persons)] == [True, False, False]
    assert told == [f"removed network left, left by driver {gone.pid}"]


def test_an_orphan_that_another_driver_removes_first_is_no_failure() -> None:
    gone = dead()
    raced = box("raced", gone, fails=docker.errors.NotFound("gone"))
    stuck = box("stuck", gone, fails=docker.errors.APIError("device or resource busy"))
    told: list[str] = []
    assert launcher(FakeClient(raced, stuck)).clear_orphans(told.append) == 0
    assert len(told) == 1
    assert "stuck" in told[0]
    assert "busy" in told[0]


def test_a_living_driver_is_known_by_its_start_and_not_only_by_its_number() -> None:
    me = this_driver()
    assert me.has_ended(me) is False
    assert replace(me, started="1").has_ended(me) is True
    assert replace(me, pid="not a number").has_ended(me) is True
    assert DriverIdentity.of_labels(me.labels) == me
    assert DriverIdentity.of_labels({}) is None


@pytest.fixture
def launch(tmp_path: Any) -> Launch:
    (tmp_path / "toy").mkdir()
    return Launch(
        image=Catalogue().get("null"),
        target="measure",
        arguments=(),
        folders=Folders(tmp_path / "toy", "none"),
        labels={"run": "night", "cells": "null.scripted.b1"},
    )


def test_a_container_says_whose_it_is_and_what_it_measures(launch: Launch) -> None:
    client = FakeClient()
    launcher(client).run(launch, lambda _line: None)
    labels = client.made["labels"]
    assert labels["llm-bench.run"] == "night"
    assert labels["llm-bench.cells"] == "null.scripted.b1"
    assert DriverIdentity.of_labels(labels) == this_driver()
    assert client.next.removed


def test_one_stop_is_a_request_two_are_an_order(launch: Launch) -> None:
    client = FakeClient()
    box = launcher(client)

    def twice() -> Any:
        box.stop()
        box.stop()
        yield (None, b"bye\n")

    client.next.stream = twice()
    ended = box.run(launch, lambda _line: None)
    assert client.next.signals == ["SIGTERM", "SIGKILL"]
    assert ended.stderr_tail == "bye\n"
    assert client.next.removed


def test_a_stop_that_comes_while_the_container_is_made_is_not_lost(launch: Launch) -> None:
    client = FakeClient()
    box = launcher(client)
    box.stop()
    box.run(launch, lambda _line: None)
    assert client.next.signals == ["SIGTERM"]
