"""When which request is sent, made before anything is measured: the same for every engine that is compared."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bench_core.contract.errors import BadInput
from bench_core.contract.records.digest import text_sha256
from bench_core.contract.records.record import Record
from bench_core.contract.serving.load import Arrivals, Serve

# Of a schedule that is read: a file is not to be trusted.
MOST_REQUESTS = 10_000_000
# Of one that is made: a client keeps 9 kB of a request with 21 output tokens until records are written, so some 4 GB.
MOST_PLANNED = 500_000
# Of a schedule's file when it is unpacked; a file is not to be trusted.
_MOST_BYTES = 512 * 2**20

OffsetUs = Annotated[int, Field(ge=0, le=10**13)]
PromptIndex = Annotated[int, Field(ge=0, lt=2**31)]
TokenCount = Annotated[int, Field(ge=1, lt=2**31)]


class Schedule(Record):
    """The requests of a serving cell.

    Attributes:
        load: kind of load, as in ``Serve``.
        seed: of the arrivals.
        arrivals, request_rate: of an open loop with a rate.
        concurrency: of a closed loop.
        offsets_us: when each request is sent, microseconds from the start, ascending; empty for a closed loop.
        prompts: indices into the workload, in order; a closed loop begins again at its end.
        output_tokens: of each request: one number for all, or one each.
        digest: sha256 of all of this.
    """

    schema_version: Literal[1] = 1
    load: Literal["concurrency", "rate", "trace"]
    seed: int = Field(ge=0, lt=2**63)
    arrivals: Arrivals | None = None
    request_rate: float | None = Field(None, gt=0, le=1e6)
    concurrency: int | None = Field(None, ge=1, le=65536)
    offsets_us: tuple[OffsetUs, ...] = Field((), max_length=MOST_REQUESTS)
    prompts: tuple[PromptIndex, ...] = Field(min_length=1, max_length=MOST_REQUESTS)
    output_tokens: TokenCount | tuple[TokenCount, ...]
    digest: str

    @model_validator(mode="after")
    def _whole(self) -> Schedule:
        closed = self.load == "concurrency"
        if closed != (self.concurrency is not None) or (self.load == "rate") != (self.request_rate is not None):
            raise ValueError(f"a load of kind {self.load} has its own number and no other")
        if (self.load == "rate") != (self.arrivals is not None):
            raise ValueError("a load with a rate says how its requests arrive, and no other does")
        if closed == bool(self.offsets_us):
            raise ValueError("an open loop has times of sending, and a closed one has none")
        if self.offsets_us and len(self.offsets_us) != len(self.prompts):
            raise ValueError("offsets_us and prompts differ in length")
        if isinstance(self.output_tokens, tuple) and len(self.output_tokens) != len(self.prompts):
            raise ValueError("output_tokens and prompts differ in length")
        if any(later < earlier for earlier, later in itertools.pairwise(self.offsets_us)):
            raise ValueError("times of sending are not in order")
        if self.digest != _digest(self.model_dump(mode="json")):
            raise ValueError("the schedule does not match its digest")
        return self

    @classmethod
    def made(
        cls,
        load: Serve,
        seed: int,
        offsets_us: Sequence[int],
        prompts: Sequence[int],
        output_tokens: int | Sequence[int],
    ) -> Schedule:
        """A schedule with its digest."""
        content: dict[str, object] = {
            "schema_version": 1,
            "load": load.load,
            "seed": seed,
            "arrivals": load.arrivals if load.load == "rate" else None,
            "request_rate": load.request_rate,
            "concurrency": load.concurrency,
            "offsets_us": list(offsets_us),
            "prompts": list(prompts),
            "output_tokens": output_tokens if isinstance(output_tokens, int) else list(output_tokens),
        }
        return cls.model_validate({**content, "digest": _digest(content)})

    def output_of(self, index: int) -> int:
        """Tokens that the ``index``-th request is to write."""
        given = self.output_tokens
        return given if isinstance(given, int) else given[index % len(given)]

    def prompt_of(self, index: int) -> int:
        """The workload's prompt that the ``index``-th request sends."""
        return self.prompts[index % len(self.prompts)]

    @property
    def requests(self) -> int | None:
        """How many there are; ``None``: without end, in a closed loop."""
        return len(self.offsets_us) or None

    def packed(self) -> bytes:
        """The content of a ``.json.gz`` file: the same bytes whenever it is made with the same compressor."""
        return gzip.compress((self.model_dump_json() + "\n").encode(), mtime=0)

    @classmethod
    def unpacked(cls, content: bytes, origin: str) -> Schedule:
        """Of what ``packed`` made; ``origin`` names the file in the error.

        Raises:
            BadInput: it is no such file, or unpacks to more than 512 MiB.
        """
        unzip = zlib.decompressobj(wbits=31)
        try:
            text = unzip.decompress(content, _MOST_BYTES + 1)
        except zlib.error as error:
            raise BadInput(f"{origin}: {error}", "not a Schedule, or damaged") from error
        if len(text) > _MOST_BYTES:
            raise BadInput(f"{origin}: unpacks to more than {_MOST_BYTES} bytes", "not a Schedule, or damaged")
        if not unzip.eof:
            raise BadInput(f"{origin}: ends too early", "not a Schedule, or damaged")
        return cls.parse(text, origin)

    @classmethod
    def read_packed(cls, path: Path) -> Schedule:
        """Of a file.

        Raises:
            BadInput: it cannot be read, or is no such file.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror or error}") from error
        return cls.unpacked(content, str(path))


def _digest(content: dict[str, object]) -> str:
    """Of the canonical JSON of all fields but the digest: keys in order, no spaces, fractions as Python writes them."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return text_sha256(json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False))


