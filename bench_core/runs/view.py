"""A run as its readers see it: the plan, and of each planned cell what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from bench_core.contract.measures.cell import CellMetrics, CellResult
from bench_core.contract.measures.cpu_use import taken_by_others
from bench_core.contract.measures.equal_work import CellWork
from bench_core.contract.measures.max_batch import MaxBatch
from bench_core.contract.measures.min_memory import MinMemory
from bench_core.contract.measures.own_error import Gap
from bench_core.contract.models.stored_bits import StoredBits, bits_in_title, title_with_bits
from bench_core.contract.records.device_rates import DeviceRates, Roofs, SummedRates
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.contract.records.run import PlannedCell, RunRecord, VisitInfo
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import Workload
from bench_core.contract.serving.capacity import Capacity
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.result import ServeResult
from bench_core.contract.statistics.clocks import ClientEvent
from bench_core.contract.statistics.workload_rate import WorkloadRate
from bench_core.runs.files import Damage
from bench_core.runs.published import Published
from bench_core.runs.quality import Candidate, Outputs, RunQuality, assess
from bench_core.runs.series import Series
from bench_core.system.text import foreign

NOT_RUN = "not run"
STOPPED = "stopped"
DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Paced:
    """One measured batch: its place and the digest of its prompts, and how fast it was."""

    prompts: tuple[int, str]
    output_tokens: int
    latency_s: float


@dataclass(frozen=True)
class Ended:
    """A planned cell of any kind, and how it ended.

    Attributes:
        spec: what it measured; ``None`` where it was not reached or its file is damaged.
        verdict: how it ended; ``None`` where nobody wrote that down.
        damage: why a cell that has files shows no number, where its outcome does not say it.
        gaps: of a cell of the scripted engine: its numbers beside its script.
        series: what its numbers are of, in few points; empty for a cell without numbers.
    """

    planned: PlannedCell
    spec: CellSpec | None = None
    verdict: Verdict | None = None
    damage: Damage | None = None
    series: tuple[Series, ...] = ()
    gaps: tuple[Gap, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether it has numbers."""
        return False

    @property
    def label(self) -> str:
        """The method's name in tables."""
        return self.planned.label

    @property
    def status(self) -> str:
        """``ok``, the outcome, ``not run``, ``stopped`` or ``damaged``: what stands in place of a number."""
        if self.damage is not None:
            return DAMAGED
        if self.verdict is None or self.verdict.never_begun:
            return NOT_RUN
        return STOPPED if self.verdict.stopped else self.verdict.outcome.value

    @property
    def pending(self) -> bool:
        """Whether it has no numbers yet, since the run ended or was stopped before: nothing failed."""
        return self.status in (NOT_RUN, STOPPED)

    @property
    def problem(self) -> str:
        """One line: the cause of a cell without numbers; empty for one that has them."""
        if self.damage is not None:
            return foreign(f"{self.damage.where}: {self.damage.what}")
        if self.measured:
            return ""
        if self.verdict is None:
            return "no outcome was written: the run ended before this cell did"
        if self.verdict.never_begun:
            return "the run was stopped before this cell was begun"
        if self.verdict.stopped:
            return self.verdict.cause.removeprefix("stopped ")
        return foreign(self.verdict.cause) or "no cause was given"

    @property
    def speculative(self) -> bool:
        """Whether it guesses tokens, so that its speed depends on the text."""
        return self.spec is not None and self.spec.speculative

    @property
    def guesses_at_random(self) -> str:
        """Why a speculative cell is compared with no other, in one line; empty for any other cell, and where the
        weights are trained."""
        if self.spec is None or not self.spec.speculative or not self.spec.model.synthetic:
            return ""
        return "it guesses tokens, and how many guesses are right says nothing where weights are random"

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


@dataclass(frozen=True)
class Row(Ended):
    """A planned cell of closed batches, and what became of it.

    Attributes:
        result: recomputed from the raw events; present exactly if the cell is ``ok`` and its files are whole.
        work: what its measured batches were given, and which rule of equal work they broke; with ``result``.
        outputs: of the measured batches; present exactly if ``result`` is.
        pace: of the measured batches, in order; empty without ``result``.
        rate: of the whole workload, estimated from these; present exactly if ``result`` is.
        bits: what a weight of its method takes, by any of the method's rows that tells it.
        alive_s: when its log begins and ends, by its host's clock; it is known exactly if ``result`` is.
        beside_others: what neighbours on its host cost its method, in a few words, where that matters.
    """

    result: CellResult | None = None
    work: CellWork | None = None
    outputs: Outputs | None = None
    pace: tuple[Paced, ...] = ()
    rate: WorkloadRate | None = None
    bits: StoredBits | None = None
    alive_s: tuple[float, float] | None = None
    beside_others: str = ""

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
    def measured(self) -> bool:
        """Whether it has numbers."""
        return self.result is not None

    @property
    def disturbed(self) -> str:
        """What others took of the CPUs, in words, where that was too much; empty where it was not, or is not known."""
        use = self.result.metrics.cpu if self.result is not None else None
        return f"others took {taken_by_others(use)}" if use is not None and use.busy else ""

    @property
    def in_waves(self) -> str:
        """How the engine served batches in waves where it is to serve them whole, in words; empty where it did not,
        where that is not known, and where it works through a batch by its nature (``sequential``)."""
        found = self.result.metrics.waves if self.result is not None else None
        return found.words if found is not None and not self.sequential else ""

    @property
    def sequential(self) -> bool:
        """Whether the engine works through a batch one prompt after the other."""
        return self.spec is not None and self.spec.batching == "sequential"


