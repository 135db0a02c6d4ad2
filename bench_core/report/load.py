"""Reads a run's folder: the plan, and for each planned cell what became of it, recomputed from its events."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from bench_core.contract import layout
from bench_core.contract.calibration import Calibration
from bench_core.contract.cpu_use import taken_by_others
from bench_core.contract.equal_work import CellWork, breaches_between, cell_work
from bench_core.contract.errors import BadInput, first_line
from bench_core.contract.events import Event, parse_events
from bench_core.contract.harness_error import Gap, Script, gaps
from bench_core.contract.max_batch import MaxBatch
from bench_core.contract.metrics import CellEvents, CellMetrics, CellResult, summarise
from bench_core.contract.min_memory import MinMemory
from bench_core.contract.outcome import Outcome, Verdict
from bench_core.contract.record import Record
from bench_core.contract.run import PlannedCell, RunRecord
from bench_core.contract.spec import CellSpec
from bench_core.contract.steadiness import sample
from bench_core.contract.stopping import rate_of
from bench_core.contract.stored_bits import StoredBits, bits_in_title, stored_bits, title_with_bits
from bench_core.contract.workload import Workload
from bench_core.contract.workload_rate import WholeWork, WorkloadRate
from bench_core.report.format import foreign
from bench_core.report.published import Published, read_published
from bench_core.report.quality import Candidate, Outputs, RunQuality, assess

NOT_RUN = "not run"
DAMAGED = "damaged"

# A batch is one line: 1024 rows of 4096 tokens with their arrival times need about 70 MB.
MAX_LINE_BYTES = 256 * 1024 * 1024
MAX_RECORD_BYTES = 16 * 1024 * 1024
MAX_WORKLOAD_BYTES = 256 * 1024 * 1024  # unpacked: 100,000 prompts of 400 tokens


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Damage:
    """What is wrong with a cell's files: where (``events.jsonl:17``, ``spec.json``) and what, each one line."""

    where: str
    what: str


@dataclass(frozen=True)
class Paced:
    """One measured batch: its place and the digest of its prompts, and how fast it was."""

    prompts: tuple[int, str]
    output_tokens: int
    latency_s: float


@dataclass(frozen=True)
class Row:
    """A planned cell and what became of it.

    Attributes:
        spec: what it measured; ``None`` where it was not reached or its file is damaged.
        verdict: how it ended; ``None`` where nobody wrote that down.
        result: recomputed from the raw events; present exactly if the cell is ``ok`` and its files are whole.
        damage: why a cell that has files shows no number, where its outcome does not say it.
        work: what its measured batches were given, and which rule of equal work they broke; with ``result``.
        gaps: of a scripted cell: its numbers beside its script.
        outputs: of the measured batches; present exactly if ``result`` is.
        pace: of the measured batches, in order; empty without ``result``.
        rate: of the whole workload, estimated from these; present exactly if ``result`` is.
        bits: what a weight of its method takes, by any of the method's rows that tells it.
    """

    planned: PlannedCell
    spec: CellSpec | None = None
    verdict: Verdict | None = None
    result: CellResult | None = None
    damage: Damage | None = None
    work: CellWork | None = None
    gaps: tuple[Gap, ...] = ()
    outputs: Outputs | None = None
    pace: tuple[Paced, ...] = ()
    rate: WorkloadRate | None = None
    bits: StoredBits | None = None

    @property
    def label(self) -> str:
        """The method's name in tables, with the bits that its weights take where its title names far fewer."""
        planned = self.planned
        named = planned.bits if planned.bits is not None else bits_in_title(planned.label)
        return title_with_bits(planned.label, named, self.bits)

    @property
    def breaches(self) -> tuple[str, ...]:
        """How the cell's work differs from that of the others; one line each, empty where it is equal."""
        return self.work.breaches if self.work is not None else ()

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
            return foreign(f"{self.damage.where}: {self.damage.what}")
        if self.result is not None:
            return ""
        if self.verdict is None:
            return "no outcome was written: the run ended before this cell did"
        return foreign(self.verdict.cause) or "no cause was given"

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
    def disturbed(self) -> str:
        """What others took of the CPUs, in words, where that was too much; empty where it was not, or is not known."""
        use = self.result.metrics.cpu if self.result is not None else None
        return f"others took {taken_by_others(use)}" if use is not None and use.busy else ""

    @property
    def sequential(self) -> bool:
        """Whether the engine works through a batch one prompt after the other."""
        return self.spec is not None and self.spec.batching == "sequential"


