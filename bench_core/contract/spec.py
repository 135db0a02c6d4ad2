"""``spec.json``: everything that decides what a cell measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from bench_core.contract import layout
from bench_core.contract.cpu_use import BusyRule
from bench_core.contract.errors import BadInput
from bench_core.contract.manifest import DeviceKind, Name
from bench_core.contract.model import ModelInfo
from bench_core.contract.record import Record, Scalar
from bench_core.contract.stopping import StoppingRule, WarmupRule
from bench_core.contract.stored_weights import StoredWeights
from bench_core.contract.workload import WorkloadRef

Length = Literal["forced", "natural"]
MAX_REPEAT = 1000


def require_end_of_text(length: Length, eos_token_ids: Sequence[int], model: str) -> None:
    """Refuses ``natural`` for a model that cannot end a text: each would run to the limit, and be called natural.

    Raises:
        BadInput: the model names no end-of-sequence id.
    """
    if length == "natural" and not eos_token_ids:
        raise BadInput(
            f"--length natural, but {model} names no end-of-sequence id: no text would end before the limit",
            "take --length forced, or write eos_token_id into the model's generation_config.json",
        )


class MeasureProtocol(Record):
    """How a cell is measured.

    Attributes:
        warmup_batches: batches of the measured shape run and discarded first (the study's floor is 1).
        latency_batches: batches with a token callback, run after the others and left out of throughput, for images
            whose ``token_times`` is ``separate``.
        max_batches: measured batches at most; ``None`` for the whole workload.
        direct_batches: the last measured batches, given once more to the engine without the suite in between (the
            image's ``direct`` function), for parity; left out of every other number.
        direct_rounds: how often each of these is given to both.
        score_texts: texts of the workload whose log-likelihood is asked for after all batches; see
            ``contract.quality``. Above 0 in the first cell of an engine's life, since one score serves all batch sizes.
        precision: measuring stops when throughput's 95 % confidence interval is within this share of it; ``None``
            measures all batches, as every cell did whose spec does not have it.
        max_seconds: of measuring, after which no further batch is begun.
        max_warmup_batches, max_warmup_seconds: how far the warm-up may go until latencies show no trend; seconds count
            from the end of ``warmup_batches``, and the five batches of the test are run in any case. ``None`` batches,
            or too few for the test: it is not made.
        busy: from when on others on the same CPUs disturb a cell; ``None``: nobody looked.
    """

    warmup_batches: int = Field(1, ge=1, le=1000)
    latency_batches: int = Field(3, ge=0, le=1000)
    max_batches: int | None = Field(None, ge=1)
    direct_batches: int = Field(0, ge=0, le=1000)
    direct_rounds: int = Field(1, ge=1, le=1000)
    score_texts: int = Field(0, ge=0, le=1000)
    precision: float | None = Field(None, gt=0, lt=1)
    max_seconds: float | None = Field(None, gt=0)
    max_warmup_batches: int | None = Field(None, ge=1, le=1000)
    max_warmup_seconds: float | None = Field(None, gt=0)
    busy: BusyRule | None = None

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


class CellSpec(Record):
    """One cell: image x variant x batch size on one workload and one device."""

    schema_version: Literal[1] = 1
    image: Name
    variant: Name
    label: str = Field(description="the row's name in tables")
    bits: float | None = Field(
        None, gt=0, le=64, description="of a weight, as the variant names them; not told in older records"
    )
    batching: Literal["native", "sequential"]
    token_times: Literal["live", "engine", "separate", "none"]
    ranked: bool = True
    reference: int | None = Field(None, ge=0, description="0: the reference; from 1: order of those that stand in")
    batch_size: int = Field(ge=1, le=65536)
    repeat: int = Field(1, ge=1, le=MAX_REPEAT, description="which measurement of this cell it is")
    device: DeviceKind
    gpu_uuid: str | None = None
    threads: int = Field(ge=1)
    model: ModelInfo
    artifact: str
    artifact_digest: str | None = Field(description="of the files that the engine read, if any")
    weights: StoredWeights | None = Field(None, description="that the artifact holds; not known in older records")
    options: dict[str, Scalar]
    workload: WorkloadRef
    max_new_tokens: int = Field(ge=1)
    length: Length
    protocol: MeasureProtocol

    @property
    def cell_id(self) -> str:
        """The cell's name, which is also its folder's."""
        return layout.cell_id(self.image, self.variant, self.batch_size, self.repeat)
