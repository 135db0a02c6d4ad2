"""What an engine can do from inside its box: nothing but measure. Each promise is tried to be broken from there.

The probe is an adapter in a container that the driver launches as it launches any engine; see docs/security.md.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from private_engine import WORK, Done, Driver, PrivateEngine, until

from bench_core.contract.records import layout

pytestmark = pytest.mark.docker

CANARIES = {
    "HF_TOKEN": "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",
    "HUGGING_FACE_HUB_TOKEN": "hf_canaryUnderItsOlderNameThatMustNotLeak",
    "AWS_SECRET_ACCESS_KEY": "canaryOfTheEnvironmentThatMustNotLeak",
}
MEMORY_BYTES = 512 << 20
PIDS = 300


class Ear:
    """Listens on every address of this machine, TCP and UDP on one port, and answers whoever comes."""

    def __init__(self) -> None:
        self.tcp = socket.create_server(("0.0.0.0", 0))  # noqa: S104  # to be reachable is what it is for
        self.port = self.tcp.getsockname()[1]
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("0.0.0.0", self.port))  # noqa: S104
        self.heard: list[str] = []
        for serve in (self._serve_tcp, self._serve_udp):
            threading.Thread(target=serve, daemon=True).start()

    def _serve_tcp(self) -> None:
        while True:
            try:
                channel, peer = self.tcp.accept()
            except OSError:
                return
            self.heard.append(f"tcp {peer[0]}")
            channel.close()

    def _serve_udp(self) -> None:
        while True:
            try:
                _, peer = self.udp.recvfrom(512)
                self.heard.append(f"udp {peer[0]}")
                self.udp.sendto(b"answer", peer)
            except OSError:
                return

    def close(self) -> None:
        self.tcp.close()
        self.udp.close()


def own_addresses() -> list[str]:
    """Of this machine: loopback, its network's, bridges of Docker."""
    shown = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
    return ["127.0.0.1", *(address for address in shown if ":" not in address)]


class Probed:
    """What the probe has seen in the driver's box, and in one without its walls; and how the driver called it."""

    def __init__(
        self, driver: Driver, done: Done, inspected: dict[str, Any], heard: list[str], open_box: dict[str, Any]
    ) -> None:
        self.driver = driver
        self.done = done
        self.inspected = inspected
        self.heard = heard
        self.open_box = open_box
        self.found: dict[str, Any] = _found((driver.cell("hostile.probe.b1") / layout.LOG_FILE).read_text("utf-8"))


def _found(log: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(next(line for line in log.splitlines() if line.startswith('{"uid"')))
    return found


@pytest.fixture(scope="module")
def probed(
    engine_home: PrivateEngine, fault_repository: Path, shared_material: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Probed]:
    engine_home.heal()
    driver = Driver(engine_home, fault_repository, shared_material, tmp_path_factory.mktemp("probed"))
    ear = Ear()
    targets = ",".join(f"{address}:{ear.port}" for address in own_addresses())
    running = driver.begin(
        "--images", "hostile", "--variants", "hostile.probe", "--batch-sizes", "1", *WORK, "--run-id", "mine",
        "--option", f"hostile.targets={targets}",
        environment={"BENCH_BOX_MEMORY_BYTES": str(MEMORY_BYTES), "BENCH_BOX_PIDS": str(PIDS), **CANARIES},
    )  # fmt: skip
    box = until(lambda: next(iter(engine_home.containers()), None), "the probe's box")
    api: Any = engine_home.client.api
    inspected = api.inspect_container(box.id)
    inspected["image"] = api.inspect_image(inspected["Image"])
    inspected["history"] = api.history(inspected["Image"])
    done = running.done()
    assert done.code == 0, done.err
    heard = list(ear.heard)
    open_box = _in_an_open_box(engine_home, inspected["Image"], targets)
    yield Probed(driver, done, inspected, heard, open_box)
    ear.close()


def _in_an_open_box(engine: PrivateEngine, image: str, targets: str) -> dict[str, Any]:
    """The same probe as a careless `docker run` would start it, with the host's network, its socket and its secrets:
    shows that it sees what is there to be seen."""
    code = (
        "import sys, hostile_adapter as h; sys.path.insert(0, '/opt/bench/image'); "
        f"h._say(__import__('json').dumps(h._probe({targets!r})))"
    )
    log: bytes = engine.client.containers.run(
        image, ["-c", code], entrypoint="python", user="0:0", network_mode="host", security_opt=["seccomp=unconfined"],
        remove=True, environment={"PYTHONPATH": "/opt/bench:/opt/bench/image", **CANARIES}, stdout=False, stderr=True,
        volumes={f"{engine.home}/docker.sock": {"bind": "/var/run/docker.sock", "mode": "rw"}},
    )  # fmt: skip
    return _found(log.decode())


def test_the_probe_would_see_it(probed: Probed) -> None:
    """Without the driver's walls it connects, is root, holds capabilities, finds the socket and the secrets."""
    found = probed.open_box
    assert set(found["tcp"].values()) == set(found["udp"].values()) == {"done"}
    assert found["uid"] == 0
    assert int(found["status"]["CapEff"], 16) > 0
    assert found["sockets"]
    assert CANARIES["HF_TOKEN"] in str(found["environments"])
    assert found["status"]["Seccomp"] == "0"
    assert found["mknod"] == found["chown"] == found["setuid"] == found["su"] == "done"


def test_no_name_is_found_and_no_connection_is_made(probed: Probed) -> None:
    """To the machine's own addresses, where something listens, by TCP and by UDP as DNS asks, and outside."""
    found = probed.found
    assert found["interfaces"] in (["lo"], None)
    assert found["name"].startswith("gaierror")
    assert len(found["tcp"]) == len(own_addresses())
    for target, came_of_it in {**found["tcp"], **{f"udp {k}": v for k, v in found["udp"].items()}}.items():
        # The box's own loopback is there, and nobody on it.
        own = ("ConnectionRefusedError", "TimeoutError") if "127.0.0.1" in target else ()
        assert came_of_it.startswith(("OSError Network is unreachable", *own)), (target, came_of_it)
    assert "unreachable" in found["outside"]
    assert probed.heard == [], "something came out of the box"


def test_it_is_nobody_without_capabilities_new_privileges_or_system_calls_of_its_choice(probed: Probed) -> None:
    found = probed.found
    expected = os.getuid() or 65532
    assert (found["uid"], found["gid"]) == (expected, os.getgid() or 65532)
    assert 0 not in (found["uid"], found["gid"], *found["groups"])
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found["status"][kind], 16) == 0, kind
    assert found["status"]["NoNewPrivs"] == "1"
    assert found["status"]["Seccomp"] == "2"
    for what in ("mount", "unshare", "chown", "setuid", "mknod", "su", "kernel log", "memory of the machine"):
        assert found[what] != "done", what
    assert found["disks"] == []


