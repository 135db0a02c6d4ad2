"""How a serving cell is measured: every option of it, declared once (see ``contract.asked.protocol``)."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator

from bench_core.contract.asked.declaration import MayDiffer, Said
from bench_core.contract.records.record import Record

LIMITED = ("ttft_s", "tpot_s", "itl_s", "e2e_s")
DRAIN_S = 60.0  # that requests of a window are waited for, under the same load
# Of a stream of a closed loop, after a request that failed (no connection, a broken one, another status than 200, an
# answer without a token or of another length than was forced): a server may fail in microseconds, and a loop without a
# pause would do nothing but ask it, faster than is written down.
PAUSE_AFTER_FAILED_S = 0.25
Percentile = Literal[50, 90, 95, 99]


class Limits(Record):
    """Latency limits of a request, seconds; a service-level objective. ``None``: not limited."""

    ttft_s: float | None = Field(None, gt=0)
    tpot_s: float | None = Field(None, gt=0)
    itl_s: float | None = Field(None, gt=0)
    e2e_s: float | None = Field(None, gt=0)

    @property
    def words(self) -> str:
        """``ttft_s <= 0.5, tpot_s <= 0.05``; empty where nothing is limited."""
        given = ((name, getattr(self, name)) for name in LIMITED)
        return ", ".join(f"{name} <= {value:g}" for name, value in given if value is not None)

    @classmethod
    def of_words(cls, words: tuple[str, ...]) -> Limits | None:
        """``("ttft_s=0.5", "tpot_s=0.05")``; ``None`` for none.

        Raises:
            ValueError: not such words; what is wrong.
        """
        found: dict[str, float] = {}
        for word in words:
            name, _, text = word.partition("=")
            if name not in LIMITED:
                raise ValueError(f"{word!r} is no limit: NAME=SECONDS, with a name of {', '.join(LIMITED)}")
            if name in found:
                raise ValueError(f"{name} is given twice")
            try:
                found[name] = float(text)
            except ValueError as error:
                raise ValueError(f"{word!r}: {text!r} is no number of seconds") from error
            if not (math.isfinite(found[name]) and found[name] > 0):
                raise ValueError(f"{word!r}: a limit is above 0 seconds")
        return cls(**found) if found else None


class ServeFields(Record):
    """How a serving cell is measured."""

    serve_precision: float = Field(
        0.02, gt=0, lt=1, description="serving: measure until throughput's 95 % interval is within this share of it"
    )
    ttft_precision: float = Field(
        0.05, gt=0, lt=1, description="serving: and until the interval of this percentile is within this share"
    )
    ttft_percentile: Percentile = Field(90, description="serving: the percentile of time to first token to stop by")
    max_serve_seconds: float = Field(120.0, gt=0, description="serving: longest window of a cell, seconds")
    max_ramp_seconds: float = Field(60.0, gt=0, description="serving: longest warm-up of a cell, seconds")
    request_timeout_s: float = Field(600.0, gt=0, description="serving: for one request, seconds")
    arrival_seed: int = Field(1, ge=0, lt=2**63, description="serving: seed of arrival times")
    slo: Annotated[tuple[str, ...], MayDiffer(), Said(metavar="NAME=SECONDS", default="none")] = Field(
        (), description="serving: latency limits of a request, as ttft_s=0.5,tpot_s=0.05"
    )
    client_processes: int = Field(1, ge=1, le=256, description="serving: load generators, a CPU core each")
    client_nodes: int = Field(
        0,
        ge=0,
        le=64,
        description="serving: other nodes of --cluster that the load comes from, --client-processes on each; 0: none",
    )

    @field_validator("slo")
    @classmethod
    def _limits(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        Limits.of_words(words)
        return words

    @property
    def horizon_s(self) -> float:
        """For how long requests are scheduled: the longest warm-up and window, and the time in which the requests of
        the window are followed to their end."""
        return self.max_ramp_seconds + self.max_serve_seconds + DRAIN_S

    @property
    def load_generators(self) -> int:
        """All of them, on all hosts."""
        return self.client_processes * max(self.client_nodes, 1)

    @property
    def limits(self) -> Limits | None:
        """The latency limits, where any are given."""
        return Limits.of_words(self.slo)


class ServeProtocol(ServeFields):
    """The protocol of one serving cell, as its ``spec.json`` has it."""
