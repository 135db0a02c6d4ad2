"""What the Docker engine is asked to make of a launch: what the container may see, use and reach."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docker.types import DeviceRequest, LogConfig, Mount

from bench_core.contract.asked.manifest import MULTICAST_OFF, DeviceKind
from bench_core.contract.records import layout
from bench_core.drive.launch.box import box_user, limits
from bench_core.drive.launch.containers.build import image_tag
from bench_core.drive.launch.driver_identity import this_driver
from bench_core.drive.launch.launcher import Launch
from bench_core.drive.plan.catalogue import REPOSITORY

_NETWORK = frozenset({"network", "network_mode"})
_HOSTS = REPOSITORY / "docker" / "hosts"
_NO_IPV6 = "net.ipv6.conf.all.disable_ipv6"


def container_options(launch: Launch, other: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Arguments of the SDK's ``containers.create``.

    Args:
        other: options that are not those of an engine's container; a network among them.
    """
    device: DeviceKind = "cuda" if launch.gpu else "cpu"
    limit = limits()
    user, group = box_user()
    options: dict[str, Any] = {
        "image": image_tag(launch.image, launch.target, device),
        "command": [*launch.arguments, *_places(launch)],
        "name": f"llm-bench-{launch.image.name}-{secrets.token_hex(4)}",
        "labels": {f"llm-bench.{key}": value for key, value in launch.labels.items()} | this_driver().labels,
        "mounts": _mounts(launch),
        "user": f"{user}:{group}",
        "read_only": True,
        "tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777,size=50%"},  # noqa: S108  # inside the container
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": limit.pids,
        "mem_limit": limit.memory_bytes,
        "memswap_limit": limit.memory_bytes,
        "shm_size": limit.shm_bytes,
        "init": True,
        "working_dir": "/tmp",  # noqa: S108
        "log_config": LogConfig(type=LogConfig.types.JSON, config={"max-size": "16m", "max-file": "2"}),
        "detach": True,
    }
    if launch.gpu:
        uuids = [gpu.uuid for gpu in launch.gpus]
        options["device_requests"] = [DeviceRequest(device_ids=uuids, capabilities=[["gpu"]])]
    if launch.other_gpus:
        options["environment"] = MULTICAST_OFF
    options |= _placed(launch, limit.memory_bytes) | dict(other or {})
    if not options.keys() & _NETWORK:
        _without_network(options)
    return options


def _without_network(options: dict[str, Any]) -> None:
    """The kernel's own: a name space with a loopback and nothing else.

    With the mode ``none`` alone Docker keeps the same name space among its networks. Docker 20.10 starts its own
    program anew for that, in the middle of each container's start, which takes as much CPU time as all else of the
    start. What it would have set in the container is set here: the names of the loopback, and no IPv6.
    """
    options |= {"network_mode": "none", "network_disabled": True}
    options["mounts"] = [*options["mounts"], Mount("/etc/hosts", str(_HOSTS), type="bind", read_only=True)]
    if (Path("/proc/sys") / _NO_IPV6.replace(".", "/")).exists():
        options["sysctls"] = {_NO_IPV6: "1"}


def on_cpus(cpus: tuple[int, ...]) -> dict[str, str]:
    """Binds a container to these."""
    return {"cpuset_cpus": ",".join(map(str, cpus))}


def _mounts(launch: Launch) -> list[Mount]:
    """Bind mounts of exactly what the box may see; a missing source is an error, never a new folder of root's."""
    folders = launch.folders
    model = Mount(
        target=str(layout.MODELS_MOUNT / folders.model.name),
        source=str(folders.model.resolve()),
        type="bind",
        read_only=not folders.model_writable,
    )
    mounts = [model]
    if folders.data is not None:
        mounts.append(Mount(str(layout.DATA_MOUNT), str(folders.data.resolve()), type="bind", read_only=True))
    if folders.run is not None:
        target = layout.RESULTS_MOUNT / folders.run.name
        mounts.append(Mount(str(target), str(folders.run.resolve()), type="bind", read_only=False))
    return mounts


def _places(launch: Launch) -> list[str]:
    """The worker's own defaults are the mount points; only names are left to say."""
    places = ["--model-folder", launch.folders.model.name]
    if launch.folders.run is not None:
        places += ["--run-id", launch.folders.run.name]
    return places


def _placed(launch: Launch, limit_bytes: int) -> dict[str, Any]:
    """A worker's share of the host; nothing for one that has all of it."""
    place = launch.placement
    if place is None:
        return {}
    memory = min(limit_bytes, place.memory_bytes or limit_bytes)
    mems = {"cpuset_mems": ",".join(map(str, place.mems))} if place.memory == "bound" else {}
    return {**(on_cpus(place.cpus) if place.cpus else {}), **mems, "mem_limit": memory, "memswap_limit": memory}
