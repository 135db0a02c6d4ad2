"""One of the runs: what comparing needs of each cell, and nothing else, so that two large runs fit into memory."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from bench_core.contract.measures.quality import Likelihood


@dataclass(frozen=True)
class Key:
    """What a cell is paired by: image, variant, and its scenario's word (``b16``, ``c64``)."""

    image: str
    variant: str
    word: str

    @property
    def name(self) -> str:
        """``image.variant.word``: the name of the cell's first repeat."""
        return f"{self.image}.{self.variant}.{self.word}"


@dataclass(frozen=True)
class Known:
    """A number with the ends of its 95 % interval.

    Attributes:
        low, high: ``None`` where there is no interval.
        freedom: degrees of freedom of the interval.
        absent: why there is no interval, in words.
    """

    value: float
    low: float | None = None
    high: float | None = None
    freedom: float = 1.0
    absent: str = ""


@dataclass(frozen=True)
class Series:
    """A number of each batch, in order of time.

    Attributes:
        prompts: of each batch, 64 bits of the digest of its place in the workload and of its prompts.
        values: as many.
    """

    prompts: array[int]
    values: array[float]


@dataclass(frozen=True)
class Repeat:
    """One measurement of a cell.

    Attributes:
        numbers, series: by the quantity's name. The series of ``throughput`` is seconds of each batch.
        likelihood: where the cell scored texts.
        batches: measured batches; of a cell under load, answered requests.
        measured_s: how long it was measured.
    """

    numbers: dict[str, Known]
    series: dict[str, Series]
    likelihood: Likelihood | None
    batches: int
    measured_s: float


@dataclass(frozen=True)
class Cell:
    """A cell with its repeats.

    Attributes:
        label, scenario: in words.
        repeats: those with numbers that may be compared; empty where ``trouble`` says why.
        planned: repeats that were planned.
        trouble: how it failed, or why it is not ranked.
        failed: whether it failed by itself, so that it would fail again.
        saturated: its server did not keep up with the load.
        conditions: by name, what else decides its numbers (threads, what was sent).
        versions, options: of its engine.
    """

    key: Key
    label: str
    scenario: str
    repeats: tuple[Repeat, ...]
    planned: int
    trouble: str = ""
    failed: bool = False
    saturated: bool = False
    conditions: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """A run, or one version of an engine in a run.

    Attributes:
        name: of the folder, or engine and version; ``folder``: as it was given, which is also the name where two have
            the same.
        conditions: by name, what must be alike for its numbers to be compared with another run's.
        facts: by name, what may differ and is told: driver, host, suite.
        forced: whether all rows have the same number of tokens.
        cells: by key, in the order of the plan.
    """

    name: str
    folder: str
    conditions: dict[str, str]
    facts: dict[str, str]
    forced: bool
    cells: dict[Key, Cell]
