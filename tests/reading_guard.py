"""No test reads outside of its clone and temporary folders: what a stranger does not have, no test may need.

Covered, in the tests' process and in every Python process that a test or the product starts from it, at any depth:
files that are opened and folders that are listed (also to be written), what links are made to, and every program that
is started, by its working folder and by those of its arguments that name an existing path.

Allowed are the clone, the folder for temporary files, Python and its packages, the system's own folders, a home's
hidden entries (caches of pip, configuration of git and Docker) and paths that the person's variables for pip,
certificates and the hub name. Whatever else lies beside the clone is refused, even below the folder for temporary
files.

Not covered: asking whether a path exists; a Python that is told to ignore its variables (``-I``, ``-E``); and what is
no Python, such as git, or a library of another language within Python, which opens files by itself. ``.ci/run`` covers
these in another way: it clones into an empty folder, so that there is nothing to read. A container sees what the
driver mounts into it.

A child is watched by this very file, as ``sitecustomize.py`` in a folder that comes first in its ``PYTHONPATH``; there
it leaves a line for each path. So nothing is imported here that is not needed in every child.
"""

from __future__ import annotations

import _thread
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/proc", "/sys", "/dev", "/run", "/var", "/opt")
OWN_VARIABLES = ("PIP_", "UV_", "SSL_", "HF_", "XDG_", "REQUESTS_", "CURL_")
ALLOWED_FILE, READ_FILE = "allowed", "read-outside"
# Audit events whose arguments at these places are paths: https://docs.python.org/3/library/audit_events.html
_PATHS = {"open": (0,), "os.listdir": (0,), "os.scandir": (0,), "os.link": (0,), "os.symlink": (0,)}


class Places:
    """Which paths may be read."""

    def __init__(self, root: str, temporary: Sequence[str], others: Sequence[str]) -> None:
        self.root = os.path.realpath(root)
        self.temporary = tuple(os.path.realpath(path) for path in temporary)
        self.others = tuple(others)
        self._home = os.path.expanduser("~")

    def refused(self, path: str) -> bool:
        """Whether a path, existing or not, is outside; links in it are followed."""
        path = os.path.abspath(path)
        return self._outside(path) or self._outside(os.path.realpath(path))

    def _outside(self, path: str) -> bool:
        if any(_within(path, place) for place in (self.root, *self.others, *SYSTEM)):
            return False
        if _within(path, self._home) and path[len(self._home) :].startswith("/."):
            return False
        beside = os.path.dirname(self.root)
        if beside not in self.temporary and _within(path, beside):
            return True
        if any(_within(path, place) for place in self.temporary):
            return False
        return os.path.lexists(path)

    def lines(self) -> str:
        """What a child needs to know."""
        return "\n".join((self.root, *(f"t{path}" for path in self.temporary), *(f"o{path}" for path in self.others)))

    @classmethod
    def of(cls, lines: str) -> Places:
        """The inverse of ``lines``."""
        root, *rest = lines.split("\n")
        return cls(root, [r[1:] for r in rest if r[0] == "t"], [r[1:] for r in rest if r[0] == "o"])


def places_here(root: str, temporary: Sequence[str]) -> Places:
    """Those of this interpreter: with its installation, its environment, and the repository of a git worktree."""
    found = {sys.prefix, sys.base_prefix, sys.exec_prefix, *(path for path in sys.path if "site-packages" in path)}
    git = os.path.join(root, ".git")
    if os.path.isfile(git):
        with open(git, encoding="utf-8") as stream:
            found.add(stream.read().removeprefix("gitdir:").strip().rpartition("/worktrees/")[0])
    for name, value in os.environ.items():
        if name.startswith(OWN_VARIABLES):
            found |= {part for part in value.replace(":", " ").split() if part.startswith("/")}
    found = {path.rstrip("/") for path in found} - {""}
    return Places(root, temporary, sorted(found | {os.path.realpath(path) for path in found}))


def watch(places: Places, tell: Callable[[str], None]) -> None:
    """From now on until this process ends, every outside path is told; an audit hook cannot be taken off."""
    busy: set[int] = set()  # threads that are in the hook, whose own reads are not asked about

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _PATHS:
            found = [arguments[place] for place in _PATHS[event]]
        elif event == "subprocess.Popen":
            program, argv, folder, _environment = arguments
            found = [folder, *_named(program, argv)]
        else:
            return
        thread = _thread.get_ident()
        if thread in busy:
            return
        busy.add(thread)
        try:
            for path in found:
                text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
                if text and places.refused(text):
                    tell(f"{event} {text}{_place(places.root)}")
        except OSError:  # a working folder that is gone, a disk that is full: nothing a test may notice
            pass
        finally:
            busy.discard(thread)

    sys.addaudithook(hook)


