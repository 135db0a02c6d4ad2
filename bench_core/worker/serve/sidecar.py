"""The server's supervisor: starts the server where a client asks for it, samples beside it, and tells what it sees."""

from __future__ import annotations

import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import ClassVar

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.records.digest import own_code_sha256
from bench_core.contract.records.events import StartEvent
from bench_core.contract.records.record import Record
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.serving.cell import ServerFacts
from bench_core.contract.serving.sidecar import Greeting, ServerState, Taken
from bench_core.system.machine import host_info
from bench_core.system.nvml import GpuReader
from bench_core.worker.engine import image
from bench_core.worker.engine.clock import monotonic_ns, seconds, utc_now
from bench_core.worker.resolve import MeasureRequest
from bench_core.worker.sample.cpu_meter import CpuMeter
from bench_core.worker.serve.command import command_of, words_of
from bench_core.worker.serve.process import ServerProcess


class Sidecar:
    """One variant's server, as often as it must be started."""

    def __init__(
        self,
        manifest: Manifest,
        request: MeasureRequest,
        host: str,
        ports: tuple[int, int],
        longest: int,
        load_timeout_s: float,
        marked: str,
    ) -> None:
        """``ports``: the server's, and this supervisor's own."""
        self._manifest, self._request = manifest, request
        self._host, self._ports = host, ports
        self._load_timeout_s = load_timeout_s
        self._marked = marked
        self._command = command_of(manifest, request, request.cells, host, ports[0], longest)
        spec = request.cells[0]
        self._gpu = GpuReader(spec.gpu_uuid) if spec.gpu_uuid else None
        self._meter = CpuMeter(os.getpid())
        self._lock = threading.Lock()
        self._server: ServerProcess | None = None
        self._http = ThreadingHTTPServer((host, ports[1]), _handler_of(self))
        self._http.daemon_threads = True

    def run(self) -> None:
        """Answers until a signal ends it; the server ends with it."""
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)
        try:
            self._http.serve_forever(poll_interval=0.1)
        finally:
            self._http.server_close()
            if self._server is not None:
                self._server.stop()

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        threading.Thread(target=self._http.shutdown, daemon=True).start()

    def greeting(self) -> Greeting:
        """What a client must know first."""
        host, entry = host_info(), self._manifest.serve
        assert entry is not None  # noqa: S101  # words_of has refused it
        return Greeting(
            cells=tuple(self._with_facts(spec) for spec in self._request.cells),
            start=StartEvent(
                t_s=seconds(monotonic_ns()),
                wall_time_utc=utc_now(),
                versions=image.versions(self._manifest),
                host={"cpu": host.cpu, "cores": str(host.cores), "system": host.system},
                harness=own_code_sha256(),
            ),
            entry=entry,
            load_timeout_s=self._load_timeout_s,
            marked=self._marked,
        )

    def _with_facts(self, spec: CellSpec) -> CellSpec:
        entry = self._manifest.serve
        assert entry is not None  # noqa: S101  # as above
        facts = ServerFacts(
            command=words_of(self._manifest, spec),
            path=entry.path,
            prompt=entry.prompt,
            cpus=tuple(sorted(os.sched_getaffinity(0))),
        )
        return spec.model_copy(update={"server": facts})

    def start(self) -> ServerState:
        """Starts a server where none lives."""
        with self._lock:
            if self._server is None or self._server.state.state == "dead":
                entry = self._manifest.serve
                assert entry is not None  # noqa: S101  # as above
                here = "127.0.0.1" if self._host in ("0.0.0.0", "") else self._host  # noqa: S104  # of its own container
                self._server = ServerProcess(
                    self._command,
                    {**self._manifest.environment, **entry.environment},
                    f"http://{here}:{self._ports[0]}{entry.ready}",
                    self._load_timeout_s,
                    self._gpu,
                    self._request.out_of_memory_signs,
                )
        return self.state()

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
        """Samples since the last call."""
        telemetry = self._server.sampler.take() if self._server is not None else None
        return Taken(telemetry=telemetry, cpu=self._meter.read())

    def log(self) -> str:
        """What the server has printed in this cell, and before the first."""
        return self._server.log.cell_text() if self._server is not None else ""


def _handler_of(sidecar: Sidecar) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        asked: ClassVar = {
            ("GET", "/greeting"): sidecar.greeting,
            ("GET", "/state"): sidecar.state,
            ("GET", "/take"): sidecar.take,
            ("GET", "/log"): sidecar.log,
            ("POST", "/start"): sidecar.start,
            ("POST", "/begin"): sidecar.begin,
        }

        def _answer(self) -> None:
            question = self.asked.get((self.command, self.path))
            told = question() if question is not None else ""
            body = (told.model_dump_json() if isinstance(told, Record) else str(told)).encode(
                "utf-8", "backslashreplace"
            )
            self.send_response(200 if question is not None else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer  # noqa: N815  # the library's names

        def log_message(self, *_: object) -> None:
            """Nothing: what the server prints is what counts."""

    return Handler
