"""An engine that does what it is told to by the option ``act``: each act is a fault or an attack, in its own box.

It runs where every engine runs, in a process of its own below the worker's supervisor, and knows what any engine can
find out: its command line, ``/proc``, what is mounted.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant

STEP_S = 0.01


class HostileAdapter:
    """Deterministic ids, 10 ms for each; the act comes with the first measured batch, or where it belongs."""

    def __init__(self) -> None:
        self._act = "none"
        self._victim = ""
        self._targets = ""
        self._batches = 0

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:
        """Takes its orders; ``eats_loading`` and ``probe`` act here."""
        self._act = str(variant.options["act"])
        self._victim = str(variant.options["victim"])
        self._targets = str(variant.options["targets"])
        if self._act == "eats_loading":
            _eat()
        if self._act == "probe":
            _say(json.dumps(_probe(self._targets)))

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """Nothing to prepare."""

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """One batch; in the second, which is the first measured one, the act."""
        self._batches += 1
        if self._batches == 2:
            ACTS.get(self._act, _nothing)(self._victim)
        time.sleep(STEP_S * decoding.max_new_tokens)
        return [Completion([3 + step for step in range(decoding.max_new_tokens)]) for _ in prompts]

    def close(self) -> None:
        """Nothing to close."""


def _say(text: str) -> None:
    os.write(2, f"{text}\n".encode())


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _nothing(_victim: str) -> None:
    pass


def _cell_folder() -> Path:
    """The folder of the cell in hand, found as an attacker would find it."""
    (run,) = Path("/results").iterdir()
    return max((run / "cells").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def _supervisors_stdout() -> int:
    return os.open(f"/proc/{os.getppid()}/fd/1", os.O_WRONLY)


def _events_descriptor() -> int:
    """The pipe of events, found as an attacker would find it: one to write into that is not the log's."""
    log = os.fstat(2).st_ino
    for name in os.listdir("/proc/self/fd"):
        try:
            found = os.fstat(int(name))
            writes = fcntl.fcntl(int(name), fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
        except OSError:  # of the listing itself
            continue
        if stat.S_ISFIFO(found.st_mode) and writes and found.st_ino != log:
            return int(name)
    raise RuntimeError("there is no such pipe")


def _garbles(_victim: str) -> None:
    """Half an event, written into the pipe of events."""
    os.write(_events_descriptor(), b'{"type": "batch", "phase": "measure", \xff\n')


def _bursts(_victim: str) -> None:
    for line in range(10_000):
        os.write(2, b"burst, line %d\n" % line)


def _long_line(_victim: str) -> None:
    """50 MB without an end of line, to the log and to the driver's own stream."""
    piece = b"x" * 1_000_000
    channel = _supervisors_stdout()
    for _ in range(50):
        _write_all(2, piece)
        _write_all(channel, piece)
    os.write(channel, b"\n")
    os.close(channel)


def _not_utf8(_victim: str) -> None:
    bad = b"\xff\xfe\x00\x80 \xc3\x28 \xed\xa0\x80 \x1b]0;title\x07\n"
    os.write(2, bad)
    channel = _supervisors_stdout()
    os.write(channel, bad)
    os.close(channel)


def _forges(_victim: str) -> None:
    """News of other cells, in the supervisor's name."""
    channel = _supervisors_stdout()
    for cell in ("hostile.none.b1", "null.scripted.b1", "../../../etc/passwd", "hostile.never-planned.b1"):
        news = {"type": "cell_ended", "cell": cell, "outcome": "crashed", "cause": "forged [bold]news[/bold]"}
        _write_all(channel, json.dumps(news).encode() + b"\n")
    os.close(channel)


def _forks(_victim: str) -> None:
    """A helper in the engine's own session and one in a session of its own, both for ever, both holding every pipe."""
    for detached in (False, True):
        if os.fork() == 0:
            if detached:
                os.setsid()
                if os.fork():
                    os._exit(0)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(60)


def _bombs(_victim: str) -> None:
    """Forks until it is not allowed to."""
    made = 0
    try:
        while made < 20_000:
            if os.fork() == 0:
                signal.pause()
                os._exit(0)
            made += 1
    except OSError as error:
        _say(f"forked {made} times, then: {error.strerror}")


def _ignores_term(_victim: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)


def _exits_0(_victim: str) -> None:
    os._exit(0)


def _kills_supervisor(_victim: str) -> None:
    time.sleep(0.5)  # what was said before is on its way to the driver
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def _eat() -> None:
    held = []
    while True:
        held.append(b"\1" * (8 << 20))


def _eats(_victim: str) -> None:
    _eat()


def _writes_outside(victim: str) -> None:
    """Every place that is not its own; what each attempt came to is said as JSON."""
    told = {}
    places = ["/", "/etc", "/opt/bench", "/opt/bench/image", "/data", *map(str, Path("/models").iterdir()), "/results"]
    places += ["/models", "/usr/bin", "/sys/fs/cgroup", "/proc/sys/kernel", "/dev", "/root", str(Path(victim).parent)]
    for place in places:
        told[place] = _attempt(partial((Path(place) / "planted").write_text, "x"))
    (run,) = Path("/results").iterdir()
    told["climbs"] = _attempt(lambda: (run / ".." / ".." / "planted").write_text("x"))
    told["models, existing file"] = _attempt(lambda: next(Path("/models").rglob("model.json")).write_text("x"))
    told["core_pattern"] = _attempt(lambda: Path("/proc/sys/kernel/core_pattern").write_text("|/x"))
    _say("writes: " + json.dumps(told))


def _plants_links(victim: str) -> None:
    """Links out of the results folder wherever the driver or a report will write or read, then the end of the box."""
    folder = _cell_folder()
    run = folder.parent.parent
    for name in ("worker.log", "outcome.json", "result.json"):
        (folder / name).symlink_to(f"{victim}-{name}")
    for name in ("report.md", "report.html", "table.csv"):
        (run / name).symlink_to(f"{victim}-{name}")
    for name in ("figures", "set-aside", "min-memory"):
        (run / name).symlink_to(Path(victim).parent)
    (run / "cells" / "hostile.planted.b1").symlink_to(Path(victim).parent)
    _say("the tail of this box, which a driver would write through a link")
    _kills_supervisor(victim)


def _plants_pipes(victim: str) -> None:
    """What a reader would wait at for ever, and a file with another user's rights."""
    folder = _cell_folder()
    for name in ("outcome.json", "result.json"):
        os.mkfifo(folder / name)
    program = folder / "program"
    program.write_bytes(b"#!/bin/sh\nid\n")
    program.chmod(0o4755)
    with socket.socket(socket.AF_UNIX) as ear:
        ear.bind(str(folder / "ear"))
    _kills_supervisor(victim)


def _deletes(_victim: str) -> None:
    shutil.rmtree(_cell_folder())


def _attempt(action: Callable[[], Any]) -> str:
    """``done``, or why not."""
    try:
        action()
    except (OSError, StopIteration, subprocess.SubprocessError) as error:
        return type(error).__name__ + (f" {error.strerror}" if isinstance(error, OSError) and error.strerror else "")
    return "done"


def _text(*paths: str) -> str:
    """The first of these files that can be read."""
    for path in paths:
        with contextlib.suppress(OSError):
            return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    return ""


def _connect(target: str) -> str:
    host, _, port = target.rpartition(":")
    return _attempt(lambda: socket.create_connection((host, int(port)), timeout=3).close())


def _ask_by_udp(target: str) -> str:
    """A DNS question to a server that is known to listen."""
    host, _, port = target.rpartition(":")
    question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01"

    def ask() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            channel.settimeout(3)
            channel.sendto(question, (host, int(port)))
            channel.recv(512)

    return _attempt(ask)


def _writable() -> set[str]:
    """Mount points in which a file can be made."""
    places = {line.split()[1] for line in _text("/proc/mounts").splitlines()}
    planted = {place: Path(place) / "planted-by-a-test" for place in places if os.path.isdir(place)}
    found = {place for place, path in planted.items() if _attempt(partial(path.write_text, "x")) == "done"}
    for place in found:
        planted[place].unlink()
    return found


def _mounts() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)
    return os.strerror(ctypes.get_errno()) if failed else "done"


