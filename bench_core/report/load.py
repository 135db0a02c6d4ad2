"""Reads a run's folder: the plan, and for each planned cell what became of it, recomputed from its events."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from bench_core.contract import layout
from bench_core.contract.errors import BadInput, first_line
from bench_core.contract.events import parse_events
from bench_core.contract.metrics import CellEvents, CellResult, summarise
from bench_core.contract.outcome import Outcome, Verdict
from bench_core.contract.record import Record
from bench_core.contract.run import PlannedCell, RunRecord
from bench_core.contract.spec import CellSpec
from bench_core.report.published import Published, read_published

NOT_RUN = "not run"
DAMAGED = "damaged"

# A batch is one line: 1024 rows of 4096 tokens with their arrival times need about 70 MB.
MAX_LINE_BYTES = 256 * 1024 * 1024
MAX_RECORD_BYTES = 16 * 1024 * 1024


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Damage:
    """What is wrong with a cell's files: where (``events.jsonl:17``, ``spec.json``) and what, each one line."""

    where: str
    what: str


@dataclass(frozen=True)
class Row:
    """A planned cell and what became of it.

    Attributes:
        spec: what it measured; ``None`` where it was not reached or its file is damaged.
        verdict: how it ended; ``None`` where nobody wrote that down.
        result: recomputed from the raw events; present exactly if the cell is ``ok`` and its files are whole.
        damage: why a cell that has files shows no number, where its outcome does not say it.
    """

    planned: PlannedCell
    spec: CellSpec | None = None
    verdict: Verdict | None = None
    result: CellResult | None = None
    damage: Damage | None = None

    @property
    def status(self) -> str:
        """``ok``, the outcome, ``not run`` or ``damaged``: what stands in place of a number."""
        if self.damage is not None:
            return DAMAGED
        return NOT_RUN if self.verdict is None else self.verdict.outcome.value

    @property
    def problem(self) -> str:
        """One line: the cause of a cell without numbers; empty for one that has them."""
        if self.damage is not None:
            return f"{self.damage.where}: {self.damage.what}"
        if self.result is not None:
            return ""
        if self.verdict is None:
            return "no outcome was written: the run ended before this cell did"
        return self.verdict.cause or "no cause was given"

    @property
    def complete(self) -> bool:
        """Whether this cell needs no further measurement: its numbers follow from its events, or its failure is one
        of the cell itself. Not complete: missing, damaged, stopped from outside, or a box that ended before the cell
        was begun, unless that was to refuse it.

        The one rule by which a resumed run keeps cells.
        """
        if self.damage is not None or self.verdict is None or not self.verdict.outcome.is_of_the_cell:
            return False
        return self.spec is not None or self.verdict.outcome is Outcome.BAD_SPEC

    @property
    def sequential(self) -> bool:
        """Whether the engine works through a batch one prompt after the other."""
        return self.spec is not None and self.spec.batching == "sequential"


@dataclass(frozen=True)
class RunView:
    """A run as the report sees it: its record, and its rows in the order of the plan."""

    record: RunRecord
    rows: tuple[Row, ...]
    beside: Published | None = None

    @cached_property
    def grid(self) -> tuple[Row, ...]:
        """The rows that tables and figures show: of each cell the first of its repeats."""
        first: dict[tuple[str, str, int], Row] = {}
        for row in self.rows:
            key = (row.planned.image, row.planned.variant, row.planned.batch_size)
            if key not in first or row.planned.repeat < first[key].planned.repeat:
                first[key] = row
        return tuple(first.values())

    @cached_property
    def repeated(self) -> tuple[tuple[Row, ...], ...]:
        """Cells that were planned more than once: the rows of each, first repeat first."""
        found: dict[tuple[str, str, int], list[Row]] = {}
        for row in sorted(self.rows, key=lambda row: row.planned.repeat):
            found.setdefault((row.planned.image, row.planned.variant, row.planned.batch_size), []).append(row)
        return tuple(tuple(rows) for rows in found.values() if len(rows) > 1)

    def visit_of(self, row: Row) -> int | None:
        """The visit that measured a row, counted from 1: the last that was to; ``None`` for a cell without files."""
        if row.spec is None and row.verdict is None:
            return None
        visits = self.record.all_visits
        return next((n for n in range(len(visits), 0, -1) if row.planned.cell in visits[n - 1].cells), None)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """All planned batch sizes, ascending."""
        return tuple(sorted({row.planned.batch_size for row in self.rows}))

    @property
    def on_cuda(self) -> bool:
        """Whether the run was made on a GPU."""
        return self.record.device == "cuda"

    def of_batch_size(self, batch_size: int) -> tuple[Row, ...]:
        """The rows of one batch size in the order of the plan."""
        return tuple(row for row in self.grid if row.planned.batch_size == batch_size)


