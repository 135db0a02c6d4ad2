"""Each engine in its own container, through the Docker SDK: GPU by UUID, no network, a read-only root."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable
from typing import Any, Literal

import docker
import docker.errors
from docker.models.containers import Container
from docker.types import DeviceRequest, LogConfig, Mount

from bench_core.contract import layout
from bench_core.contract.errors import BadInput, MayPass, first_line
from bench_core.contract.host import memory_bytes
from bench_core.contract.manifest import DeviceKind
from bench_core.contract.run import ImageInfo
from bench_core.drive.catalogue import Image
from bench_core.drive.docker_images import ImageBuilder, image_tag
from bench_core.drive.driver_identity import PREFIX, DriverIdentity, this_driver
from bench_core.drive.launcher import Ended, Launch, LineTaker, Target
from bench_core.drive.lines import LineSplitter, Tail
from bench_core.drive.silence import Silence

_CLIENT_TIMEOUT_S = 24 * 3600  # a build step may be silent for an hour; a stuck daemon is seen at connection
_MEMORY_SHARE = 0.95  # of the host's: what is left keeps the host answering when an engine asks for everything
_PIDS = 8192
_ENGINE_BACK_S = 120.0  # a restart takes seconds; an upgrade of the package a minute
_KILLED = 137


def connect() -> docker.DockerClient:
    """A client of the Docker engine that answers here.

    Raises:
        BadInput: none answers.
    """
    try:
        docker.from_env(timeout=10).ping()
        return docker.from_env(timeout=_CLIENT_TIMEOUT_S)
    except (docker.errors.DockerException, OSError) as error:
        raise BadInput(
            "no Docker daemon answers here", "start it, or use --launcher process, which needs none"
        ) from error


class DockerLauncher:
    """Launches containers, hardened as docs/architecture.md says."""

    name: Literal["docker"] = "docker"

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client
        self._builder = ImageBuilder(client)
        self._running: list[Container] = []
        self._stops = 0

    def recipe(self, image: Image, device: DeviceKind) -> str:
        """Digest of its Dockerfile, its files and those of its bases, and the name of what they are built on."""
        return self._builder.recipe(image, device)

    def clear_orphans(self, tell: Callable[[str], None]) -> int:
        """Removes containers of drivers that have ended on this machine; returns how many were removed.

        Another living driver's are left alone, and so is whatever cannot be known to be an orphan: other machines',
        other users', or those without labels, which a person or compose has started.
        """
        removed = 0
        for container in self._client.containers.list(all=True, filters={"label": f"{PREFIX}pid"}, ignore_removed=True):
            owner = DriverIdentity.of_labels(container.labels)
            ended = owner.has_ended(this_driver()) if owner is not None else None
            # Of an earlier boot nothing can run; what runs is another machine's of the same name.
            elsewhere = owner is not None and owner.boot != this_driver().boot and container.status == "running"
            if owner is None or not ended or elsewhere:
                continue
            what = container.labels.get("llm-bench.run") or container.labels.get("llm-bench.convert") or "no run"
            try:
                container.remove(force=True, v=True)
            except docker.errors.NotFound:
                continue
            except docker.errors.APIError as error:
                tell(f"container {container.name} of {what} could not be removed: {error.explanation or error}")
                continue
            tell(f"removed container {container.name}, left by driver {owner.pid} ({what})")
            removed += 1
        return removed

    def is_ready(self, image: Image, target: Target, device: DeviceKind) -> bool:
        """Whether the image is built from what the repository holds now."""
        return self._builder.is_current(image, target, device)

    def ensure(self, image: Image, target: Target, device: DeviceKind, tell: Callable[[str], None]) -> ImageInfo:
        """Builds the image where needed."""
        return self._builder.ensure(image, target, device, tell)

    def ensure_services(self, device: DeviceKind, tell: Callable[[str], None]) -> list[str]:
        """Builds the preparing service of compose.yaml."""
        return [self._builder.ensure_service("prepare", device, tell)]

    def run(self, launch: Launch, on_stdout: LineTaker) -> Ended:
        """One container's life."""
        started = time.monotonic()
        container = self._create(launch)
        self._running.append(container)
        tail = Tail()
        stream: Any = None
        try:
            stream = container.attach(stdout=True, stderr=True, stream=True, logs=True, demux=True)
            container.start()
            if self._stops:  # asked while it was being made, when there was nothing to pass it on to
                self._signal(container)
            lines = LineSplitter(on_stdout)
            silence = Silence(
                launch.silence_limit_s, lambda: _kill(container, "SIGTERM"), lambda: _kill(container, "SIGKILL")
            )
            with silence:
                for stdout, stderr in stream:
                    silence.heard()
                    if stdout:
                        lines.feed(stdout)
                    if stderr:
                        tail.feed(stderr)
            lines.end()
            code = int(container.wait()["StatusCode"])
            container.reload()
            out_of_memory = bool(container.attrs["State"]["OOMKilled"])
        except docker.errors.APIError as error:
            raise BadInput(f"{launch.labels} could not be started: {error.explanation or error}") from error
        except OSError as error:  # the connection has broken: requests' errors are OSErrors
            self._await_engine(error)
            return Ended(_KILLED, False, tail.text(), started, time.monotonic(), engine_lost=True)
        finally:
            self._running.remove(container)
            _let_go(stream)
            with contextlib.suppress(docker.errors.APIError, OSError):  # what stays is the next driver's to clear
                container.remove(force=True, v=True)
        return Ended(code, out_of_memory, tail.text(), started, time.monotonic(), silence.too_long)

    def stop(self) -> None:
        """SIGTERM to what runs, then SIGKILL."""
        self._stops += 1
        for container in list(self._running):
            self._signal(container)

    def _signal(self, container: Container) -> None:
        _kill(container, "SIGTERM" if self._stops == 1 else "SIGKILL")

    def _await_engine(self, error: OSError) -> None:
        """Waits for a Docker engine that has gone to come back.

        Raises:
            MayPass: it does not.
        """
        deadline = time.monotonic() + _ENGINE_BACK_S
        while time.monotonic() < deadline and not self._stops:
            with contextlib.suppress(docker.errors.DockerException, OSError):
                self._client.ping()
                return
            time.sleep(1.0)
        raise MayPass(
            f"the Docker engine has gone: {first_line(error)}", "start it, then go on with --resume"
        ) from error

    def _create(self, launch: Launch) -> Container:
        device: DeviceKind = "cuda" if launch.gpu else "cpu"
        memory = int(memory_bytes() * _MEMORY_SHARE)
        options: dict[str, Any] = {
            "image": image_tag(launch.image, launch.target, device),
            "command": [*launch.arguments, *_places(launch)],
            "name": f"llm-bench-{launch.image.name}-{secrets.token_hex(4)}",
            "labels": {f"llm-bench.{key}": value for key, value in launch.labels.items()} | this_driver().labels,
            "mounts": _mounts(launch),
            "user": f"{os.getuid()}:{os.getgid()}",
            "network_mode": "none",
            "read_only": True,
            "tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777,size=50%"},  # noqa: S108  # inside the container
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "pids_limit": _PIDS,
            "mem_limit": memory,
            "memswap_limit": memory,
            "shm_size": min(memory // 4, 16 << 30),
            "init": True,
            "working_dir": "/tmp",  # noqa: S108
            "log_config": LogConfig(type=LogConfig.types.JSON, config={"max-size": "16m", "max-file": "2"}),
            "detach": True,
        }
        if launch.gpu:
            options["device_requests"] = [DeviceRequest(device_ids=[launch.gpu.uuid], capabilities=[["gpu"]])]
        try:
            return self._client.containers.create(**options)
        except OSError as error:
            self._await_engine(error)
            return self._client.containers.create(**{**options, "name": f"{options['name']}-2"})
        except docker.errors.APIError as error:
            raise BadInput(f"no container for {launch.image.name}: {error.explanation or error}") from error


def _let_go(stream: Any) -> None:
    """Closes an attached stream's connection. The SDK makes its socket and its response hold each other, so that it
    would stay open until the garbage collector comes by: one more for each container."""
    response = getattr(stream, "_response", None)  # of CancellableStream, whose own close() leaves the descriptor open
    if response is not None:
        with contextlib.suppress(OSError):
            response.close()


def _kill(container: Container, signal: str) -> None:
    with contextlib.suppress(docker.errors.APIError):  # it has ended, or has not begun
        container.kill(signal)


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
