"""The workload: ordered prompts as token ids with a digest; made once, read by every image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from bench_core.contract.errors import BadInput
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.prompt_source import PromptSource
from bench_core.contract.records.record import Record
from bench_core.contract.statistics.workload_rate import WholeWork, whole_work

SEEDS = 2**63
DEFAULT_SAMPLE_SEED = 0


def shuffled_order(count: int, seed: int) -> list[int]:
    """The places of ``count`` prompts in a random order that follows from the seed: sorted by the SHA-256 of
    ``seed/place``. The same on every machine and in every version of Python, which promises that of no shuffle."""
    return sorted(range(count), key=lambda place: hashlib.sha256(f"{seed}/{place}".encode()).digest())


def order_words(sample_seed: int | None) -> str:
    """How a workload's prompts were put in order, in words."""
    return "the dataset's own order" if sample_seed is None else f"shuffled with seed {sample_seed}"


_SOURCE_WORDS = "which part of the dataset the prompts are; null: not recorded, a workload of before it was"


class Workload(Record):
    """A workload file. The digest is over the token ids in order and is checked whenever the file is read.

    Attributes:
        truncated: prompts cut from the left to ``max_prompt_tokens``.
        dropped_empty: texts without a token, left out.
        duplicates: prompts equal to an earlier one (they stay; a cell that needs unique prompts can see them).
        sample_seed: of the shuffle that gave the prompts their order; ``None``: the dataset's own order, as in all
            files of before prompts were shuffled.
    """

    schema_version: Literal[1] = 1
    name: str = Field(description="as the user gave it: a dataset id and split, a file's name, embedded")
    tokenizer: str = Field(description="sha256 of the tokenizer's files, or byte-level")
    max_prompt_tokens: int = Field(gt=0, description="the limit to which prompts were truncated")
    truncated: int = Field(ge=0)
    dropped_empty: int = Field(ge=0)
    duplicates: int = Field(ge=0)
    digest: str
    sample_seed: int | None = Field(None, ge=0, lt=SEEDS)
    prompt_source: PromptSource | None = Field(None, description=_SOURCE_WORDS)
    shared_prefix_tokens: int = Field(0, ge=0, description="tokens that all prompts begin with alike, by intent")
    prompts: tuple[tuple[int, ...], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _whole(self) -> Workload:
        if any(not prompt for prompt in self.prompts):
            raise ValueError("a prompt has no token")
        if any(min(prompt) < 0 for prompt in self.prompts):
            raise ValueError("a token id is negative")
        if any(max(prompt) >= 2**31 for prompt in self.prompts):
            raise ValueError("a token id has more than 31 bits")
        if any(len(prompt) > self.max_prompt_tokens for prompt in self.prompts):
            raise ValueError("a prompt is longer than max_prompt_tokens")
        if prompts_sha256(self.prompts) != self.digest:
            raise ValueError("the prompts do not match the digest")
        return self

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(prompt) for prompt in self.prompts)

    @property
    def reference(self) -> WorkloadRef:
        """What a cell keeps of it."""
        return WorkloadRef(
            name=self.name,
            digest=self.digest,
            prompts=len(self.prompts),
            longest_prompt_tokens=self.longest,
            sample_seed=self.sample_seed,
            prompt_source=self.prompt_source,
            shared_prefix_tokens=self.shared_prefix_tokens,
        )

    def packed(self) -> bytes:
        """The content of a run's ``workload.json.gz``: the same bytes whenever and wherever it is made with the same
        compressor."""
        import gzip  # noqa: PLC0415  # no cell needs it

        return gzip.compress((self.model_dump_json() + "\n").encode(), mtime=0)

    def batches(self, batch_size: int) -> list[range]:
        """Indices of the prompts of each batch, in order.

        A last batch that would not be full is left out, so that every batch has the measured shape.
        """
        whole = len(self.prompts) // batch_size
        return [range(k * batch_size, (k + 1) * batch_size) for k in range(whole)]

    def whole_work(self, batch_size: int) -> WholeWork:
        """Of the full batches of this size; there must be one. Computed once: every cell of a size asks for it."""
        key = (self.digest, batch_size)
        if key not in self._known_work:
            lengths = [[len(self.prompts[row]) for row in rows] for rows in self.batches(batch_size)]
            self._known_work[key] = whole_work(lengths)
        return self._known_work[key]

    @cached_property
    def _known_work(self) -> dict[tuple[str, int], WholeWork]:
        """By digest, since a copy takes it along; two workloads are equal whatever of it is known."""
        return {}


def require_vocabulary(workload: Workload, model: ModelInfo) -> None:
    """Checks that a model knows every token id of these prompts.

    Raises:
        BadInput: it does not.
    """
    largest = max(max(prompt) for prompt in workload.prompts)
    if largest >= model.vocab_size:
        raise BadInput(
            f"workload {workload.name}: token id {largest}, but {model.name} has a vocabulary of {model.vocab_size}",
            "the tokenizer gives ids beyond the model's embeddings: name one that fits by --tokenizer FOLDER, or leave "
            "prompts with such tokens out",
        )


def require_fit(workload: Workload, model: ModelInfo, batch_sizes: Sequence[int], max_new_tokens: int) -> None:
    """Checks that a model can take these prompts (ids within its vocabulary, lengths within its context) and that each
    batch size gets at least one full batch.

    Raises:
        BadInput: naming what does not fit.
    """
    require_vocabulary(workload, model)
    needed = workload.longest + max_new_tokens
    if needed > model.context_length:
        raise BadInput(
            f"{workload.longest} prompt tokens and {max_new_tokens} new ones exceed the context of {model.name}, "
            f"{model.context_length} tokens",
            f"lower --max-prompt-tokens to {max(model.context_length - max_new_tokens, 1)}, or --max-new-tokens",
        )
    widest = max(batch_sizes, default=0)
    if widest > len(workload.prompts):
        raise BadInput(
            f"batch size {widest} needs at least {widest} prompts, the workload has {len(workload.prompts)}",
            "raise --samples, or leave that batch size out",
        )


class WorkloadRef(Record):
    """What a cell keeps of its workload; see :class:`Workload`."""

    name: str
    digest: str
    prompts: int = Field(gt=0)
    longest_prompt_tokens: int = Field(gt=0)
    sample_seed: int | None = Field(None, ge=0, lt=SEEDS, description="of the prompts' order; none: the dataset's own")

    @property
    def order(self) -> str:
        """Of the prompts, in words."""
        return order_words(self.sample_seed)

    prompt_source: PromptSource | None = Field(None, description=_SOURCE_WORDS)
    shared_prefix_tokens: int = Field(0, ge=0, description="tokens that all prompts begin with alike, by intent")

    def agrees(self, other: WorkloadRef) -> bool:
        """Whether both are one workload. A source that one of them does not know is no difference, nor is a column that
        was named at one visit and found at another."""
        mine, others = self.prompt_source, other.prompt_source
        if self.model_copy(update={"prompt_source": None}) != other.model_copy(update={"prompt_source": None}):
            return False
        return mine is None or others is None or mine.agrees(others)


class Prepared(Record):
    """``data/prepared.json``: what was prepared last, for containers started without the driver."""

    schema_version: Literal[1] = 1
    workload: str = Field(description="path of the workload file, relative to the data folder")
    model_folder: str = Field(description="name of the model's folder under the models folder")
