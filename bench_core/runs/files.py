"""Reads the files of a run's folder safely: nothing outside of it, nothing too large, no number beyond reason."""

from __future__ import annotations

import gzip
import io
import itertools
import math
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from bench_core.contract.errors import BadInput, first_line
from bench_core.contract.records import layout
from bench_core.contract.records.events import Event, parse_events
from bench_core.contract.records.record import Record
from bench_core.contract.records.run import RunRecord
from bench_core.contract.records.workload import Workload
from bench_core.contract.serving.log import ServeEvents, parse_serve_events

# A batch is one line: 1024 rows of 4096 tokens with their arrival times need about 70 MB.
MAX_LINE_BYTES = 256 * 1024 * 1024
MAX_RECORD_BYTES = 16 * 1024 * 1024
MAX_WORKLOAD_BYTES = 256 * 1024 * 1024  # unpacked: 100,000 prompts of 400 tokens
_UNPACKED_BYTES = 1 << 18
INSANE = "a number in it is infinite or beyond 64 bits"

R = TypeVar("R", bound=Record)
E = TypeVar("E")


@dataclass(frozen=True)
class Damage:
    """What is wrong with a cell's files: where (``events.jsonl:17``, ``spec.json``) and what, each one line."""

    where: str
    what: str


class Unreadable(Exception):
    """A file of a run cannot be used; of a cell, it becomes the row's ``Damage``."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(what)
        self.damage = Damage(where, " ".join(what.split()))


def read_record(run_folder: Path, path: Path, kind: type[R]) -> R | None:
    """A cell's JSON file; ``None`` where there is none.

    Raises:
        Unreadable: outside the run's folder, too large, or not that record.
    """
    if not path.exists() and not path.is_symlink():
        return None
    check_inside(run_folder, path)
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise Unreadable(path.name, f"larger than {MAX_RECORD_BYTES} bytes")
        record = kind.parse(path.read_bytes(), path.name)
    except OSError as error:
        raise Unreadable(path.name, error.strerror or "cannot be read") from error
    except BadInput as error:
        raise Unreadable(path.name, error.cause.removeprefix(f"{path.name}: ")) from error
    if not sane(record.model_dump()):
        raise Unreadable(path.name, INSANE)
    return record


def check_inside(run_folder: Path, path: Path) -> None:
    """A report reads its run's folder and nothing else, whatever a link in it points to; a pipe would never end.

    Raises:
        Unreadable: it is a link out of the folder, or no regular file.
    """
    if _plainly_inside(run_folder, path):
        return
    try:
        inside = path.resolve(strict=True).is_relative_to(run_folder.resolve(strict=True))
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        raise Unreadable(path.name, "cannot be resolved") from error
    if not inside:
        raise Unreadable(path.name, "a link that leaves the run's folder")
    if not path.is_file():
        raise Unreadable(path.name, "not a regular file")


def _plainly_inside(run_folder: Path, path: Path) -> bool:
    """Whether a regular file is named below the folder, and nothing on the way to it is a link."""
    try:
        steps = path.relative_to(run_folder).parts
        if not steps or ".." in steps or not stat.S_ISREG(path.lstat().st_mode):
            return False
        return not any(step.is_symlink() for step in itertools.islice(path.parents, len(steps) - 1))
    except (OSError, ValueError):
        return False


def read_events(run_folder: Path, folder: Path, seen: Callable[[bytes], None] | None = None) -> Iterator[Event]:
    """The events of a cell of closed batches, one in memory at a time.

    Args:
        seen: is shown each line, before its event comes.

    Raises:
        Unreadable: missing, outside the run's folder, or damaged; with where and what.
    """
    return _read_log(run_folder, folder, parse_events, seen)


def read_serve_events(run_folder: Path, folder: Path) -> ServeEvents:
    """All events of a cell under load.

    Raises:
        Unreadable: as :func:`read_events`, or an event has a number beyond reason, or none can stand where it does.
    """
    events = ServeEvents()
    for event in _read_log(run_folder, folder, parse_serve_events):
        if not sane(event.model_dump()):
            raise Unreadable(log_name(folder), INSANE)
        try:
            events.add(event)
        except BadInput as error:
            raise Unreadable(log_name(folder), error.cause) from error
    return events


def _read_log(
    run_folder: Path,
    folder: Path,
    parse: Callable[[Iterable[bytes], str], Iterator[E]],
    seen: Callable[[bytes], None] | None = None,
) -> Iterator[E]:
    """The one place that opens an event log, compressed or not."""
    path = log_path(folder)
    if path is None:
        raise Unreadable(layout.EVENTS_FILE, "the file is missing")
    check_inside(run_folder, path)
    try:
        with open_log(path) as stream:
            yield from parse(_lines(stream, path.name, seen), path.name)
    except BadInput as error:
        where, _, what = error.cause.partition(": ")
        raise Unreadable(where, what) from error
    except (OSError, EOFError, zlib.error) as error:  # a bad gzip header is an OSError, a cut end an EOFError
        raise Unreadable(path.name, first_line(error)) from error


def log_name(folder: Path) -> str:
    """The name of a cell's event log."""
    path = log_path(folder)
    return path.name if path is not None else layout.EVENTS_FILE


def log_path(folder: Path) -> Path | None:
    """A cell's event log: the one that the worker wrote, or the compressed one of a published run."""
    paths = (folder / layout.EVENTS_FILE, folder / layout.COMPRESSED_EVENTS_FILE)
    return next((path for path in paths if path.exists()), None)


def open_log(path: Path) -> BinaryIO:
    """A log's content, unpacked where it is compressed."""
    if path.suffix != ".gz":
        return path.open("rb")
    # Unpacked in larger pieces than the library's own of 8 KiB, each of which costs as much as ten lines.
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, gzip.open(path, "rb")), _UNPACKED_BYTES))


def _lines(stream: BinaryIO, name: str, seen: Callable[[bytes], None] | None = None) -> Iterator[bytes]:
    """The lines of a log, one in memory at a time; the last must be whole as well."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise BadInput(f"{name}:{number}: longer than {MAX_LINE_BYTES} bytes")
        if seen is not None:
            seen(line)
        yield line


def read_workload(run_folder: Path, record: RunRecord) -> Workload | None:
    """The prompts that a run keeps; ``None`` where it keeps none."""
    path = run_folder / layout.WORKLOAD_FILE
    if not path.exists() and not path.is_symlink():
        return None
    check_inside(run_folder, path)
    try:
        with gzip.open(path, "rb") as stream:
            content = stream.read(MAX_WORKLOAD_BYTES + 1)
        if len(content) > MAX_WORKLOAD_BYTES:
            raise Unreadable(path.name, f"larger than {MAX_WORKLOAD_BYTES} bytes")
        workload = Workload.parse(content, path.name)
    except BadInput as error:
        raise Unreadable(path.name, error.cause.removeprefix(f"{path.name}: ")) from error
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(path.name, first_line(error)) from error
    if not workload.reference.agrees(record.workload):
        raise Unreadable(path.name, f"it is not the workload of {layout.RUN_FILE}: digest {workload.digest[:12]}")
    return workload


def sane(value: object) -> bool:
    """Whether all numbers in plain data are finite and of a size that divides without overflow."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            left.extend(part.values())
        elif isinstance(part, (list, tuple)):
            left.extend(part)
        elif isinstance(part, float):
            if not math.isfinite(part):
                return False
        elif isinstance(part, int) and abs(part) >= 2**63:
            return False
    return True