def _place(root: str) -> str:
    """The innermost line of the clone's code that is being run."""
    frame = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(root) and "site-packages" not in name and name != __file__:
            return f" ({name[len(root) + 1 :]}:{frame.f_lineno})"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _named(program: Any, argv: Any) -> list[str]:
    """Absolute paths among a command's words, ``--option=PATH`` and ``PATH:PATH`` too, and upward ones, which exist."""
    words = [os.fsdecode(word) for word in (program, *([argv] if isinstance(argv, str | bytes) else argv)) if word]
    parts = [part for word in words for value in (word, word.partition("=")[2]) for part in value.split(":")]
    return [part for part in parts if part.startswith(("/", "../")) and os.path.lexists(part)]


def begin(folder: str, places: Places) -> Callable[[], list[str]]:
    """Watches this process and its children; the answer tells what has been read outside since it was last called.

    ``folder`` is new, and stays until the last child has ended.
    """
    read: list[str] = []
    seen = 0

    def since() -> list[str]:
        nonlocal seen
        with open(f"{folder}/{READ_FILE}", encoding="utf-8") as stream:
            lines = stream.read().splitlines()
        found = [*read, *lines[seen:]]
        read.clear()
        seen = len(lines)
        return found

    _into_children(folder, places)
    watch(places, read.append)
    return since


def _into_children(folder: str, places: Places) -> None:
    import _posixsubprocess
    import subprocess

    with open(__file__, encoding="utf-8") as own, open(f"{folder}/sitecustomize.py", "w", encoding="utf-8") as copy:
        copy.write(own.read())
    with open(f"{folder}/{ALLOWED_FILE}", "w", encoding="utf-8") as stream:
        stream.write(places.lines())
    open(f"{folder}/{READ_FILE}", "w", encoding="utf-8").close()
    os.chmod(f"{folder}/{READ_FILE}", 0o666)  # noqa: S103 - a test runs the driver as another user
    os.chmod(folder, 0o755)  # noqa: S103
    # Python 3.10 calls it by its module, later ones by the name that subprocess gave it.
    module, name = (subprocess, "_fork_exec") if hasattr(subprocess, "_fork_exec") else (_posixsubprocess, "fork_exec")
    _watch_started(module, name, folder)
    _watch_spawned(folder)


def _led_by(folder: str, search_path: bytes) -> bytes:
    """A search path for modules that has ``folder``, first unless it is there already."""
    paths = [path for path in search_path.split(b":") if path]
    return b":".join(paths if os.fsencode(folder) in paths else [os.fsencode(folder), *paths])


def _watch_spawned(folder: str) -> None:
    """Puts ``folder`` into the environment of what ``os.posix_spawn`` starts, which from Python 3.13 on is whatever
    ``subprocess`` is asked for by a program's path."""
    begin = getattr(os.posix_spawn, "unwatched", os.posix_spawn)

    def spawned(path: Any, argv: Any, environment: Any, **how: Any) -> Any:
        mine = os.environ if environment is None else environment
        given = {os.fsencode(key): os.fsencode(value) for key, value in mine.items()}
        given[b"PYTHONPATH"] = _led_by(folder, given.get(b"PYTHONPATH", b""))
        return begin(path, argv, given, **how)

    spawned.unwatched = begin  # type: ignore[attr-defined]
    os.posix_spawn = spawned


def _watch_started(module: Any, name: str, folder: str) -> None:
    """Puts ``folder`` into the environment of whatever ``module.name``, CPython's ``fork_exec``, starts."""
    begin = getattr(module, name)
    begin = getattr(begin, "unwatched", begin)  # a session within a session watches for itself

    def started(*arguments: Any) -> Any:
        given = arguments[5]  # a list of NAME=value, or None: as this process
        if given is None:
            given = [key + b"=" + value for key, value in os.environb.items()]
        paths = b":".join(entry[11:] for entry in given if entry.startswith(b"PYTHONPATH="))
        kept = [entry for entry in given if not entry.startswith(b"PYTHONPATH=")]
        return begin(*arguments[:5], [*kept, b"PYTHONPATH=" + _led_by(folder, paths)], *arguments[6:])

    started.unwatched = begin  # type: ignore[attr-defined]
    setattr(module, name, started)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _in_child() -> None:
    import _posixsubprocess  # what subprocess takes its fork_exec from

    folder = os.path.dirname(__file__)
    with open(f"{folder}/{ALLOWED_FILE}", encoding="utf-8") as stream:
        places = Places.of(stream.read())

    def tell(line: str) -> None:
        descriptor = os.open(f"{folder}/{READ_FILE}", os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, f"{line} by {' '.join(sys.argv[:4])}\n".encode(errors="replace"))
        os.close(descriptor)

    _watch_started(_posixsubprocess, "fork_exec", folder)
    _watch_spawned(folder)
    watch(places, tell)


if __name__ == "sitecustomize":
    _in_child()
