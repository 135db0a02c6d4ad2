"""What the Docker engine is asked to make: a container with no network, or with the one that it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench_core.drive.launch.containers.options import container_options
from bench_core.drive.launch.launcher import Folders, Launch
from bench_core.drive.plan.catalogue import Catalogue

HOSTS = "/etc/hosts"


def asked(tmp_path: Path, **other: Any) -> dict[str, Any]:
    return container_options(Launch(Catalogue().get("null"), "measure", (), Folders(tmp_path, "none")), other)


def test_a_container_without_a_network_knows_the_loopbacks_names_and_docker_nothing_of_it(tmp_path: Path) -> None:
    options = asked(tmp_path)
    assert (options["network_mode"], options["network_disabled"]) == ("none", True)
    (hosts,) = [mount for mount in options["mounts"] if mount["Target"] == HOSTS]
    assert hosts["ReadOnly"] is True
    lines = [line.split() for line in Path(hosts["Source"]).read_text("utf-8").splitlines()]
    assert [address for address, *names in lines if "localhost" in names] == ["127.0.0.1", "::1"]
    assert Path(hosts["Source"]).stat().st_mode & 0o044 == 0o044, "a box is nobody, who reads it too"
    off = options.get("sysctls", {}).get("net.ipv6.conf.all.disable_ipv6") == "1"
    assert off == Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").exists(), "as Docker does, and where there is IPv6"


@pytest.mark.parametrize("other", [{"network": "meeting"}, {"network_mode": "container:server"}])
def test_a_container_with_a_network_has_dockers_own_files(tmp_path: Path, other: dict[str, Any]) -> None:
    options = asked(tmp_path, **other)
    assert not options.keys() & {"network_disabled", "sysctls"}
    assert {name: options.get(name) for name in ("network", "network_mode") if name in options} == other
    assert not [mount for mount in options["mounts"] if mount["Target"] == HOSTS]