def poisson(rate: float, seed: int, count: int) -> list[int]:
    """Times of a Poisson process: whole microseconds, ascending, the first after one gap.

    Gaps are ``-log(1 - u) / rate`` (inversion), with ``u`` of ``random.Random(seed).random()``. Python promises the
    same ``random()`` for the same whole seed in every version, and promises it of no other draw; its ``expovariate``
    has been changed. The logarithm may differ in the last of 53 bits between C libraries, which a whole microsecond
    shows in about one time of a billion; the schedule's digest would tell.
    """
    drawn = random.Random(seed).random  # noqa: S311  # arrivals are no secret
    gaps = (-math.log(1.0 - drawn()) / rate for _ in range(count))
    return [round(time_s * 1e6) for time_s in itertools.accumulate(gaps)]


def constant(rate: float, count: int) -> list[int]:
    """Times with gaps of ``1 / rate``: whole microseconds, the first at 0. Rounding does not add up."""
    return [round(place / rate * 1e6) for place in range(count)]


def more_than_fit(rate: float, horizon_s: float) -> str:
    """Why a schedule of so many requests per second for so long cannot be; empty where it can."""
    expected = rate * horizon_s
    if expected <= MOST_PLANNED:
        return ""
    return f"{rate:g} requests/s for {horizon_s:g} s are {expected:.3g} requests, more than {MOST_PLANNED}"


def make_schedule(load: Serve, seed: int, prompts: int, max_new_tokens: int, horizon_s: float) -> Schedule:
    """The schedule of a closed loop or of a rate; that of a trace is ``trace.trace_schedule``.

    Args:
        prompts: of the workload; they are used in its order, and from its beginning again where they are too few.
        horizon_s: of an open loop: the last request is sent before this, unless the first one comes later.

    Raises:
        BadInput: no prompt, a trace, or more requests than can be.
    """
    if prompts < 1:
        raise BadInput("a schedule needs a prompt, and the workload has none")
    if load.load == "trace":
        raise BadInput("the schedule of a trace follows from its file")
    if load.request_rate is None:
        return Schedule.made(load, seed, (), range(prompts), max_new_tokens)
    if too_many := more_than_fit(load.request_rate, horizon_s):
        raise BadInput(too_many, "lower the rate, or the longest times of warm-up and window")
    expected = load.request_rate * horizon_s
    # So many that one after the horizon is among them, but in a case of 10 standard deviations.
    count = math.ceil(expected + 10 * math.sqrt(expected) + 20)
    times = (
        poisson(load.request_rate, seed, count) if load.arrivals == "poisson" else constant(load.request_rate, count)
    )
    kept = [time for time in times if time < horizon_s * 1e6] or times[:1]
    return Schedule.made(load, seed, kept, [place % prompts for place in range(len(kept))], max_new_tokens)
