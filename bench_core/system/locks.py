"""One driver at a time for a run's folder, a model that is being converted, a GPU, and the CPUs of a run on them.

Advisory locks of the kernel (``flock``): they end with the last process that holds them, however it ends, so that a
file that stayed behind is no obstacle. Each file says who holds it, for the one who is refused. Not covered: a
container started by hand or by compose (it cannot see these files; it shows as a busy device), and folders shared
by machines whose network file system does not pass locks on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path

from bench_core.contract.errors import BadInput
from bench_core.contract.records.record import Record
from bench_core.system.processes import alive

# A worker that outlived its driver holds the run's lock until it has noticed, which takes it milliseconds.
SURVIVOR_WAIT_S = 15.0
_RETRY_S = 0.05
_FOLDER_VARIABLE = "BENCH_LOCK_FOLDER"


class Holder(Record):
    """Who holds a lock: written into its file."""

    pid: int
    host: str
    run: str
    since_utc: str

    @property
    def is_gone(self) -> bool:
        """Whether it was a process of this machine that has ended."""
        return self.host == platform.node() and not alive(self.pid)


def system_lock_folder() -> Path:
    """Where locks of this machine's devices are, for all its users: ``/run/lock/llm-bench``, or the temporary folder's;
    ``BENCH_LOCK_FOLDER`` names another."""
    named = os.environ.get(_FOLDER_VARIABLE)
    if named:
        return Path(named)
    shared = Path("/run/lock")
    return (shared if os.access(shared, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())) / "llm-bench"


class Locks:
    """The locks that one call of the driver holds, each once, until :meth:`close` or the process's end."""

    def __init__(self) -> None:
        self._held: dict[Path, int] = {}
        self._stack = ExitStack()

    def hold_run(self, run_folder: Path) -> None:
        """For writing into a run's folder. The file stands in ``.locks`` beside the run, so that boxes do not see it.

        Raises:
            BadInput: another process holds it.
        """
        folder = run_folder.resolve()
        self._hold(folder.parent / ".locks" / folder.name, f"run {folder.name}", folder.name)

    def hold_gpu(self, uuid: str, run: str) -> None:
        """For using a GPU.

        Raises:
            BadInput: another process holds it.
        """
        self._hold(system_lock_folder() / f"{uuid}.lock", f"GPU {uuid}", run)

    def hold_cpus(self, run: str) -> None:
        """For measuring on the CPUs of this machine.

        Raises:
            BadInput: another process holds them.
        """
        self._hold(system_lock_folder() / "cpus.lock", "the CPU of this host", run)

    def run_descriptor(self, run_folder: Path) -> int | None:
        """The run's lock as an open file, for a worker process to inherit: a worker that outlives its driver then
        keeps others out of the folder until it has ended too."""
        folder = run_folder.resolve()
        return self._held.get(folder.parent / ".locks" / folder.name)

    @contextmanager
    def converting(self, model_folder: Path) -> Iterator[None]:
        """For writing artifacts into a model's folder.

        Raises:
            BadInput: another process holds it.
        """
        folder = model_folder.resolve()
        path = folder.parent / ".locks" / f"{folder.name}.converting"
        with _holding(path, f"model {folder.name}", folder.name):
            yield

    def close(self) -> None:
        """Lets go of all."""
        self._held.clear()
        self._stack.close()

    def _hold(self, path: Path, what: str, run: str) -> None:
        if path not in self._held:
            self._held[path] = self._stack.enter_context(_holding(path, what, run))


@contextmanager
def _holding(path: Path, what: str, run: str) -> Iterator[int]:
    descriptor = _acquire(path, what)
    try:
        holder = Holder(
            pid=os.getpid(),
            host=platform.node(),
            run=run,
            since_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        # A full disk must not keep anybody from locking; the file then does not say who holds it.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder.to_json().encode(), 0)
        yield descriptor
    finally:
        # While the lock is held: whoever opened this very file before sees that it is no longer the one of that name.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path, what: str) -> int:
    """The locked file of that name.

    Raises:
        BadInput: somebody else holds it, or it cannot be made.
    """
    deadline = time.monotonic() + SURVIVOR_WAIT_S
    while True:
        descriptor = _open(path, what)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            # Between taking a lock and writing who did, the file is empty or still names the one before.
            if (holder is None or holder.is_gone) and time.monotonic() < deadline:
                time.sleep(_RETRY_S)
                continue
            raise BadInput(f"{what} is in use by {_words(holder)}", "wait for its end, or stop it") from None
        if _is_that_file(descriptor, path):
            return descriptor
        os.close(descriptor)


def _open(path: Path, what: str) -> int:
    """Opens the file, made where it is missing. Kernels refuse O_CREAT on another user's file in a folder that is
    everybody's, so that it is tried only where there is none."""
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent == system_lock_folder():
                path.parent.chmod(0o1777)
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            with contextlib.suppress(FileNotFoundError):
                return os.open(path, flags)
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
                os.fchmod(descriptor, 0o666)  # whatever the umask: the next user must be able to take it
                return descriptor
    except OSError as error:
        raise BadInput(
            f"{what}: its lock {path} cannot be made: {error.strerror or error}", "check the folder's owner"
        ) from error


def _is_that_file(descriptor: int, path: Path) -> bool:
    """Whether the locked file still stands under its name: its last holder may have removed it in between."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    mine = os.fstat(descriptor)
    return stat.S_ISREG(mine.st_mode) and (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _holder(descriptor: int) -> Holder | None:
    try:
        return Holder.parse(os.pread(descriptor, 4096, 0), "lock")
    except (OSError, BadInput):
        return None


def _words(holder: Holder | None) -> str:
    if holder is None:
        return "another process"
    if holder.is_gone:
        return f"what process {holder.pid} on {holder.host} has left running (run {holder.run})"
    return f"process {holder.pid} on {holder.host} since {holder.since_utc} (run {holder.run})"
