"""The server's supervisor: starts the server where a client asks for it, samples beside it, and tells what it sees."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.asked.server import ServerEntry
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.records.digest import own_code_sha256
from bench_core.contract.records.events import StartEvent
from bench_core.contract.records.record import Record
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.serving.cell import ServerFacts
from bench_core.contract.serving.sidecar import Greeting, Planned, Refusal, ServeAsk, ServerState, Taken
from bench_core.system.machine import host_info
from bench_core.system.nvml import reader_of
from bench_core.worker.engine import image
from bench_core.worker.engine.clock import monotonic_ns, seconds, utc_now
from bench_core.worker.resolve import MeasureRequest
from bench_core.worker.sample.cpu_meter import CpuMeter
from bench_core.worker.serve.checked import checked
from bench_core.worker.serve.command import check_command_of, command_of, facts_command_of, slots_of, words_of
from bench_core.worker.serve.process import ServerProcess

# Without the driver: in this time a client that lives has asked something, or has appeared, its image built meanwhile.
_SILENT_S = 120.0
_APPEARS_WITHIN_S = 1800.0
_MOST_BYTES = 1 << 30  # of what is asked for: the prompts of the longest trace are fewer


@dataclass(frozen=True)
class Served:
    """What is served: cells of one variant, whose server is started alike.

    Attributes:
        longest: tokens of the longest request, prompt and output.
    """

    manifest: Manifest
    request: MeasureRequest
    longest: int
    load_timeout_s: float

    @property
    def entry(self) -> ServerEntry:
        """How the server is started and asked."""
        assert self.manifest.serve is not None  # noqa: S101  # words_of has refused it
        return self.manifest.serve


Plan = Callable[[ServeAsk], tuple[Served, Planned]]


class Sidecar:
    """One variant's server, as often as it must be started.

    Where nothing is served yet, a client that was started by hand asks for it first.
    """

    def __init__(
        self,
        host: str,
        ports: tuple[int, int],
        *,
        served: Served | None,
        plan: Plan,
        marked: str,
        own_host: str | None = None,
    ) -> None:
        """
        Args:
            host: that the server listens on.
            ports: the server's, and this supervisor's own.
            own_host: that this supervisor listens on, where that is another.
            served: what a driver has planned.
            plan: makes of what a client asks what is served.

        Raises:
            BadInput: the image does not serve what is planned.
        """
        self._host, self._ports = host, ports
        self._plan, self._by_hand = plan, served is None
        self._marked = marked
        self._lock = threading.Lock()
        self._server: ServerProcess | None = None
        self._served: Served | None = None
        self._meter: CpuMeter | None = None
        self._asked_s = seconds(monotonic_ns())
        if served is not None:
            self._take_on(served)
        self._http = ThreadingHTTPServer((own_host or host, ports[1]), _handler_of(self))
        self._http.daemon_threads = True

    def _take_on(self, served: Served) -> None:
        request = served.request
        self._slots = slots_of(served.manifest, request, served.longest)
        host, port, longest, slots = self._host, self._ports[0], served.longest, self._slots
        check = check_command_of(served.entry, request, host, port, longest=longest, slots=slots)
        command = command_of(served.manifest, request, host, port, longest=longest, slots=slots)
        self._command = checked(check, command)
        self._gpu = reader_of(request.cells[0].cards)
        self._meter = CpuMeter(os.getpid())  # of the CPUs that are the server's from now on
        self._served = served

    def run(self) -> None:
        """Answers until a signal ends it, or a client that was started by hand does, or has gone without a word; the
        server ends with it."""
        signal.signal(signal.SIGTERM, lambda _number, _frame: self.end())
        signal.signal(signal.SIGINT, lambda _number, _frame: self.end())
        if self._by_hand:
            threading.Thread(target=self._await_silence, name="silence", daemon=True).start()
        try:
            self._http.serve_forever(poll_interval=0.1)
        finally:
            self._http.server_close()
            if self._server is not None:
                self._server.stop()

    def end(self) -> None:
        """Ends the server and answers nothing more."""
        threading.Thread(target=self._http.shutdown, daemon=True).start()

    def heard(self) -> None:
        """A client has asked something."""
        self._asked_s = seconds(monotonic_ns())

    def _await_silence(self) -> None:
        while (silent_s := seconds(monotonic_ns()) - self._asked_s) < self._patience_s:
            time.sleep(1.0)
        sys.stderr.write(f"no client has asked anything for {silent_s:.0f} s: the server ends\n")
        self.end()

    @property
    def _patience_s(self) -> float:
        return _APPEARS_WITHIN_S if self._served is None else _SILENT_S

    def plan(self, ask: ServeAsk) -> Planned:
        """Serves from now on what a client asks for.

        Raises:
            BadInput: that cannot be, or a driver has planned.
            MachineFailure: there is no such device here.
        """
        if not self._by_hand:
            raise BadInput("a driver has planned what is served here")
        with self._lock:
            self._stop()
            served, planned = self._plan(ask)
            self.heard()  # that may have taken long
            self._take_on(served)
        return planned

    @property
    def served(self) -> Served:
        """
        Raises:
            BadInput: nothing is planned yet.
        """
        if self._served is None:
            raise BadInput("nothing is planned here yet", "ask for it first: POST /plan")
        return self._served

    def greeting(self) -> Greeting:
        """What a client must know first.

        Raises:
            BadInput: nothing is planned yet.
        """
        host, served = host_info(), self.served
        return Greeting(
            cells=tuple(_with_facts(spec, served, self._slots) for spec in served.request.cells),
            start=StartEvent(
                t_s=seconds(monotonic_ns()),
                wall_time_utc=utc_now(),
                versions=image.versions(served.manifest),
                host={"cpu": host.cpu, "cores": str(host.cores), "system": host.system},
                harness=own_code_sha256(),
            ),
            entry=served.entry,
            load_timeout_s=served.load_timeout_s,
            marked=self._marked,
        )

    def start(self) -> ServerState:
        """Starts a server where none lives.

        Raises:
            BadInput: nothing is planned yet.
        """
        served = self.served
        with self._lock:
            if self._server is None or self._server.state.state == "dead":
                here = "127.0.0.1" if self._host in ("0.0.0.0", "") else self._host  # noqa: S104  # of its own container
                self._server = ServerProcess(
                    self._command,
                    _environment(served),
                    f"http://{here}:{self._ports[0]}{served.entry.ready}",
                    served.load_timeout_s,
                    self._gpu,
                    served.request.out_of_memory_signs,
                    lambda pid: facts_command_of(
                        served.entry,
                        served.request,
                        self._host,
                        self._ports[0],
                        longest=served.longest,
                        slots=self._slots,
                        pid=pid,
                    ),
                )
        return self.state()

    def renew(self) -> ServerState:
        """Ends the server, with all that it was left with."""
        with self._lock:
            self._stop()
        return self.state()

    def _stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def state(self) -> ServerState:
        """How the server is."""
        return ServerState(state="none") if self._server is None else self._server.state

    def begin(self) -> ServerState:
        """A cell begins: what the server prints and the most that it holds are this cell's from now on."""
        if self._server is not None:
            self._server.log.begin_cell()
            self._server.sampler.begin_cell()
        return self.state()

    def take(self) -> Taken:
        """Samples since the last call, and the state."""
        telemetry = self._server.sampler.take() if self._server is not None else None
        cpu = self._meter.read() if self._meter is not None else None
        return Taken(telemetry=telemetry, cpu=cpu, state=self.state())

    def log(self) -> str:
        """What the server has printed in this cell, and before the first."""
        return self._server.log.cell_text() if self._server is not None else ""


