"""A cell under load as the tables' lines have it, and the columns that most of them begin with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.measures import ServeMetrics
from bench_core.contract.statistics.correlated import Estimate
from bench_core.report.column import Column, Entry, at, raw
from bench_core.report.explain.under_load import label
from bench_core.report.format import ABSENT, within
from bench_core.runs.view import DAMAGED, RunView, ServedRow

_ORDER = {"concurrency": 0, "rate": 1, "trace": 2}


@dataclass(frozen=True)
class Served:
    """One cell under load, with what columns read of it."""

    view: RunView
    row: ServedRow

    @property
    def metrics(self) -> ServeMetrics | None:
        """What was measured; ``None`` for a cell without numbers."""
        return self.row.result.metrics if self.row.result else None

    @property
    def label(self) -> str:
        """The method's name, and which repeat it is from the second on."""
        return label(self.row)


def load_points(view: RunView) -> tuple[Serve, ...]:
    """All load points of a run: concurrencies, rates, the trace; each kind ascending."""
    found = {row.load.word: row.load for row in view.served}
    return tuple(sorted(found.values(), key=_place))


def _place(load: Serve) -> tuple[int, float, str]:
    return _ORDER[load.load], float(load.concurrency or load.request_rate or 0), load.word


def of_load(view: RunView, load: Serve) -> list[Served]:
    """The cells of one load point in the order of the plan."""
    return [Served(view, row) for row in view.served if row.load.word == load.word]


def by_load(view: RunView) -> Iterator[Served]:
    """All cells under load, load point by load point."""
    for load in load_points(view):
        yield from of_load(view, load)


def measured(view: RunView) -> list[Served]:
    """Those that have numbers, load point by load point."""
    return [line for line in by_load(view) if line.row.result is not None]


def status(line: Served) -> str:
    """In the first column of numbers: the outcome, or the file that is damaged; empty for a cell with numbers."""
    damage = line.row.damage
    if line.row.result is not None:
        return ""
    return f"{DAMAGED}: {damage.where}" if damage else line.row.status


def nothing(line: Served) -> str:
    """In the further columns of numbers."""
    return "" if line.row.result is not None else ABSENT


def estimate_column(title: str, path: str, *, factor: float = 1.0, **more: Any) -> Column[Served]:
    """A number with its interval.

    Args:
        path: to an ``Estimate``.
        factor: from its unit to the one that is shown.
    """
    read = at(path)

    def shown(line: Served) -> Entry:
        found: Estimate | None = read(line)
        if found is None:
            return Entry(ABSENT)
        return Entry(
            within(found.value, found.low, found.high, factor), found.value, strong=strong(line) if strong else False
        )

    strong = more.pop("strong", None)
    return Column(title, f"{path}.value", shown=shown, **{"failed": nothing, **more})


def ends(path: str, name: str) -> tuple[Column[Served], ...]:
    """A number's interval, in the CSV alone; ``name`` has a place for ``low`` and ``high``."""
    return tuple(Column("", f"{path}.{end}", csv=name.format(end)) for end in ("low", "high"))


METHOD = Column[Served]("Method", "label", words=True)
LOAD = Column[Served]("Load", "row.load.words", words=True)
KEY = (METHOD, LOAD)


def _cause(line: Served) -> str:
    row = line.row
    return row.problem or (f"not ranked: {row.unranked}" if row.unranked else "")


def _visit(line: Served) -> int | None:
    return line.view.visit_of(line.row)


def _arrivals(line: Served) -> str | None:
    return line.row.load.arrivals if line.row.load.load == "rate" else None


# In the CSV alone.
RAW: tuple[Column[Served], ...] = (
    *raw("row.planned", "cell", "image", "variant"),
    Column("", "row.label", csv="method"),
    Column("", "row.load.load", csv="load"),
    Column("", "row.load.concurrency", csv="concurrency"),
    Column("", "row.load.request_rate", csv="request_rate_per_s"),
    Column("", _arrivals, csv="arrivals"),
    *raw("row.planned", "repeat"),
    Column("", _visit, csv="visit"),
    *raw("row.spec", "gpu_uuid"),
    Column("", "row.status", csv="outcome"),
    Column("", _cause, csv="cause"),
)
