"""``--watch``: the page of a run while it goes on, for a browser on this machine and for nobody else.

The page is report.html of what has been measured so far, made by a child process and only while somebody looks: on a
GPU as soon as another cell has ended, at the lowest priority; on a CPU between two engines, when nothing is being
measured. What goes on meanwhile is a few lines above it, which cost nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import IO, Any

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.drive.plan.catalogue import REPOSITORY
from bench_core.drive.show.live_page import PageChanged, live_page, waiting_page

ADDRESS = "127.0.0.1"
# Another name may be anybody's who has it lead here (DNS rebinding); a port may be one that ssh passes on.
_HOSTS = (ADDRESS, "localhost")
_WATCHED_S = 30.0  # after a browser's last question
_LEAST_BETWEEN_S = 5.0  # two pages
_MOST_SHARE = 0.05  # of the time, making pages
_LONGEST_S = 120.0  # of making one
_SLOW_CLIENT_S = 10.0


@dataclass(frozen=True)
class Snapshot:
    """What the lines above the page tell: ``lines`` as (label, words), ``ended``: cells with their numbers."""

    heading: str = "The run is being prepared."
    lines: tuple[tuple[str, str], ...] = ()
    ended: tuple[str, ...] = ()


@dataclass
class _Making:
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    begun_s: float
    of: int  # cells that had ended


class Web:
    """The server, and the page that it has.

    Attributes:
        ended: cells that have ended so far.
    """

    def __init__(self, port: int) -> None:
        """Takes the port; 0: any that is free.

        Raises:
            BadInput: it cannot be had.
        """
        try:
            self._server = _Server((ADDRESS, port), self)
        except OSError as error:
            raise BadInput(
                f"--watch {port}: {ADDRESS}:{port} cannot be used: {error.strerror or error}",
                "name another port, or 0 for any that is free",
            ) from error
        self.ended = 0
        self._run_folder: Path | None = None
        self._on_cpu = True
        self._snapshot = Snapshot()
        self._page, self._version = b"", 0
        self._made_of = -1  # cells that had ended when the page was made; -1: there is none
        self._problem = ""
        self._making: _Making | None = None
        self._lock = Lock()  # of the making
        self._next_s = 0.0
        self._asked_s: float | None = None
        self._thread = Thread(target=self._server.serve_forever, name="watch", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """For a browser."""
        return f"http://{ADDRESS}:{self._server.server_port}/"

    def begin(self, run_folder: Path, *, on_cpu: bool) -> None:
        """This run is shown, which is measured on the CPUs or not."""
        self._run_folder, self._on_cpu = run_folder, on_cpu

    @property
    def is_watched(self) -> bool:
        """Whether a browser has asked a short while ago."""
        return self._asked_s is not None and time.monotonic() - self._asked_s < _WATCHED_S

    def show(self, snapshot: Snapshot) -> None:
        """The lines from now on; on a GPU the page follows where somebody looks at it."""
        self._snapshot = snapshot
        with self._lock:
            self._collect()
            if not self._on_cpu and self._making is None and self._is_stale:
                self._begin_making(idle=True)

    def between(self) -> None:
        """Nothing is being measured: on a CPU the page is made now, if somebody looks at it."""
        if not self._on_cpu:
            return
        with self._lock:
            if not self._is_stale:
                return
            making = self._begin_making(idle=False)
            try:
                making.process.wait(_LONGEST_S)
            except subprocess.TimeoutExpired:
                making.process.kill()
                making.process.wait()
            self._collect()

    def close(self) -> None:
        """Frees the port."""
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            if self._making is not None:
                self._making.process.kill()
                self._making.process.wait()

    # For the server

    def asked(self) -> None:
        """A browser has asked."""
        self._asked_s = time.monotonic()

    @property
    def version(self) -> int:
        """Of the page; it grows."""
        return self._version

    def page(self) -> bytes:
        """The whole page, as far as there is one."""
        return self._page or waiting_page()

    def state(self) -> bytes:
        """What goes on, as JSON."""
        now = self._snapshot
        told = {
            "page": self._version,
            "heading": now.heading,
            "lines": now.lines,
            "ended": now.ended,
            "problem": self._problem,
            "folder": str(self._run_folder or ""),
        }
        return json.dumps(told).encode()

    # Making the page; with the lock

    @property
    def _is_stale(self) -> bool:
        there = self._run_folder is not None and (self._run_folder / layout.RUN_FILE).is_file()
        return there and self.is_watched and self.ended != self._made_of and time.monotonic() >= self._next_s

    def _begin_making(self, *, idle: bool) -> _Making:
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-m", "bench_core.drive.show.page", str(self._run_folder), str(os.getpid())]
        output = tempfile.TemporaryFile()  # noqa: SIM115  # closed when it is collected
        process = subprocess.Popen(
            [*command, *(["--idle"] if idle else [])],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # a Ctrl-C is not for it
        )
        self._making = _Making(process, output, time.monotonic(), self.ended)
        return self._making

    def _collect(self) -> None:
        making = self._making
        if making is None:
            return
        took_s = time.monotonic() - making.begun_s
        if making.process.poll() is None:
            if took_s > _LONGEST_S:
                making.process.kill()
            return
        self._making = None
        self._next_s = time.monotonic() + max(_LEAST_BETWEEN_S, took_s / _MOST_SHARE if not self._on_cpu else 0.0)
        self._made_of = making.of
        with making.output as output:
            output.seek(0)
            made = output.read()
        try:
            if making.process.returncode != 0:
                said = made.decode("utf-8", "replace").strip().splitlines()
                raise PageChanged(said[-1][:300] if said else f"code {making.process.returncode}")
            self._page, self._problem = live_page(made, self._version + 1), ""
            self._version += 1
        except PageChanged as error:
            self._problem = f"the page could not be made: {error}"


class _Server(HTTPServer):
    """One request at a time: it answers from memory, and there are few browsers."""

    def __init__(self, address: tuple[str, int], web: Web) -> None:
        self.web = web
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is nobody's business."""


class _Handler(BaseHTTPRequestHandler):
    """GET of the page and of what goes on; nothing else."""

    server: _Server
    timeout = _SLOW_CLIENT_S
    server_version, sys_version = "llm-bench", ""

    def do_GET(self) -> None:  # the name that the library calls
        """Answers."""
        name, _, port = self.headers.get("Host", "").partition(":")
        if name.lower() not in _HOSTS or not (port == "" or port.isdigit()):
            self._refuse(HTTPStatus.FORBIDDEN, "this page is for 127.0.0.1 and localhost")
            return
        web = self.server.web
        if self.path == "/":
            web.asked()
            tag = f'"{web.version}"'
            if self.headers.get("If-None-Match") == tag:
                self.send_response(HTTPStatus.NOT_MODIFIED)
                self.end_headers()
                return
            self._answer(web.page(), "text/html; charset=utf-8", tag)
        elif self.path == "/state":
            web.asked()
            self._answer(web.state(), "application/json")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is only /")

    def _answer(self, body: bytes, kind: str, tag: str = "") -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-cache" if tag else "no-store")
        if tag:
            self.send_header("ETag", tag)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: HTTPStatus, words: str) -> None:
        body = f"{words}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's names
        """Nothing: the terminal is the run's."""