def _environment(served: Served) -> dict[str, str]:
    """Variables of the server's process: what it needs as a server counts above what the image says of its engine, and
    what several GPUs need above both."""
    manifest, gpus = served.manifest, served.request.cells[0].gpus
    several = manifest.environment_on(gpus) if gpus > 1 else {}
    beyond = {name: value for name, value in several.items() if manifest.environment.get(name) != value}
    return {**manifest.environment, **served.entry.environment, **beyond}


def _with_facts(spec: CellSpec, served: Served, slots: int) -> CellSpec:
    facts = ServerFacts(
        command=words_of(served.manifest, spec, served.request.at_once),
        path=served.entry.path,
        prompt=served.entry.prompt,
        cpus=tuple(sorted(os.sched_getaffinity(0))),
        slots=slots if served.entry.cache_on(spec.device) else None,
    )
    return spec.model_copy(update={"server": facts})


def _handler_of(sidecar: Sidecar) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        asked: ClassVar[dict[tuple[str, str], Callable[[], Record | str | None]]] = {
            ("GET", "/greeting"): sidecar.greeting,
            ("GET", "/state"): sidecar.state,
            ("GET", "/take"): sidecar.take,
            ("GET", "/log"): sidecar.log,
            ("POST", "/start"): sidecar.start,
            ("POST", "/begin"): sidecar.begin,
            ("POST", "/renew"): sidecar.renew,
            ("POST", "/end"): sidecar.end,
        }

        def _answer(self) -> None:
            sidecar.heard()
            status, told = self._told()
            body = (told.model_dump_json() if isinstance(told, Record) else told).encode("utf-8", "backslashreplace")
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _told(self) -> tuple[int, Record | str]:
            try:
                if (self.command, self.path) == ("POST", "/plan"):
                    return 200, sidecar.plan(self._ask())
                question = self.asked.get((self.command, self.path))
                return (404, "") if question is None else (200, question() or "")
            except BadInput as error:
                refusal = Refusal(cause=error.cause, hint=error.hint)
                return (503 if isinstance(error, MachineFailure) else 400), refusal

        def _ask(self) -> ServeAsk:
            length = self.headers["Content-Length"] or "0"
            if not length.isdigit() or int(length) > _MOST_BYTES:
                raise BadInput("what is asked for is too long, or has no length")
            return ServeAsk.parse(self.rfile.read(int(length)), "what the client asks for")

        do_GET = do_POST = _answer  # noqa: N815  # the library's names

        def log_message(self, *_: object) -> None:
            """Nothing: what the server prints is what counts."""

    return Handler
