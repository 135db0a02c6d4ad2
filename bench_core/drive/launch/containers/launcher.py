"""Each engine in its own container, through the Docker SDK: GPU by UUID, no network, a read-only root."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import docker
import docker.errors
from docker.models.containers import Container

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.errors import MayPass, first_line
from bench_core.contract.records.run import ImageInfo
from bench_core.contract.serving.sidecar import SERVER_GONE
from bench_core.drive.launch.box import Doors, require_readable
from bench_core.drive.launch.containers.build import ImageBuilder, tag_of
from bench_core.drive.launch.containers.options import container_options, on_cpus
from bench_core.drive.launch.containers.pulse import EngineSilent, Pulse, followed, patience_s
from bench_core.drive.launch.containers.served import SERVER_PORT, Meeting, Watch, remove_network
from bench_core.drive.launch.driver_identity import PREFIX, DriverIdentity, this_driver
from bench_core.drive.launch.launcher import Ended, Launch, LineTaker, Target
from bench_core.drive.launch.silence import Silence
from bench_core.drive.plan.builds import Build
from bench_core.drive.plan.catalogue import Image
from bench_core.system.cpus import deal
from bench_core.system.lines import LineSplitter, Tail

_KILLED = 137
_NOT_STARTED = 125  # as `docker run` has it
_IMPATIENT_S = 5.0  # how long the engine may not answer somebody who has asked twice to stop
_ATTEMPTS = 3  # at making a container, while the engine comes and goes
_LONGEST_CAUSE = 250
_SIGNAL_S = 2.0  # to pass on a signal; an engine that hangs may not hold up the next one


class DockerLauncher:
    """Launches containers, hardened as docs/architecture.md says."""

    name: Literal["docker"] = "docker"

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client
        self._patience_s = patience_s()
        self._builder = ImageBuilder(client)
        self._doors = Doors()
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
        for network in self._client.networks.list(filters={"label": f"{PREFIX}pid"}):
            owner = DriverIdentity.of_labels(network.attrs.get("Labels") or {})
            if owner is not None and owner.has_ended(this_driver()) and remove_network(network):
                tell(f"removed network {network.name}, left by driver {owner.pid}")
        return removed

    def is_ready(self, image: Image, target: Target, device: DeviceKind) -> bool:
        """Whether the image is built from what the repository holds now."""
        return self._builder.is_current(image, target, device)

    def builds(self, image: Image, target: Target, device: DeviceKind) -> list[Build]:
        """The image and the bases below it, as far as they are not current."""
        return self._builder.builds(image, target, device)

    def ensure(self, image: Image, target: Target, device: DeviceKind, tell: Callable[[str], None]) -> ImageInfo:
        """Builds the image where needed."""
        return self._builder.ensure(image, target, device, tell)

    def ensure_services(self, device: DeviceKind, tell: Callable[[str], None]) -> list[str]:
        """Builds the preparing service of compose.yaml, and the client of cells under load."""
        return [self._builder.ensure_service(name, device, tell) for name in ("prepare", "client")]

    def client_builds(self, device: DeviceKind) -> list[Build]:
        """Its image and the base below it, as far as they are not current."""
        return self._builder.service_builds("client", device)

    def ensure_client(self, device: DeviceKind, tell: Callable[[str], None]) -> None:
        """Builds docker/client.Dockerfile."""
        self._builder.ensure_service("client", device, tell)

    def run(self, launch: Launch, on_stdout: LineTaker) -> Ended:
        """One container's life, and what it has left.

        Raises:
            MayPass: the Docker engine has gone, or hangs.
        """
        removed: list[str] = []
        folders = launch.folders
        require_readable(folders.model, folders.artifact)
        if folders.data is not None:
            require_readable(folders.data)
        written = [folders.run] if folders.run is not None else []
        written += [folders.model] if folders.model_writable else []
        with contextlib.ExitStack() as doors:
            for folder in written:
                doors.enter_context(self._doors.opened(folder.resolve(), removed))
            ended = self._serve(launch, on_stdout) if launch.client_processes else self._run(launch, on_stdout)
        return replace(ended, removed=tuple(removed))

    def _serve(self, launch: Launch, on_stdout: LineTaker) -> Ended:
        """A server's container and its client's, whose end counts; unless the server's ended before."""
        started = time.monotonic()
        shares = deal(launch.generators_here, launch.cpus)
        meeting = Meeting(self._client, {"llm-bench.run": launch.labels.get("run", "")}, launch.published)
        server: Container | None = None
        try:
            server = self._create(_of_server(launch), {**meeting.of_server(), **on_cpus(shares.server)})
            server.start()
            beside = {
                **meeting.of_client(server), **on_cpus(shares.client),
                "image": tag_of("client", "cuda" if launch.gpu else "cpu"),
                "command": [*_of_client(launch, meeting), "--run-id", _run_of(launch)],
            }  # fmt: skip
            watch: list[Watch] = []
            ended = self._run(
                replace(launch, gpu=None, other_gpus=()), on_stdout, beside,
                lambda client: watch.append(Watch(server, lambda: _kill(client, SERVER_GONE))),
            )  # fmt: skip
            self._meanwhile(server)
            for one in watch:
                one.close()
                if one.end is not None:
                    end = one.end
                    return replace(
                        ended, exit_code=end.exit_code, out_of_memory=end.out_of_memory, stderr_tail=end.stderr_tail
                    )
        except docker.errors.APIError as error:
            return _never_ran(error, started)
        else:
            return ended
        finally:
            if server is not None:
                with contextlib.suppress(docker.errors.APIError, OSError):
                    server.remove(force=True, v=True)
            meeting.close()

    def _meanwhile(self, server: Container) -> None:
        """The client has ended, and the server still runs: for whoever measures it with something else as well."""

    def _run(
        self,
        launch: Launch,
        on_stdout: LineTaker,
        other: Mapping[str, Any] | None = None,
        begun: Callable[[Container], None] = lambda _: None,
    ) -> Ended:
        """``other``: options of the container that are not those of an engine's; ``begun``: told of it."""
        started = time.monotonic()
        try:
            container = self._create(launch, other)
        except docker.errors.APIError as error:  # no such image, no such runtime
            return _never_ran(error, started)
        self._running.append(container)
        tail = Tail()
        stream: Any = None
        silent = False
        running = False
        try:
            stream = container.attach(stdout=True, stderr=True, stream=True, logs=True, demux=True)
            container.start()
            running = True
            begun(container)
            if self._stops:  # asked while it was being made, when there was nothing to pass it on to
                self._signal(container)
            lines = LineSplitter(on_stdout)
            silence = Silence(
                launch.silence_limit_s, lambda: _kill(container, "SIGTERM"), lambda: _kill(container, "SIGKILL")
            )
            with silence, Pulse(self._client.ping, self._patience_s) as pulse:
                for stdout, stderr in followed(lambda: stream, lambda: self._check(pulse)):
                    silence.heard()
                    if stdout:
                        lines.feed(stdout)
                    if stderr:
                        tail.feed(stderr)
            lines.end()
            code = int(container.wait(timeout=self._patience_s)["StatusCode"])
            out_of_memory = bool(code) and _out_of_memory(container)  # a supervisor that was ended has not ended well
        except docker.errors.APIError as error:
            if not running:
                return _never_ran(error, started)
            # It ran, and is not there any more: somebody has removed it.
            return Ended(_KILLED, False, tail.text(), started, time.monotonic())
        except EngineSilent as error:
            silent = True
            raise self._gone(error) from error
        except OSError as error:  # the connection has broken: requests' errors are OSErrors
            self._await_engine(error)
            return Ended(_KILLED, False, tail.text(), started, time.monotonic(), engine_lost=True)
        finally:
            self._running.remove(container)
            if not silent:
                _let_go(stream)
                # What stays is the next driver's to clear.
                with contextlib.suppress(docker.errors.APIError, OSError):
                    container.remove(force=True, v=True)
        return Ended(code, out_of_memory, tail.text(), started, time.monotonic(), silence.too_long)

    def stop(self) -> None:
        """SIGTERM to what runs, then SIGKILL."""
        self._stops += 1
        for container in list(self._running):
            self._signal(container)

    def _signal(self, container: Container) -> None:
        signal = "SIGTERM" if self._stops == 1 else "SIGKILL"
        call = threading.Thread(target=_kill, args=(container, signal), name="signal", daemon=True)
        call.start()
        call.join(_SIGNAL_S)

    def _check(self, pulse: Pulse) -> None:
        pulse.check(_IMPATIENT_S if self._stops > 1 else None)

    def _await_engine(self, error: OSError) -> None:
        """Waits for a Docker engine that has gone to come back.

        Raises:
            MayPass: it does not.
        """
        deadline = time.monotonic() + self._patience_s
        while time.monotonic() < deadline and not self._stops:
            time.sleep(1.0)  # first: one that is being shut down still answers for a moment
            with contextlib.suppress(docker.errors.DockerException, OSError):
                self._client.ping()
                return
        raise self._gone(error) from error

    @staticmethod
    def _gone(error: OSError) -> MayPass:
        return MayPass(f"the Docker engine has gone: {first_line(error)}", "start it, then go on with --resume")

    def _create(self, launch: Launch, other: Mapping[str, Any] | None = None) -> Container:
        options = container_options(launch, other)
        options["image"] = self._builder.named(options["image"])
        name = options["name"]
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._made(options)
            except docker.errors.APIError:  # an OSError too, by way of requests; but the engine has answered
                raise
            except OSError as error:  # it may have been made all the same: under another name, then
                lost = error
                options["name"] = f"{name}-{attempt + 1}"
                self._await_engine(error)
        raise self._gone(lost)

    def _made(self, options: Mapping[str, Any]) -> Container:
        """A container, of which the id is known and nothing else: nobody asks more of one that has just been made, and
        the SDK would ask the engine for all of it."""
        containers = self._client.containers  # an object of this call's own

        def get(container_id: str) -> Container:
            del vars(containers)["get"]  # once: the container asks by it later, how it has ended
            return containers.prepare_model({"Id": container_id})

        vars(containers)["get"] = get
        return containers.create(**options)