def load_run(folder: Path) -> RunView:
    """Reads a run; a damaged cell is a row that says so.

    Raises:
        BadInput: the folder is not a run: it, or a readable ``run.json`` with a consistent plan, is missing; or its
            ``beside.yaml`` cannot be used.
    """
    hint = "a run is a folder under results/ with a run.json, made by python -m bench_core.drive"
    try:
        if not folder.is_dir():
            raise BadInput(f"{folder}: not a folder", hint)
        if not (folder / layout.RUN_FILE).is_file():
            raise BadInput(f"{folder}: not a run: it has no {layout.RUN_FILE}", hint)
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror or error}", hint) from error
    record = RunRecord.read(folder / layout.RUN_FILE)
    _check_plan(record, str(folder / layout.RUN_FILE))
    beside = folder / layout.BESIDE_FILE
    return RunView(
        record,
        tuple(_row(folder, record, planned) for planned in record.cells),
        read_published(beside) if beside.is_file() else None,
    )


def _check_plan(record: RunRecord, origin: str) -> None:
    """A cell's name becomes a path: it must be the one that its parts make, and its parts plain names."""
    if not _sane(record.model_dump()):
        raise BadInput(f"{origin}: {_INSANE}")
    if not record.cells:
        raise BadInput(f"{origin}: the plan has no cell")
    seen: set[str] = set()
    for planned in record.cells:
        parts_are_names = layout.is_name(planned.image) and layout.is_name(planned.variant) and planned.batch_size > 0
        made_of_its_parts = layout.cell_id(planned.image, planned.variant, planned.batch_size, planned.repeat)
        if not parts_are_names or planned.cell != made_of_its_parts:
            raise BadInput(f"{origin}: {planned.cell[:100]!r} is not the name of its own cell")
        if planned.cell in seen:
            raise BadInput(f"{origin}: the cell {planned.cell} is planned twice")
        seen.add(planned.cell)


