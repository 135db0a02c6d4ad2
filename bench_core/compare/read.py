"""Reads runs for comparing: each in a process of its own, since reading events is most of the work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from bench_core.compare.batches import BatchTimes, known_of
from bench_core.compare.side import Cell, Key, Known, Repeat, Side
from bench_core.contract.errors import BadInput, nearest
from bench_core.contract.measures.cell import CellMetrics
from bench_core.contract.records.events import BatchEvent, Event
from bench_core.contract.serving.measures import ServeMetrics
from bench_core.contract.statistics.correlated import BLOCKS, Estimate
from bench_core.contract.statistics.workload_rate import LEAST_FREEDOM, WorkloadRate
from bench_core.report.conditions import cell_conditions, run_conditions, run_facts, run_names
from bench_core.report.explain.marks import untold
from bench_core.runs.collector import collect_seldom
from bench_core.runs.load import Watched, load_run
from bench_core.runs.view import Ended, Row, RunView, ServedRow
from bench_core.system.text import foreign, one_line


def read_sides(folders: Sequence[Path]) -> list[Side]:
    """The runs in these folders, beside each other where there are CPUs for it.

    Raises:
        BadInput: one of them is not a run.
    """
    if len(folders) == 1:
        return [read_side(folders[0])]
    # Started anew, not forked: a caller may have threads.
    with ProcessPoolExecutor(
        max_workers=len(folders), mp_context=get_context("spawn"), initializer=collect_seldom
    ) as pool:
        sides = list(pool.map(read_side, folders))
    return [replace(side, name=name) for side, name in zip(sides, run_names(folders), strict=True)]


def read_side(folder: Path) -> Side:
    """One run.

    Raises:
        BadInput: it is none.
    """
    view, times = _read(folder)
    planned = dict.fromkeys(row.planned.image for row in (*view.rows, *view.served))
    return _side(view, times, folder, one_line(folder.resolve().name), {image: image for image in planned})


def read_versions(folder: Path, engine: str = "", versions: Sequence[str] = ()) -> list[Side]:
    """The versions of an engine that one run has measured, each as if it were a run of its own, whose cells are the
    engine's; that which the image pins, where it was measured too, is the first, the others as they were asked for.

    Args:
        engine: the image; not needed where the run has versions of one alone.
        versions: these alone, in this order; all where empty.

    Raises:
        BadInput: not a run, or it does not have two such versions.
    """
    view, times = _read(folder)
    made = view.record.engine_versions
    engines = list(dict.fromkeys(version.image for version in made.values()))
    if not engines:
        raise BadInput(
            f"{folder} is one run alone, without versions of an engine",
            "give the baseline and at least one other run, or measure with --engine-version IMAGE=VERSION,VERSION",
        )
    if engine and engine not in engines:
        raise BadInput(f"{folder} has no versions of {engine!r}", nearest(engine, engines))
    if not engine and len(engines) > 1:
        words = (f"{one}={','.join(v.version for v in made.values() if v.image == one)}" for one in engines)
        raise BadInput(
            f"{folder} has versions of several engines",
            f"say which: {' or '.join(f'--engine-version {w}' for w in words)}",
        )
    engine = engine or engines[0]
    planned = {row.planned.image for row in (*view.rows, *view.served)}
    images = {"": engine} if engine in planned else {}
    images |= {v.version: name for name, v in made.items() if v.image == engine and name in planned}
    for version in versions:
        if version not in images:
            raise BadInput(f"{folder} has no version {version!r} of {engine}", nearest(version, filter(None, images)))
    wanted = list(versions) or list(images)
    if len(wanted) < 2:
        raise BadInput(
            f"{folder} has one version of {engine} alone", f"--resume it with --engine-version {engine}=VERSION"
        )
    return [
        _side(
            view,
            times,
            folder,
            foreign(f"{engine} {version}" if version else f"{engine} as pinned"),
            {images[version]: engine},
            version,
        )
        for version in wanted
    ]


def _read(folder: Path) -> tuple[RunView, dict[str, BatchTimes]]:
    """A run, and the times of the batches of its cells."""
    watched = Watched(_Watcher)
    view = load_run(folder, watched)
    return view, {cell: watcher.times for cell, watcher in watched.of.items()}


def _side(
    view: RunView, times: dict[str, BatchTimes], folder: Path, name: str, images: Mapping[str, str], version: str = ""
) -> Side:
    """The cells of some images of a run.

    Args:
        images: by name; with what stands for each in the keys of its cells.
        version: what their labels say and those of the other side do not.
    """
    groups: dict[Key, list[Row | ServedRow]] = {}
    rows: list[Row | ServedRow] = [*view.rows, *view.served]
    for row in rows:
        planned = row.planned
        if planned.repeat <= view.record.repeats and planned.image in images:
            groups.setdefault(Key(images[planned.image], planned.variant, planned.scenario.word), []).append(row)
    cells = {key: _cell(view, key, found, times) for key, found in groups.items()}
    if version:
        cells = {key: replace(cell, label=cell.label.replace(f" {version} ", " ", 1)) for key, cell in cells.items()}
    return Side(
        name=name,
        folder=folder.as_posix(),
        conditions=run_conditions(view),
        facts=run_facts(view),
        forced=view.record.length == "forced",
        cells=cells,
    )


class _Watcher:
    """Shows a cell's batches to what keeps their times."""

    def __init__(self) -> None:
        self.times = BatchTimes()

    def line(self, content: bytes) -> None:
        """Nothing is kept of a line."""

    def take(self, event: Event) -> None:
        """The next event of the log."""
        if isinstance(event, BatchEvent):
            self.times.add(event)