@dataclass(frozen=True)
class RunView:
    """A run as the report sees it: its record, and its rows in the order of the plan.

    Attributes:
        harness: the scripted engine's cells that visits measured beside their own, for the suite's error; in no table
            of the others.
        workload: the prompts, where the run keeps them.
        workload_damage: why it cannot be used, where the file is there.
    """

    record: RunRecord
    rows: tuple[Row, ...]
    harness: tuple[Row, ...] = ()
    workload: Workload | None = None
    workload_damage: Damage | None = None
    beside: Published | None = None
    calibrations: tuple[Calibration, ...] = ()
    searches: tuple[MinMemory, ...] = ()
    max_batches: tuple[MaxBatch, ...] = ()

    def calibration_of(self, row: Row) -> Calibration | None:
        """What was measured of a row's device at the visit that measured the row; of a GPU, else at the last visit
        that measured the same card. On a CPU with as many threads."""
        spec = row.spec
        if spec is None:
            return None
        of_device = [c for c in self.calibrations if (c.device, c.gpu_uuid) == (spec.device, spec.gpu_uuid)]
        if spec.device == "cpu":
            of_device = [c for c in of_device if c.threads == spec.threads]
        then = next((c for c in of_device if c.name.startswith(f"v{self.visit_of(row)}.")), None)
        return then or (of_device[-1] if of_device and spec.device == "cuda" else None)

    @cached_property
    def cells(self) -> tuple[tuple[Row, ...], ...]:
        """The rows of each cell, first repeat first."""
        found: dict[tuple[str, str, int], list[Row]] = {}
        for row in self.rows:
            found.setdefault((row.planned.image, row.planned.variant, row.planned.batch_size), []).append(row)
        return tuple(tuple(sorted(rows, key=lambda row: row.planned.repeat)) for rows in found.values())

    @cached_property
    def grid(self) -> tuple[Row, ...]:
        """The rows that tables show, and the figure of memory: of each cell the first of its repeats."""
        return tuple(rows[0] for rows in self.cells)

    @cached_property
    def repeated(self) -> tuple[tuple[Row, ...], ...]:
        """Cells that were planned more than once."""
        return tuple(rows for rows in self.cells if len(rows) > 1)

    def visit_of(self, row: Row) -> int | None:
        """The visit that measured a row, counted from 1: the last that was to; ``None`` for a cell without files."""
        if row.spec is None and row.verdict is None:
            return None
        visits = self.record.all_visits
        if row.planned.harness:
            return row.planned.repeat
        return next((n for n in range(len(visits), 0, -1) if row.planned.cell in visits[n - 1].cells), None)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """All planned batch sizes, ascending."""
        return tuple(sorted({row.planned.batch_size for row in self.rows}))

    @property
    def on_cuda(self) -> bool:
        """Whether the run was made on a GPU."""
        return self.record.device == "cuda"

    @cached_property
    def quality(self) -> RunQuality | None:
        """What can be said of the cells' quality; ``None`` for a run in which nothing can be compared."""
        candidates = [
            Candidate(
                cell=row.planned.cell,
                method=(row.planned.image, row.planned.variant),
                label=row.label,
                batch_size=row.planned.batch_size,
                rank=row.planned.reference,
                compared=row.planned.ranked,
                outputs=row.outputs,
                likelihood=row.result.metrics.likelihood,
            )
            for row in self.grid
            if row.result is not None and row.outputs is not None
        ]
        reference = next((row.label for row in self.rows if row.planned.reference == 0), "")
        return assess(candidates, reference, self.record.quality, random_weights=self.record.model.synthetic)

    def shortfall(self, row: Row) -> str:
        """Why a row falls past the bounds of quality, in one line; empty where it does not."""
        found = self.quality.cells.get(row.planned.cell) if self.quality else None
        return found.failure if found else ""

    def unranked(self, row: Row) -> str:
        """Why a measured row is not compared with the others: its work was not equal, its quality falls short, or
        others disturbed it; empty where nothing is so."""
        return row.breaches[0] if row.breaches else self.shortfall(row) or row.disturbed

    def compares(self, row: Row) -> bool:
        """Whether a row is ranked: a real engine that did equal work, within the bounds of quality."""
        return row.planned.ranked and not self.unranked(row)

    def ranked(self, rows: Iterable[Row]) -> list[Row]:
        """Those that are compared and have numbers."""
        return [row for row in rows if row.result is not None and self.compares(row)]

    def peak_memory_bytes(self, metrics: CellMetrics) -> int | None:
        """The memory that a run compares: on the GPU where there is one, else of the processes. Peak, bytes."""
        use = metrics.device_memory if self.on_cuda else metrics.host_memory
        return use.peak_bytes if use else None

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
    check_plan(record, str(folder / layout.RUN_FILE))
    damage: Damage | None = None
    try:
        workload = _workload(folder, record)
    except Unreadable as damaged:
        workload, damage = None, damaged.damage
    rows = [_row(folder, record, planned, workload) for planned in (*record.cells, *harness_cells(record))]
    between = breaches_between(row.work for row in rows if row.work is not None)
    rows = _with_bits(_with_breach(row, between.get(row.planned.cell)) for row in rows)
    count = len(record.cells)
    beside = folder / layout.BESIDE_FILE
    published = read_published(beside) if beside.is_file() else None
    return RunView(
        record,
        tuple(rows[:count]),
        tuple(rows[count:]),
        workload,
        damage,
        published,
        tuple(_records(folder, layout.CALIBRATIONS_FOLDER, Calibration)),
        tuple(_records(folder, layout.MIN_MEMORY_FOLDER, MinMemory)),
        tuple(_records(folder, layout.MAX_BATCH_FOLDER, MaxBatch)),
    )