def _unshares() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    new_user, new_network = 0x10000000, 0x40000000
    failed = libc.unshare(new_user | new_network)
    return os.strerror(ctypes.get_errno()) if failed else "done"


def _probe(targets: str) -> Mapping[str, Any]:
    """What a box can see and do."""
    status = dict(line.split(":\t", 1) for line in _text("/proc/self/status").splitlines() if ":\t" in line)
    listening = targets.split(",") if targets else []
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "status": {key: status.get(key) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs",
                                                    "Seccomp")},
        "environment": sorted(os.environ),
        "environments": [_text(f"/proc/{pid}/environ") for pid in ("1", str(os.getppid()), "self")],
        "commands": [_text(f"/proc/{pid}/cmdline") for pid in os.listdir("/proc") if pid.isdigit()],
        "interfaces": sorted(os.listdir("/sys/class/net")) if os.path.isdir("/sys/class/net") else None,
        "mounts": [line.split()[1:4] for line in _text("/proc/mounts").splitlines()],
        "sockets": [str(path) for path in map(Path, ("/var/run/docker.sock", "/run/docker.sock")) if path.exists()],
        "pids_limit": _text("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"),
        "memory_limit": _text("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        "shm_bytes": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,  # noqa: S108
        "name": _attempt(lambda: socket.getaddrinfo("example.org", 80)),
        "tcp": {target: _connect(target) for target in listening},
        "udp": {target: _ask_by_udp(target) for target in listening},
        "outside": _connect("192.0.2.1:80"),
        "mount": _mounts(),
        "chown": _attempt(lambda: os.chown("/tmp", 0, 0)),  # noqa: S108
        "setuid": _attempt(lambda: os.setuid(0)),
        "mknod": _attempt(lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(8, 0))),  # noqa: S108
        "su": _attempt(lambda: subprocess.run(["su", "-c", "id"], check=True, capture_output=True, timeout=10,
                                              stdin=subprocess.DEVNULL)),
        "kernel log": _attempt(lambda: Path("/dev/kmsg").read_bytes()),
        "memory of the machine": _attempt(lambda: Path("/proc/kcore").open("rb").read(4)),
        "disks": sorted(path.name for path in Path("/dev").iterdir() if path.is_block_device()),
        "writable": sorted(_writable()),
        "unshare": _unshares(),  # last: what comes after a success is nobody in a world of its own
    }  # fmt: skip


ACTS: Mapping[str, Callable[[str], None]] = {
    "garbles": _garbles,
    "bursts": _bursts,
    "long_line": _long_line,
    "not_utf8": _not_utf8,
    "forges": _forges,
    "forks": _forks,
    "bombs": _bombs,
    "ignores_term": _ignores_term,
    "exits_0": _exits_0,
    "kills_supervisor": _kills_supervisor,
    "eats": _eats,
    "writes_outside": _writes_outside,
    "plants_links": _plants_links,
    "plants_pipes": _plants_pipes,
    "deletes": _deletes,
}