def test_it_has_limits_of_processes_memory_and_shared_memory(probed: Probed) -> None:
    """Read from its own control group, as set for this run; what applies without a word is in test_box.py."""
    found = probed.found
    assert found["pids_limit"] == str(PIDS)
    assert int(found["memory_limit"]) == MEMORY_BYTES
    assert found["shm_bytes"] == MEMORY_BYTES // 4
    host = probed.inspected["HostConfig"]
    assert host["MemorySwap"] == host["Memory"] == MEMORY_BYTES


def test_it_can_write_to_its_own_results_and_memory_alone(probed: Probed) -> None:
    mine = [place for place in probed.found["writable"] if place != "/dev/mqueue"]  # of some kernels; its own, too
    assert mine == ["/dev/shm", "/results/mine", "/tmp"]  # noqa: S108
    options = {place: given.split(",") for place, _, given in probed.found["mounts"]}
    for place in ("/", "/data", next(place for place in options if place.startswith("/models/"))):
        assert "ro" in options[place]
    assert "/" in probed.open_box["writable"]
    assert probed.found["sockets"] == []
    assert "docker.sock" not in json.dumps(probed.found["mounts"]) + json.dumps(probed.inspected["Mounts"])


def test_no_variable_of_the_hosts_environment_is_in_the_box(probed: Probed) -> None:
    given = set(probed.found["environment"])
    assert given <= {
        "PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "HOME", "LOGNAME", "HOSTNAME", "LC_CTYPE",
        "PYDANTIC_DISABLE_PLUGINS",
    }  # fmt: skip
    for secret in CANARIES.values():
        assert secret not in json.dumps(probed.found)


def test_the_hub_token_is_nowhere_but_where_it_is_used(probed: Probed) -> None:
    """Not in an argument, what Docker tells of container, image and history, a log, an event, a result or a report;
    that preparing does get it: tests/prepare/test_prepare_hub.py."""
    words = json.dumps(probed.inspected, default=str) + probed.done.out + probed.done.err
    engine_log = (probed.driver.engine.home / "engine.log").read_text(encoding="utf-8", errors="replace")
    layer = subprocess.run(
        ["docker", "--host", probed.driver.engine.url, "save", probed.inspected["Image"]],
        capture_output=True,
        check=True,
    ).stdout
    folders = (probed.driver.results, probed.driver._shared / "data", probed.driver._shared / "models")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 15
    for secret in CANARIES.values():
        assert secret not in words + engine_log
        assert secret.encode() not in layer
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