def _records(run_folder: Path, name: str, kind: type[R]) -> Iterator[R]:
    """Records of one kind in a folder of the run, by name; one that is damaged is as if it were not there: no cell
    depends on it."""
    home = run_folder / name
    if not home.is_dir():
        return
    for path in sorted(home.glob("*.json")):
        try:
            record = read_record(run_folder, path, kind)
        except (Unreadable, OSError):
            continue
        if record is not None:
            yield record


def harness_cells(record: RunRecord) -> tuple[PlannedCell, ...]:
    """The scripted engine's cells of all visits."""
    return tuple(planned for visit in record.visits for planned in visit.harness_check or ())


def _with_breach(row: Row, breach: str | None) -> Row:
    if breach is None or row.work is None:
        return row
    return replace(row, work=replace(row.work, breaches=(*row.work.breaches, breach)))


def _with_bits(rows: Iterable[Row]) -> list[Row]:
    """Each row with what is known of its method's weights: what an engine told once holds for rows that failed, too."""
    rows = list(rows)
    known: dict[tuple[str, str], StoredBits] = {}
    for row in sorted(rows, key=lambda row: row.result is None):
        found = stored_bits(row.spec, row.result.engine_facts if row.result else {}) if row.spec else None
        if found is not None:
            known.setdefault((row.planned.image, row.planned.variant), found)
    return [replace(row, bits=known.get((row.planned.image, row.planned.variant))) for row in rows]


def check_plan(record: RunRecord, origin: str) -> None:
    """A cell's name becomes a path: it must be the one that its parts make, and its parts plain names.

    Raises:
        BadInput: it is not, or a cell is planned twice.
    """
    if not _sane(record.model_dump()):
        raise BadInput(f"{origin}: {_INSANE}")
    if not record.cells:
        raise BadInput(f"{origin}: the plan has no cell")
    seen: set[str] = set()
    for planned in (*record.cells, *harness_cells(record)):
        parts_are_names = layout.is_name(planned.image) and layout.is_name(planned.variant)
        if not parts_are_names or planned.cell != planned.cell_id:
            raise BadInput(f"{origin}: {planned.cell[:100]!r} is not the name of its own cell")
        if planned.cell in seen:
            raise BadInput(f"{origin}: the cell {planned.cell} is planned twice")
        seen.add(planned.cell)


class Unreadable(Exception):
    """A file of a run cannot be used; of a cell, it becomes the row's ``Damage``."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(what)
        self.damage = Damage(where, " ".join(what.split()))


def _row(run_folder: Path, record: RunRecord, planned: PlannedCell, workload: Workload | None) -> Row:
    folder = layout.cell_folder(run_folder, planned.cell)
    spec: CellSpec | None = None
    verdict: Verdict | None = None
    try:
        spec = read_record(run_folder, folder / layout.SPEC_FILE, CellSpec)
        if spec is not None:
            _check_spec(spec, record, planned)
        verdict = read_record(run_folder, folder / layout.OUTCOME_FILE, Verdict)
        if verdict is None or verdict.outcome is not Outcome.OK:
            return Row(planned, spec, verdict)
        if spec is None:
            raise Unreadable(layout.SPEC_FILE, "the file is missing, so what was measured is not known")
        return _measured_row(run_folder, planned, spec, verdict, workload)
    except Unreadable as damaged:
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
            raise Unreadable(layout.SPEC_FILE, f"{name} is {has}, and {expected} in {layout.RUN_FILE}")


def _check_protocol(spec: CellSpec, result: CellResult) -> None:
    """A log names the rule that it was stopped by: it must be the cell's own."""
    steadiness = result.metrics.steadiness
    if steadiness.stop_reason is not None and steadiness.precision != spec.protocol.precision:
        raise Unreadable(
            layout.EVENTS_FILE,
            f"measured to a precision of {steadiness.precision}, and {spec.protocol.precision} in {layout.SPEC_FILE}",
        )


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
    if not _sane(record.model_dump()):
        raise Unreadable(path.name, _INSANE)
    return record


