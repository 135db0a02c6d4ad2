"""What an image's adapter implements, and what the worker hands to it.

An adapter turns token ids into token ids with one engine. It never times, prints statistics, downloads, reads the
environment or catches broadly: the worker owns the clock, the checks and the classification of failures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from bench_core.contract.asked.options import Value
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records.outcome import Outcome


@dataclass(frozen=True)
class Device:
    """Where an engine runs.

    Attributes:
        kind: ``cuda`` (the container sees exactly the cell's GPUs, from index 0 on) or ``cpu``.
        uuid: the first GPU's UUID as NVML writes it; ``None`` on a CPU.
        threads: CPU threads that the engine may use, the same number for every engine of a run.
        others: UUIDs of the GPUs beside it, where the model is to be split over several; see ``split`` in image.yaml.
    """

    kind: Literal["cuda", "cpu"]
    uuid: str | None = None
    threads: int = 1
    others: tuple[str, ...] = ()

    @property
    def gpus(self) -> int:
        """That the model is to be split over; 1 on a CPU."""
        return 1 + len(self.others)


@dataclass(frozen=True)
class Variant:
    """A configuration inside an image: its name, the artifact that it reads and the engine's options.

    Attributes:
        options: every option that ``image.yaml`` declares for the device, in its declared type.
    """

    name: str
    artifact: str
    options: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Decoding:
    """Greedy decoding.

    Attributes:
        max_new_tokens: tokens to generate for each prompt, at most (``natural``) or exactly (``forced``).
        eos_token_ids: ids that end a row; the one met is the row's last output token. Empty means ``forced``: the
            end-of-sequence token is *ignored*, not banned, so the greedy sequence is unchanged.
        pad_token_id: id for an engine that needs a rectangle; padding is masked and never counted.
    """

    max_new_tokens: int
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int = 0

    @property
    def forced(self) -> bool:
        """Whether every row must have exactly ``max_new_tokens`` tokens."""
        return not self.eos_token_ids


@dataclass(frozen=True)
class Completion:
    """The generated ids of one prompt, without the prompt, with the end-of-sequence id where that ended the row."""

    token_ids: Sequence[int]


class TokenSink(Protocol):
    """Told of tokens as they reach the host; stamps them with the worker's clock.

    ``wanted`` is false where the worker measures throughput of an engine whose callback costs: the adapter then
    leaves its callback out. Calls are cheap (under a microsecond) and never write.
    """

    @property
    def wanted(self) -> bool: ...
    def __call__(self, row: int, count: int = 1) -> None:
        """``count`` tokens of ``row`` (its index in the batch) have arrived now."""

    def step(self, rows: Sequence[int]) -> None:
        """One token of each of ``rows`` has arrived now, with one stamp for all."""

    def engine(self, row: int, monotonic_s: Sequence[float]) -> None:
        """The engine's own stamps of all tokens of ``row`` (CLOCK_MONOTONIC, seconds), marked as such."""


def tell_step(on_tokens: TokenSink, rows: Sequence[int], counts: Sequence[int]) -> None:
    """Tells of a step of an engine that may give a row several tokens, or none: all rows that got one at once, others
    row by row.

    Args:
        rows: that the step was of.
        counts: tokens that each of them got, in their order.
    """
    if counts.count(1) == len(counts):  # as nearly every step is: no loop over its rows
        if rows:
            on_tokens.step(rows)
        return
    single: list[int] = []
    for row, count in zip(rows, counts, strict=True):
        if count == 1:
            single.append(row)
        elif count:
            on_tokens(row, count)
    if single:
        on_tokens.step(single)


@runtime_checkable
class Adapter(Protocol):
    """One engine. Optional methods that the worker uses where they exist:

    - ``describe() -> Mapping[str, str]``: after ``prepare``; facts such as the attention kernel really used. The
      roofline reads ``dtype`` (that it multiplies in), ``kv_dtype`` (of the key-value cache, where it is another), and
      ``weights_bytes`` with ``embedding_bytes`` and ``expert_bytes`` (as they lie in memory, where that is not as
      stored); ``cuda_graphs`` or ``compiled: yes`` keep it from taking a step for launched kernel by kernel. Memory is
      explained by ``kv_positions`` or ``kv_layout`` (see ``memory_model.cache_tokens``) and ``embeddings`` (``cuda`` or
      ``cpu``: where the table of input embeddings lies).
    - ``memory() -> Mapping[str, int]``: ``reserved_bytes`` and ``used_bytes`` of an engine with a pool of its own.
    - ``score(token_ids) -> Sequence[float]``: log-probability (nats) of every token but the first, for quality.
    - ``take_model(model)``: before ``load``, the prepared model's facts, of an engine that does not tell its own: bytes
      of its key-value cache follow from ``models.model_work``.
    - ``classify(error) -> Outcome | None``: what an exception of this engine means; ``None`` for "as it looks".
    """

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:
        """Reads the model; afterwards it is on the device and ready."""

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """Makes caches and graphs for this shape; called again for each batch size, and the last shape is then void."""

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """Generates for one batch and returns, in prompt order, when the device has finished."""

    def close(self) -> None:
        """Frees the model and all memory of it."""


@runtime_checkable
class TakesModel(Protocol):
    """An adapter that needs facts of the model which its engine does not tell; it is given them before ``load``."""

    def take_model(self, model: ModelInfo) -> None: ...


@runtime_checkable
class Describes(Protocol):
    """An adapter that tells facts about how it runs."""

    def describe(self) -> Mapping[str, str]: ...


@runtime_checkable
class ReportsMemory(Protocol):
    """An adapter whose engine keeps a memory pool: what it reserved and what is used of it, in bytes."""

    def memory(self) -> Mapping[str, int]: ...


@runtime_checkable
class Scores(Protocol):
    """An adapter that can compute log-probabilities of given tokens."""

    def score(self, token_ids: Sequence[int]) -> Sequence[float]: ...


@runtime_checkable
class Classifies(Protocol):
    """An adapter that knows its engine's error texts."""

    def classify(self, error: BaseException) -> Outcome | None: ...


class Direct(Protocol):
    """A function named in ``image.yaml`` under ``direct``, for parity: the engine that ``adapter`` has loaded, called
    as its own documentation or benchmark tool calls it, without sink, adapter code or anything else of the suite.

    Returns the new token ids of each prompt, in order, when the device has finished.
    """

    def __call__(
        self, adapter: Any, prompts: Sequence[Sequence[int]], decoding: Decoding, /
    ) -> Sequence[Sequence[int]]: ...


@dataclass(frozen=True)
class Conversion:
    """What a converter of an image is asked for.

    Attributes:
        artifact: name of the artifact to make, such as ``ct2-float32``.
        source: folder of the ``hf`` artifact, read-only.
        target: an empty folder to write into; the worker moves it into place when the converter returns.
        device: where heavy work may run.
        calibration: token ids of texts in the manner of the workload, for a quantiser that looks at activations:
            the workload's prompts in order, or nothing where no workload is named.
    """

    artifact: str
    source: Path
    target: Path
    device: Device
    calibration: Sequence[Sequence[int]] = ()


class Converter(Protocol):
    """A function named in ``image.yaml`` under ``converts``; raises on failure, returns facts to record."""

    def __call__(self, conversion: Conversion) -> Mapping[str, str]: ...
