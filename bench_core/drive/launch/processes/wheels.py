"""Packages for builds from where this machine takes them: pip's own environment variables, local folders of wheels.

A build inside a container cannot see a folder of the host, so a folder named by PIP_FIND_LINKS is served on the
loopback interface for as long as the build takes, and the build uses the host's network.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from bench_core.prepare.staging import Waiting

_PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX")


@dataclass(frozen=True)
class PackageSource:
    """Build arguments for pip, and the network a build needs to reach them (``None``: the engine's default)."""

    build_arguments: dict[str, str]
    network: str | None


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """Says nothing: a build's own output tells what was fetched."""


@contextlib.contextmanager
def package_source(tell: Callable[[str], None] = lambda _: None) -> Iterator[PackageSource]:
    """What pip is told in builds, from this process's environment; serves local folders while it is open."""
    with _one_build_at_a_time(tell), _package_source() as source:
        yield source


@contextlib.contextmanager
def _one_build_at_a_time(tell: Callable[[str], None]) -> Iterator[None]:
    """Builds of this user wait for each other: a second one would have to serve the same folder at another address,
    which the layer cache takes for another source."""
    lock = FileLock(Path(tempfile.gettempdir()) / f"llm-bench-build-{os.getuid()}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        tell(Waiting("waiting for another process of yours that builds an image"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _package_source() -> Iterator[PackageSource]:
    arguments = {name: os.environ[name] for name in _PASSED_ON if os.environ.get(name)}
    places = os.environ.get("PIP_FIND_LINKS", "").split()
    folders = [place for place in places if Path(place).is_dir()]
    servers: list[http.server.ThreadingHTTPServer] = []
    links = [place for place in places if place not in folders]
    for folder in folders:
        server = _serve(Path(folder))
        servers.append(server)
        links.append(f"http://127.0.0.1:{server.server_address[1]}/")
    if links:
        arguments["PIP_FIND_LINKS"] = " ".join(links)
    try:
        yield PackageSource(arguments, "host" if servers else None)
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def _serve(folder: Path) -> http.server.ThreadingHTTPServer:
    """Serves a folder on a port that follows from its name, so that the address, which is part of a layer's cache key,
    is the same each time; on any free one where that is taken. Below 32768, where Linux gives no port to a connection
    by itself: one of those may have it at any moment, and all layers would be built anew."""
    handler = functools.partial(_QuietHandler, directory=str(folder))
    first = 20000 + zlib.crc32(str(folder).encode()) % 12000
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", first), handler)
    except OSError:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, name="wheels", daemon=True).start()
    return server
