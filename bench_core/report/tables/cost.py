"""What output tokens cost, where a price was given: the table, and the columns of both CSVs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bench_core.report.cell import Cell
from bench_core.report.column import Column, Entry, Sheet, sheet
from bench_core.report.decide.cost import Prices, cost_per_million, energy_cost_per_million
from bench_core.report.decide.option import Option, Quantity, options_of
from bench_core.report.format import ABSENT, significant, within
from bench_core.report.served import Served
from bench_core.runs.view import RunView

_NAME = "cost_per_million_output_tokens"


def cost_sheet(view: RunView, prices: Prices) -> Iterator[Sheet]:
    """One line for each cell with numbers but the scripted engine's, batch sizes and load points as in the report;
    nothing without a price."""
    if not prices:
        return
    lines = [option for option in options_of(view) if option.throughput_tok_s and not option.scripted]
    columns = (
        Column[Option]("Method", "method", words=True),
        Column[Option]("At", "point_words", words=True),
        *_columns(prices, lambda option: option.throughput_tok_s, lambda option: option.joules_per_token),
    )
    energy = "Energy: of the device alone, where a counter can be read. " if prices.kwh is not None else ""
    note = (
        f"Prices: {prices.words}. {energy}The cost is of a device that is busy all the time as in this measurement, "
        "prompts included. An interval is that of the throughput."
    )
    yield sheet("Cost", columns, lines, [note])


def cell_cost_columns(prices: Prices) -> tuple[Column[Cell], ...]:
    """Of a cell of closed batches."""
    return _columns(prices, _of_batches, lambda cell: cell.telemetry and cell.telemetry.joules_per_output_token)


def served_cost_columns(prices: Prices) -> tuple[Column[Served], ...]:
    """Of a cell under load."""
    return _columns(prices, _under_load, _joules_under_load)


def _of_batches(cell: Cell) -> Quantity | None:
    rate = cell.rate
    if rate is None:
        return None
    interval = rate.interval
    ends = (interval.low_tok_s, interval.high_tok_s) if interval else (None, None)
    return Quantity(rate.throughput_tok_s, *ends)


def _under_load(line: Served) -> Quantity | None:
    return Quantity.of(line.metrics.output_throughput_tok_s) if line.metrics else None


def _joules_under_load(line: Served) -> float | None:
    telemetry = line.metrics.telemetry if line.metrics else None
    return telemetry.joules_per_output_token if telemetry else None


def _columns(
    prices: Prices, throughput: Callable[[Any], Quantity | None], joules: Callable[[Any], float | None]
) -> tuple[Column[Any], ...]:
    """Those that a price was given for."""
    found: list[Column[Any]] = []
    if prices.gpu_hour is not None:
        found += _time_columns(prices, lambda line: cost_per_million(prices, throughput(line)))
    if prices.kwh is not None:
        found.append(
            Column(
                "Energy cost of a million output tokens",
                lambda line: energy_cost_per_million(prices, joules(line)),
                significant,
                unit=prices.currency,
                csv=f"energy_{_NAME}",
                meaning="energy of the device for each output token x 1 000 000 / 3 600 000 x the price of a kWh",
            )
        )
    return tuple(found)


def _time_columns(prices: Prices, cost: Callable[[Any], Quantity | None]) -> Iterator[Column[Any]]:
    def shown(line: Any) -> Entry:
        found = cost(line)
        return Entry(ABSENT) if found is None else Entry(within(found.value, found.low, found.high), found.value)

    def part(name: str) -> Callable[[Any], float | None]:
        return lambda line: getattr(cost(line), name, None)

    yield Column(
        "Cost of a million output tokens",
        part("value"),
        unit=prices.currency,
        csv=_NAME,
        shown=shown,
        meaning="price of an hour of the device / 3600 / throughput x 1 000 000, with the interval of the throughput",
    )
    yield from (Column("", part(end), csv=f"{_NAME}_{end}") for end in ("low", "high"))