def _let_go(stream: Any) -> None:
    """Closes an attached stream's connection. The SDK makes its socket and its response hold each other, so that it
    would stay open until the garbage collector comes by: one more for each container."""
    response = getattr(stream, "_response", None)  # of CancellableStream, whose own close() leaves the descriptor open
    if response is not None:
        with contextlib.suppress(OSError):
            response.close()


def _out_of_memory(container: Container) -> bool:
    container.reload()
    return bool(container.attrs["State"]["OOMKilled"])


def _kill(container: Container, signal: str) -> None:
    with contextlib.suppress(docker.errors.APIError, OSError):  # it has ended or not begun, or nobody answers
        container.kill(signal)


def _never_ran(error: docker.errors.APIError, started_s: float) -> Ended:
    cause = " ".join(str(error.explanation or error).split())
    if len(cause) > _LONGEST_CAUSE:  # what went wrong stands last, behind the names of those who passed it on
        cause = f"{cause[:60]} ... {cause[-_LONGEST_CAUSE + 65 :]}"
    text = f"error: the container could not be started: {cause}\n"
    return Ended(_NOT_STARTED, False, text, started_s, time.monotonic(), never_ran=True)


def _run_of(launch: Launch) -> str:
    assert launch.folders.run is not None  # noqa: S101  # cells under load are a run's
    return launch.folders.run.name


def _of_server(launch: Launch) -> Launch:
    """It writes nothing: the client writes the cells."""
    listening = ("--serve", str(SERVER_PORT), "--host", "0.0.0.0")  # noqa: S104  # of a network of their own
    return replace(launch, folders=replace(launch.folders, run=None), arguments=(*launch.arguments, *listening))


def _of_client(launch: Launch, meeting: Meeting) -> list[str]:
    words = list(launch.arguments)
    assignment = words[words.index("--assignment") + 1]
    return [
        "--assignment",
        assignment,
        "--server",
        f"{meeting.host}:{SERVER_PORT}",
        "--network",
        meeting.kind,
        *meeting.words(),
    ]
