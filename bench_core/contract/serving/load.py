"""Load points: what a serving cell varies."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bench_core.contract.records.record import Record

MOST_AT_ONCE = 65536
Concurrency = Annotated[int, Field(ge=1, le=MOST_AT_ONCE)]
RequestRate = Annotated[float, Field(gt=0, le=1e6)]
Arrivals = Literal["poisson", "constant"]
RATE_DECIMALS = 3  # that a cell's name has

_WORD = re.compile(r"c(?P<c>[1-9][0-9]{0,4})|r(?P<r>[0-9]{1,7}(?:_[0-9]{1,3})?)(?P<k>-constant)?|(?P<t>trace)")


class Serve(Record):
    """Requests to the engine's own server, over HTTP, one by one.

    Attributes:
        load: ``concurrency`` (closed loop: so many requests are in flight, the next is sent when one ends), ``rate``
            (open loop: requests are sent at their times, whatever the server does), ``trace`` (open loop: times,
            prompts and lengths of a recorded load).
        concurrency: of a closed loop.
        request_rate: of an open loop, requests per second.
        arrivals: gaps of an open loop: exponential, or all alike.
    """

    kind: Literal["serve"] = "serve"
    load: Literal["concurrency", "rate", "trace"]
    concurrency: Concurrency | None = None
    request_rate: RequestRate | None = None
    arrivals: Arrivals = "poisson"

    @model_validator(mode="after")
    def _one_load(self) -> Serve:
        given = {"concurrency": self.concurrency is not None, "rate": self.request_rate is not None}
        if any(there != (self.load == name) for name, there in given.items()):
            raise ValueError(f"a load of kind {self.load} has its own number and no other")
        return self

    @property
    def word(self) -> str:
        """``c16``, ``r8``, ``r0_5`` (half a request per second), ``r8-constant``, ``trace``: of a cell's name."""
        if self.concurrency is not None:
            return f"c{self.concurrency}"
        if self.request_rate is None:
            return "trace"
        rate = f"{self.request_rate:.{RATE_DECIMALS}f}".rstrip("0").rstrip(".").replace(".", "_")
        return f"r{rate}" + ("-constant" if self.arrivals == "constant" else "")

    @property
    def mark(self) -> str:
        """The same where room is short, for people: ``c16``, ``r0.5``."""
        return self.word.replace("_", ".")

    @property
    def words(self) -> str:
        """For people: ``16 at once``, ``8 requests/s``."""
        if self.concurrency is not None:
            return f"concurrency {self.concurrency}"
        if self.request_rate is None:
            return "trace"
        return f"{self.request_rate:g} requests/s" + (", constant" if self.arrivals == "constant" else "")

    @property
    def open_loop(self) -> bool:
        """Whether requests are sent at times that do not depend on the server."""
        return self.concurrency is None

    @classmethod
    def of_word(cls, word: str) -> Serve | None:
        """The scenario of such a word; ``None`` where it is none of this kind."""
        match = _WORD.fullmatch(word)
        if match is None:
            return None
        if match["t"]:
            return cls(load="trace")
        if match["c"]:
            return cls(load="concurrency", concurrency=int(match["c"])) if int(match["c"]) <= MOST_AT_ONCE else None
        rate = float(match["r"].replace("_", "."))
        if not 0 < rate <= 1e6:
            return None
        return cls(load="rate", request_rate=rate, arrivals="constant" if match["k"] else "poisson")
