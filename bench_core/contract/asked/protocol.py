"""How a cell is measured: every option of it, declared once.

A suite file, the driver's command line and the worker's read ``MeasureOptions``; of it each cell gets its own
``MeasureProtocol``, which stands in its ``spec.json``. A new option is a field of ``ProtocolFields`` here and the rule
that uses it: files, command lines, help, resuming and the records of earlier runs follow from the declaration.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from bench_core.contract.asked.declaration import Before, MayDiffer, Said, meant_before
from bench_core.contract.asked.scenario import MAX_GPUS, BatchSize, Offline, Scenario
from bench_core.contract.measures.cpu_use import GPU_IDLE_CPUS, BusyRule
from bench_core.contract.records.record import Record
from bench_core.contract.serving.protocol import ServeFields, ServeProtocol
from bench_core.contract.statistics.stopping import StoppingRule, WarmupRule

Length = Literal["forced", "natural"]
NewTokens = Annotated[
    int, Field(ge=1, description="new tokens of each prompt: exactly so many, or the limit where length is natural")
]

R = TypeVar("R", bound=Record)


class ProtocolFields(Record):
    """How a cell is measured: warm-up, when to stop, and what is done beside."""

    warmup_batches: int = Field(1, ge=1, le=1000, description="batches that a cell discards, at least")
    max_warmup_batches: Annotated[int | None, Before(None), Said(default="20; 1: no test")] = Field(
        20, ge=1, le=1000, description="batches that are discarded until latencies show no trend, at most"
    )
    max_warmup_seconds: Annotated[float | None, Before(None)] = Field(
        15.0, gt=0, description="limit of warm-up beyond warmup_batches, seconds; the five batches of the test are run"
    )
    precision: Annotated[float | None, Before(None)] = Field(
        0.01, gt=0, lt=1, description="measure until throughput's 95 % interval is within this share of it"
    )
    max_seconds: Annotated[float | None, Said(default="no limit")] = Field(
        None, gt=0, description="measuring time of a cell after which no further batch is begun, seconds"
    )
    max_batches: Annotated[int | None, Said(default="whole workload")] = Field(
        None, ge=1, description="measured batches of a cell, at most"
    )
    latency_batches: int = Field(
        3, ge=1, le=1000, description="batches for token times, left out of throughput, where asking for them costs"
    )
    direct_batches: Annotated[int, MayDiffer()] = Field(
        0, ge=0, le=1000, description="last measured batches that are given to the engine directly as well, for parity"
    )
    direct_rounds: Annotated[int, MayDiffer()] = Field(
        1, ge=1, le=1000, description="how often each of these is given to both"
    )
    score_texts: Annotated[int, Before(0), MayDiffer()] = Field(
        8,
        ge=0,
        le=1000,
        description="texts whose log-likelihood a variant is asked for, after its first cell's batches",
    )


class MeasureProtocol(ProtocolFields):
    """The protocol of one cell, as its ``spec.json`` has it. A key that is not there means what it meant before the
    option was: neither a rule to stop by nor a test of the warm-up, and no score.

    Attributes:
        precision: ``None`` measures all batches.
        max_warmup_batches, max_warmup_seconds: seconds count from the end of ``warmup_batches``. ``None`` batches, or
            too few for the test: it is not made.
        score_texts: above 0 in the first cell of an engine's life, since one score serves all batch sizes.
        busy: from when on others on the same CPUs disturb a cell; ``None``: nobody looked.
    """

    busy: Annotated[BusyRule | None, MayDiffer()] = None

    @model_validator(mode="before")
    @classmethod
    def _as_it_was_meant(cls, given: Any) -> Any:
        return {**_MEANT_BEFORE, **given} if isinstance(given, dict) else given

    @property
    def warmup_rule(self) -> WarmupRule:
        """When the warm-up ends."""
        return WarmupRule(
            at_least=self.warmup_batches,
            at_most=self.max_warmup_batches,
            max_s=self.max_warmup_seconds,
            max_s_from="floor",
        )

    @property
    def stopping_rule(self) -> StoppingRule:
        """When measuring ends."""
        return StoppingRule(
            precision=self.precision, max_s=self.max_seconds, max_batches=self.max_batches, busy=self.busy
        )

    @property
    def in_effect(self) -> MeasureProtocol:
        """The same without limits of a test that is not made: they decide nothing."""
        if self.warmup_rule.has_room_for_the_test:
            return self
        return self.model_copy(update={"max_warmup_batches": None, "max_warmup_seconds": None})

    @property
    def as_asked(self) -> dict[str, Any]:
        """The fields of ``MeasureOptions`` that ask for this protocol."""
        given = {name: value for name in ProtocolFields.model_fields if (value := getattr(self, name)) is not None}
        busy_cpus = self.busy.cpus if self.busy is not None else None
        return {"exhaustive": self.precision is None, "max_warmup_batches": 1, "busy_cpus": busy_cpus, **given}


_MEANT_BEFORE = meant_before(MeasureProtocol)


class Timeouts(Record):
    """Time limits; an engine that exceeds one is stopped."""

    load_timeout_s: float = Field(
        3600.0, gt=0, description="for an engine's start and the loading of its model, seconds"
    )
    prepare_timeout_s: float = Field(3600.0, gt=0, description="for the caches and graphs of one batch size, seconds")
    batch_timeout_s: float = Field(3600.0, gt=0, description="for one batch of any phase, seconds")
    cell_timeout_s: float = Field(86400.0, gt=0, description="for one cell, from its preparation to its end, seconds")

    @property
    def longest_step_s(self) -> float:
        """The longest time between two things that a worker says."""
        return max(self.load_timeout_s, self.prepare_timeout_s, self.batch_timeout_s)


class WorkFields(Record):
    """What every cell does, and with what."""

    max_new_tokens: NewTokens = 64
    length: Length = Field(
        "forced", description="forced: exactly that many new tokens; natural: texts may end before, at their own end"
    )
    device: Literal["auto", "cuda", "cpu"] = Field("auto", description="what is measured; auto: a GPU if there is one")
    threads: Annotated[int | None, Said(default="all")] = Field(None, ge=1, description="CPU threads of every engine")
    gpus_per_cell: int = Field(
        1, ge=1, le=MAX_GPUS, description="GPUs that the model of each cell is split over, by engines that can"
    )


class MeasureOptions(Timeouts, ServeFields, ProtocolFields, WorkFields):
    """How the cells of a run are measured, beyond what stands in the protocol of each."""

    exhaustive: bool = Field(False, description="measure the whole workload, whatever the precision")
    direct_batch_sizes: Annotated[tuple[BatchSize, ...], Said(default="at all"), MayDiffer()] = Field(
        (), description="batch sizes at which the direct batches are run"
    )
    busy_cpus: Annotated[
        float | None, Said(default="a tenth of all, 0.4 at most", variable="BENCH_BUSY_CPUS", metavar="CPUS")
    ] = Field(None, gt=0, description="mark a cell where others take the time of so many CPUs")

    @property
    def protocol(self) -> MeasureProtocol:
        """How every cell is measured, but for what is done beside in some of them."""
        return MeasureProtocol(
            **{
                **{name: getattr(self, name) for name in ProtocolFields.model_fields},
                "precision": None if self.exhaustive else self.precision,
                "busy": BusyRule(cpus=self.busy_cpus),
            }
        )

    def protocol_of(self, scenario: Scenario, device: str, *, first: bool) -> MeasureProtocol:
        """The protocol of one cell.

        Args:
            first: of its engine's life. One score serves all batch sizes, and the first cell is the one that most
                surely comes to its end.
        """
        left_out: dict[str, object] = {} if first else {"score_texts": 0}
        if not isinstance(scenario, Offline):
            left_out |= {"direct_batches": 0, "score_texts": 0}
        elif self.direct_batch_sizes and scenario.batch_size not in self.direct_batch_sizes:
            left_out["direct_batches"] = 0
        if device == "cuda":
            left_out["busy"] = BusyRule(cpus=self.busy_cpus, idle_cpus=GPU_IDLE_CPUS)
        return self.protocol.model_copy(update=left_out)

    @property
    def serve_protocol(self) -> ServeProtocol:
        """How every serving cell is measured."""
        return ServeProtocol(**{name: getattr(self, name) for name in ServeFields.model_fields})

    @property
    def timeouts(self) -> Timeouts:
        """Of every cell."""
        return part_of(self, Timeouts)


def part_of(whole: Record, part: type[R]) -> R:
    """The fields of a record that another one, which it is made of, declares."""
    return part.model_validate({name: getattr(whole, name) for name in part.model_fields})