def check_inside(run_folder: Path, path: Path) -> None:
    """A report reads its run's folder and nothing else, whatever a link in it points to; a pipe would never end.

    Raises:
        Unreadable: it is a link out of the folder, or no regular file.
    """
    try:
        inside = path.resolve(strict=True).is_relative_to(run_folder.resolve(strict=True))
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        raise Unreadable(path.name, "cannot be resolved") from error
    if not inside:
        raise Unreadable(path.name, "a link that leaves the run's folder")
    if not path.is_file():
        raise Unreadable(path.name, "not a regular file")


def read_events(run_folder: Path, folder: Path) -> Iterator[Event]:
    """The events of a cell, one in memory at a time: the one place that opens an event log, compressed or not.

    Raises:
        Unreadable: missing, outside the run's folder, or damaged; with where and what.
    """
    path = log_path(folder)
    if path is None:
        raise Unreadable(layout.EVENTS_FILE, "the file is missing")
    check_inside(run_folder, path)
    try:
        with open_log(path) as stream:
            yield from parse_events(_lines(stream, path.name), path.name)
    except BadInput as error:
        where, _, what = error.cause.partition(": ")
        raise Unreadable(where, what) from error
    except (OSError, EOFError, zlib.error) as error:  # a bad gzip header is an OSError, a cut end an EOFError
        raise Unreadable(path.name, first_line(error)) from error


def log_path(folder: Path) -> Path | None:
    """A cell's event log: the one that the worker wrote, or the compressed one of a published run."""
    paths = (folder / layout.EVENTS_FILE, folder / layout.COMPRESSED_EVENTS_FILE)
    return next((path for path in paths if path.exists()), None)


def _measured_row(
    run_folder: Path, planned: PlannedCell, spec: CellSpec, verdict: Verdict, workload: Workload | None
) -> Row:
    """A cell that is said to be ok, with its numbers."""
    folder = layout.cell_folder(run_folder, planned.cell)
    events = CellEvents()
    for event in read_events(run_folder, folder):
        try:
            events.add(event)
        except BadInput as error:
            raise Unreadable(_log_name(folder), error.cause) from error
    result = _result(_log_name(folder), planned.cell, events)
    _check_protocol(spec, result)
    batches = [batch for of_phase in events.batches.values() for batch in of_phase]
    work = cell_work(spec, batches, workload.prompts if workload is not None else None)
    found: tuple[Gap, ...] = ()
    if planned.harness:
        try:
            found = gaps(Script.of(spec.options), result.metrics, events.batches["measure"])
        except BadInput as error:
            raise Unreadable(layout.SPEC_FILE, error.cause) from error
    measured = events.batches["measure"]
    told = events.stop.whole_work if events.stop is not None else None
    whole = _whole_work(spec, workload) or told
    row = Row(
        planned, spec, verdict, result,
        work=work, gaps=found, outputs=Outputs.of(measured),
        pace=tuple(Paced((b.index, b.prompts_digest), sum(b.output_tokens), b.latency_s) for b in measured),
        rate=rate_of([sample(batch) for batch in measured], whole),
    )  # fmt: skip
    return _with_breach(row, _other_work(told, whole)) if told is not None and whole is not None else row


def _other_work(told: WholeWork, workloads: WholeWork) -> str | None:
    """How the work that a log was stopped for differs from that of the prompts kept; as far as the log tells it."""
    if told.mean != workloads.mean:
        return f"measured for a mean work of {told.mean}, and the workload's is {workloads.mean}"
    if told.batches != workloads.batches:
        return f"measured for {told.batches} full batches, and the workload has {workloads.batches}"
    if told.spread not in (None, workloads.spread):
        return "measured for another spread of work than the workload's"
    return None


def _whole_work(spec: CellSpec, workload: Workload | None) -> WholeWork | None:
    """Of the prompts kept with the run, as far as there are any."""
    if workload is None or len(workload.prompts) < spec.batch_size:
        return None
    return workload.whole_work(spec.batch_size)


def _log_name(folder: Path) -> str:
    path = log_path(folder)
    return path.name if path is not None else layout.EVENTS_FILE


def _result(name: str, cell: str, events: CellEvents) -> CellResult:
    try:
        result = summarise(cell, events)
    except BadInput as error:
        raise Unreadable(name, error.cause.removeprefix(f"{cell}: ")) from error
    if not _sane(result.metrics.model_dump()):
        raise Unreadable(name, _INSANE)
    return result


def open_log(path: Path) -> BinaryIO:
    """A log's content, unpacked where it is compressed."""
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines of a log, one in memory at a time; the last must be whole as well."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise BadInput(f"{name}:{number}: longer than {MAX_LINE_BYTES} bytes")
        yield line


def _workload(run_folder: Path, record: RunRecord) -> Workload | None:
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
