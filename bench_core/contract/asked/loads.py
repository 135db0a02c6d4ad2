"""Load points as a person asks for them: on the driver's command line, in a suite file, and of a client by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from bench_core.contract.asked.declaration import Said
from bench_core.contract.records.record import Record
from bench_core.contract.serving.load import RATE_DECIMALS, Arrivals, Concurrency, RequestRate, Serve


class Loads(Record):
    """Loads over HTTP: a cell each."""

    concurrency: Annotated[tuple[Concurrency, ...], Said(default="none")] = Field(
        (), description="serving over HTTP: requests in flight, a cell each"
    )
    request_rate: Annotated[tuple[RequestRate, ...], Said(default="none")] = Field(
        (), description="serving over HTTP: requests per second, a cell each"
    )
    arrivals: Arrivals = Field("poisson", description="gaps between requests at a rate: exponential, or all alike")
    trace: Annotated[Path | None, Said(default="none", metavar="FILE")] = Field(
        None, description="serving over HTTP: a recorded load, JSON lines of times and prompts; a cell of its own"
    )

    @property
    def loads(self) -> tuple[Serve, ...]:
        """Load points of every method that is served."""
        loads = [Serve(load="concurrency", concurrency=number) for number in self.concurrency]
        loads += [Serve(load="rate", request_rate=rate, arrivals=self.arrivals) for rate in self.request_rate]
        return (*loads, *([Serve(load="trace")] if self.trace is not None else []))

    @field_validator("concurrency", "request_rate")
    @classmethod
    def _each_load_once(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(value)))

    @field_validator("request_rate")
    @classmethod
    def _as_cells_are_named(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        finer = next((rate for rate in rates if round(rate, RATE_DECIMALS) != rate), None)
        if finer is not None:  # two such rates would be one cell
            raise ValueError(f"{finer:.12g} requests/s: a rate has {RATE_DECIMALS} decimals at most")
        return rates