class _Damaged(Exception):
    """A cell's file cannot be used; becomes the row's ``Damage``."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(what)
        self.damage = Damage(where, " ".join(what.split()))


def _row(run_folder: Path, record: RunRecord, planned: PlannedCell) -> Row:
    folder = layout.cell_folder(run_folder, planned.cell)
    spec: CellSpec | None = None
    verdict: Verdict | None = None
    try:
        spec = _record(run_folder, folder / layout.SPEC_FILE, CellSpec)
        if spec is not None:
            _check_spec(spec, record, planned)
        verdict = _record(run_folder, folder / layout.OUTCOME_FILE, Verdict)
        if verdict is None or verdict.outcome is not Outcome.OK:
            return Row(planned, spec, verdict)
        if spec is None:
            raise _Damaged(layout.SPEC_FILE, "the file is missing, so what was measured is not known")
        return Row(planned, spec, verdict, _result(run_folder, folder, planned.cell))
    except _Damaged as damaged:
        return Row(planned, spec, verdict, damage=damaged.damage)
    except OSError as error:  # a folder that may not be searched, for example
        return Row(planned, spec, verdict, damage=Damage(planned.cell, error.strerror or first_line(error)))


def _check_spec(spec: CellSpec, record: RunRecord, planned: PlannedCell) -> None:
    """Rows of one table did equal work: a cell of another model, workload or length has no place in it."""
    pairs = {
        "cell": (spec.cell_id, planned.cell),
        "device": (spec.device, record.device),
        "model": (spec.model.digest, record.model.digest),
        "workload": (spec.workload.digest, record.workload.digest),
        "max_new_tokens": (spec.max_new_tokens, record.max_new_tokens),
        "length": (spec.length, record.length),
    }
    for name, (has, expected) in pairs.items():
        if has != expected:
            raise _Damaged(layout.SPEC_FILE, f"{name} is {has}, and {expected} in {layout.RUN_FILE}")


def _record(run_folder: Path, path: Path, kind: type[R]) -> R | None:
    """A cell's JSON file; ``None`` where there is none."""
    if not path.exists() and not path.is_symlink():
        return None
    _check_inside(run_folder, path)
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise _Damaged(path.name, f"larger than {MAX_RECORD_BYTES} bytes")
        record = kind.parse(path.read_bytes(), path.name)
    except OSError as error:
        raise _Damaged(path.name, error.strerror or "cannot be read") from error
    except BadInput as error:
        raise _Damaged(path.name, error.cause.removeprefix(f"{path.name}: ")) from error
    if not _sane(record.model_dump()):
        raise _Damaged(path.name, _INSANE)
    return record


def _check_inside(run_folder: Path, path: Path) -> None:
    """A report reads its run's folder and nothing else, whatever a link in it points to; a pipe would never end."""
    try:
        inside = path.resolve(strict=True).is_relative_to(run_folder.resolve(strict=True))
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        raise _Damaged(path.name, "cannot be resolved") from error
    if not inside:
        raise _Damaged(path.name, "a link that leaves the run's folder")
    if not path.is_file():
        raise _Damaged(path.name, "not a regular file")


def _result(run_folder: Path, folder: Path, cell: str) -> CellResult:
    path = folder / layout.EVENTS_FILE
    if not path.exists():
        path = folder / layout.COMPRESSED_EVENTS_FILE
    if not path.exists():
        raise _Damaged(layout.EVENTS_FILE, "the file is missing")
    _check_inside(run_folder, path)
    events = CellEvents()
    try:
        with _open(path) as stream:
            for event in parse_events(_lines(stream, path.name), path.name):
                events.add(event)
    except BadInput as error:
        where, _, what = error.cause.partition(": ")
        raise _Damaged(where, what) from error
    except (OSError, EOFError, zlib.error) as error:  # a bad gzip header is an OSError, a cut end an EOFError
        raise _Damaged(path.name, first_line(error)) from error
    try:
        result = summarise(cell, events)
    except BadInput as error:
        raise _Damaged(path.name, error.cause.removeprefix(f"{cell}: ")) from error
    except (ArithmeticError, ValueError, AttributeError) as error:
        # statistics.stdev answers an infinity with AttributeError.
        raise _Damaged(path.name, f"no number follows from it: {first_line(error)}") from error
    if not _sane(result.metrics.model_dump()):
        raise _Damaged(path.name, _INSANE)
    return result


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines of a log, one in memory at a time; the last must be whole as well."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise BadInput(f"{name}:{number}: longer than {MAX_LINE_BYTES} bytes")
        yield line


_INSANE = "a number in it is infinite or beyond 64 bits"


def _sane(value: object) -> bool:
    """Whether all numbers in plain data are finite and of a size that divides without overflow."""
    if isinstance(value, dict):
        return all(_sane(part) for part in value.values())
    if isinstance(value, (list, tuple)):
        return all(_sane(part) for part in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) < 2**63