def _cell(view: RunView, key: Key, rows: Sequence[Row | ServedRow], times: dict[str, BatchTimes]) -> Cell:
    troubles = {row.planned.cell: _trouble(view, row) for row in rows}
    good = [row for row in rows if not troubles[row.planned.cell]]
    told = next(iter(good), rows[0])
    repeats = tuple(
        _served(view, row) if isinstance(row, ServedRow) else _offline(view, row, times[row.planned.cell])
        for row in good
    )
    spec = told.spec
    return Cell(
        key=key,
        label=foreign(told.label),
        scenario=rows[0].planned.scenario.words,
        repeats=repeats,
        planned=len(rows),
        trouble="" if good else troubles[rows[0].planned.cell],
        failed=not good and all(_failed(row) for row in rows),
        saturated=any(isinstance(row, ServedRow) and row.result and row.result.metrics.saturated for row in good),
        conditions=cell_conditions(told),
        versions={foreign(k): foreign(v) for k, v in _versions(told).items()},
        options={foreign(k): foreign(str(v)) for k, v in spec.options.items()} if spec is not None else {},
    )


def _trouble(view: RunView, row: Row | ServedRow) -> str:
    """Why a row is compared with no other; empty where it is. That an engine is scripted is no reason here."""
    if not row.measured:
        return one_line(f"{row.status}: {row.problem}")
    why = view.unranked(row) if isinstance(row, Row) else row.unranked
    return one_line(f"not ranked: {why}") if why else ""


def _failed(row: Ended) -> bool:
    return not row.measured and row.damage is None and row.verdict is not None and row.verdict.outcome.is_of_the_cell


def _versions(row: Row | ServedRow) -> dict[str, str]:
    return row.result.versions if row.result is not None else {}


# --- closed batches ---------------------------------------------------------------------------------------------------


def _offline(view: RunView, row: Row, times: BatchTimes) -> Repeat:
    assert row.result is not None  # noqa: S101  # rows without trouble have numbers
    assert row.rate is not None  # noqa: S101
    metrics = row.result.metrics
    series = times.series()
    numbers = {
        "throughput": _throughput(row, row.rate),
        **{n: known_of(s) for n, s in series.items() if n != "throughput"},
    }
    likelihood = metrics.likelihood
    more = {
        "memory": view.peak_memory_bytes(metrics),
        "energy": _joules(metrics),
        "quality": likelihood.perplexity if likelihood is not None else None,
    }
    numbers |= {name: Known(value) for name, value in more.items() if value is not None and value > 0}
    return Repeat(numbers, series, likelihood, metrics.batches, metrics.measured_s)


def _throughput(row: Row, rate: WorkloadRate) -> Known:
    """The run's own number; degrees of freedom follow from the batches and the correlation of neighbours, as
    ``contract.statistics.interval`` reckons with it, two taken off for what may have been fitted."""
    interval = rate.interval
    if interval is None:
        return Known(rate.throughput_tok_s, absent=f"no interval: {untold(row)}")
    square = interval.correlation**2
    freedom = max((len(row.pace) - 2) * (1 - square) / (1 + square) - 1, LEAST_FREEDOM)
    return Known(rate.throughput_tok_s, interval.low_tok_s, interval.high_tok_s, freedom)


def _joules(metrics: CellMetrics) -> float | None:
    return metrics.telemetry.joules_per_output_token if metrics.telemetry is not None else None


# --- under load -------------------------------------------------------------------------------------------------------


def _served(view: RunView, row: ServedRow) -> Repeat:
    assert row.result is not None  # noqa: S101  # rows without trouble have numbers
    metrics = row.result.metrics
    found: dict[str, Estimate | None] = {"throughput": metrics.output_throughput_tok_s}
    if not metrics.saturated:
        found |= dict(_latencies(metrics))
    numbers = {name: _known(number) for name, number in found.items() if number is not None and number.value > 0}
    memory = metrics.device_peak_bytes if view.on_cuda else row.result.host_peak_bytes
    joules = metrics.telemetry.joules_per_output_token if metrics.telemetry is not None else None
    plain = {"memory": memory, "energy": joules}
    numbers |= {name: Known(value) for name, value in plain.items() if value is not None and value > 0}
    return Repeat(numbers, {}, None, metrics.requests.ok, metrics.window_s)


def _latencies(metrics: ServeMetrics) -> Iterable[tuple[str, Estimate | None]]:
    ttft, tpot, kept = metrics.ttft_s, metrics.tpot_s, metrics.kept
    yield "ttft", ttft.p50 if ttft is not None else None
    yield "ttft_p99", ttft.p99 if ttft is not None else None
    yield "tpot", tpot.p50 if tpot is not None else None
    yield "goodput", kept.goodput if kept is not None else None


def _known(number: Estimate) -> Known:
    """With the degrees of freedom of the fewest blocks that an interval is made of."""
    low = number.low if number.low is not None and number.low > 0 else None
    high = number.high if low is not None else None
    absent = number.absent or ("" if low is not None else "its interval reaches to 0")
    return Known(number.value, low, high, float(BLOCKS[-1] - 1), f"no interval: {absent}" if absent else "")