@dataclass(frozen=True)
class ServedRow(Ended):
    """A planned cell under load, and what became of it.

    Attributes:
        result: recomputed from the raw events; present exactly if the cell is ``ok`` and its files are whole.
        breaches: how what was sent or written differs from what was to be; one line each.
        clients: hosts that the load came from, where these were others than the server's.
    """

    result: ServeResult | None = None
    breaches: tuple[str, ...] = ()
    clients: tuple[ClientEvent, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether it has numbers."""
        return self.result is not None

    @property
    def load(self) -> Serve:
        """Its load point."""
        assert self.planned.load is not None  # noqa: S101  # rows of this kind are of such cells
        return self.planned.load

    @property
    def unranked(self) -> str:
        """Why it is compared with no other, in one line; empty where nothing is so."""
        if self.breaches or self.result is None:
            return self.breaches[0] if self.breaches else ""
        if self.guesses_at_random:
            return self.guesses_at_random
        if self.result.cpu is not None and self.result.cpu.busy:
            return f"others took {taken_by_others(self.result.cpu)}"
        requests = self.result.metrics.requests
        if requests.by_events:
            return (
                f"equal work was not checked: in {requests.by_events} of {requests.ok} answers the server told neither "
                "token ids nor how many there were, and each event counts as one token"
            )
        limited = self.result.metrics.client_limited
        return f"the client was the bottleneck: {limited}" if limited else ""


def _cells_of(visit: VisitInfo) -> tuple[str, ...]:
    return (*visit.cells, *(planned.cell for planned in visit.alone))


@dataclass(frozen=True)
class RunView:
    """A run as the report sees it: its record, and its rows in the order of the plan.

    Attributes:
        own_error: the scripted engine's cells that visits measured beside their own, for the suite's own error; in no
            table of the others. ``own_error_served``: those under load.
        served: cells under load, in the order of the plan; ``rows`` are closed batches.
        workload: the prompts, where the run keeps them.
        workload_damage: why it cannot be used, where the file is there.
        capacities: searches for the highest load that keeps latency limits.
        alone: of cells measured beside others a sample, measured again without them; in no table of the others.
    """

    record: RunRecord
    rows: tuple[Row, ...]
    own_error: tuple[Row, ...] = ()
    served: tuple[ServedRow, ...] = ()
    workload: Workload | None = None
    workload_damage: Damage | None = None
    beside: Published | None = None
    device_rates: tuple[DeviceRates, ...] = ()
    searches: tuple[MinMemory, ...] = ()
    max_batches: tuple[MaxBatch, ...] = ()
    capacities: tuple[Capacity, ...] = ()
    own_error_served: tuple[ServedRow, ...] = ()
    alone: tuple[Row, ...] = ()

    def device_rates_of(self, row: Row) -> Roofs | None:
        """What was measured of a row's device at the visit that measured the row; of a GPU, else at the last visit
        that measured the same card. On a CPU with as many threads. Of a model on several GPUs their sums, where each
        was measured."""
        spec = row.spec
        if spec is None:
            return None
        found = [self._rates_of(row, spec, card) for card in spec.cards or (None,)]
        known = [rates for rates in found if rates is not None]
        if len(known) < len(found):
            return None
        return known[0] if len(known) == 1 else SummedRates(tuple(known))

    def _rates_of(self, row: Row, spec: CellSpec, card: str | None) -> DeviceRates | None:
        of_device = [c for c in self.device_rates if (c.device, c.gpu_uuid) == (spec.device, card)]
        if spec.device == "cpu":
            of_device = [c for c in of_device if c.threads == spec.threads]
        then = next((c for c in of_device if c.name.startswith(f"v{self.visit_of(row)}.")), None)
        return then or (of_device[-1] if of_device and spec.device == "cuda" else None)

    @cached_property
    def gpus_per_cell(self) -> int:
        """GPUs that the model of each cell is split over: the same for all cells of a run."""
        return max((planned.gpus for planned in self.record.cells), default=1)

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

    def visit_of(self, row: Ended) -> int | None:
        """The visit that measured a row, counted from 1: the last that was to; ``None`` for a cell without files."""
        if row.spec is None and row.verdict is None:
            return None
        return row.planned.repeat if row.planned.harness else self._last_visits.get(row.planned.cell)

    @cached_property
    def _last_visits(self) -> dict[str, int]:
        """Of each cell the last visit that was to measure it."""
        return {cell: n for n, visit in enumerate(self.record.all_visits, start=1) for cell in _cells_of(visit)}

    @property
    def every(self) -> tuple[Ended, ...]:
        """All planned cells but those of the scripted engine beside them."""
        return (*self.rows, *self.served)

    @property
    def planned(self) -> tuple[Ended, ...]:
        """All planned cells."""
        return (*self.rows, *self.own_error, *self.served, *self.own_error_served, *self.alone)

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
        """Why a measured row is not compared with the others: its work was not equal, its quality falls short,
        it guesses tokens of random weights, its batches ran in waves, or others disturbed it; empty where nothing is
        so."""
        if row.breaches:
            return row.breaches[0]
        return self.shortfall(row) or row.guesses_at_random or row.in_waves or row.disturbed

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
