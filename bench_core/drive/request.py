"""What a person asks for: a suite file, the command line over it, defaults under both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from bench_core.contract import layout, strict_yaml
from bench_core.contract.errors import BadInput
from bench_core.contract.manifest import Name
from bench_core.contract.quality import QualityBounds
from bench_core.contract.record import Record, Scalar
from bench_core.contract.spec import MAX_REPEAT, Length, MeasureProtocol
from bench_core.contract.stopping import DEFAULT_MAX_WARMUP_BATCHES, DEFAULT_MAX_WARMUP_S, DEFAULT_PRECISION
from bench_core.contract.workload import DEFAULT_SAMPLE_SEED, SEEDS
from bench_core.drive.suite_paths import SuitePaths

BatchSize = Annotated[int, Field(ge=1, le=65536)]


class Suite(Record):
    """A suite file. Every key may also be given on the command line, which then counts.

    Paths in the file (``model``, ``tokenizer``, ``dataset``, ``beside``, sources of ``artifacts``) count from the
    file's own folder, on the command line from the working folder.

    ``variants`` and ``images`` are lists; ``all`` stands for all of them. A variant is written ``image.variant``, or
    by its bare name for every image that has it; an image of which no variant is named runs its default.
    """

    name: str = Field("", description="a title for people")
    images: tuple[str, ...] = ("all",)
    variants: tuple[str, ...] = ()
    batch_sizes: tuple[BatchSize, ...] = Field((1, 4, 16), min_length=1)
    model: str = "synthetic/tiny"
    revision: str | None = None
    tokenizer: Path | None = None
    seed: int = 0
    dataset: str = "embedded"
    split: str = "validation"
    text_column: str | None = None
    samples: int | None = Field(None, ge=1)
    sample_order: Literal["shuffled", "dataset"] = Field(
        "shuffled", description="of the prompts taken, which are the first of the dataset"
    )
    sample_seed: int = Field(DEFAULT_SAMPLE_SEED, ge=0, lt=SEEDS, description="of that shuffle")
    max_prompt_tokens: int | None = Field(None, ge=1)
    max_new_tokens: int = Field(64, ge=1)
    length: Length = "forced"
    warmup_batches: int = Field(1, ge=1, le=1000)
    latency_batches: int = Field(3, ge=1, le=1000)
    max_batches: int | None = Field(None, ge=1)
    direct_batches: int = Field(0, ge=0, le=1000, description="measured batches given to the engine directly as well")
    direct_rounds: int = Field(1, ge=1, le=1000, description="how often each of these is given to both")
    direct_batch_sizes: tuple[BatchSize, ...] = Field((), description="where to do so; at all where empty")
    score_texts: int = Field(8, ge=0, le=1000, description="texts whose log-likelihood each variant is asked for")
    max_nll_increase: float = Field(
        QualityBounds().max_nll_increase, gt=0, le=100, description="nat/token above the reference's; not ranked beyond"
    )
    min_agreement: float = Field(
        QualityBounds().min_agreement,
        ge=0,
        le=1,
        description="share of rows that begin with the reference's first token; not ranked below (real weights)",
    )
    threads: int | None = Field(None, ge=1)
    device: Literal["auto", "cuda", "cpu"] = "auto"
    gpus: tuple[str, ...] = Field((), description="indices or UUIDs; the first GPU where empty")
    launcher: Literal["auto", "docker", "process"] = "auto"
    options: dict[str, dict[str, Scalar]] = Field({}, description="image name to options of its variants")
    beside: Path | None = Field(None, description="published figures for the report, as docs/study.yaml")
    control: str | None = Field(
        None, description="image.variant.b<batch size>: measured first at every visit of a run, to compare machines"
    )
    artifacts: dict[Name, Annotated[str, Field(min_length=1)]] = Field(
        {}, description="artifact name to where it is taken from instead of converting: a hub id, id@revision, a folder"
    )

    harness_check: bool = Field(
        True, description="measure the scripted engine with every visit, for the error of the suite itself"
    )
    precision: float = Field(
        DEFAULT_PRECISION, gt=0, lt=1, description="measure until throughput's 95 % interval is within this share of it"
    )
    exhaustive: bool = Field(False, description="measure the whole workload, whatever the precision")
    max_seconds: float | None = Field(None, gt=0, description="of measuring, for each cell")
    max_warmup_batches: int = Field(
        DEFAULT_MAX_WARMUP_BATCHES, ge=1, le=1000, description="until latencies show no trend, at most; 1: no test"
    )
    max_warmup_seconds: float = Field(DEFAULT_MAX_WARMUP_S, gt=0, description="of warm-up beyond warmup_batches")
    repeats: int = Field(1, ge=1, le=MAX_REPEAT, description="times that the whole grid is measured, in random order")
    order_seed: int = Field(0, ge=0, description="of that order")
    find_max_batch: tuple[str, ...] = Field(
        (), description="image.variant: find the largest batch size of each that fits into memory"
    )
    max_batch_limit: BatchSize | None = Field(
        None, description="of that search: no larger one is tried; as many as there are prompts where empty"
    )
    on_busy: Literal["wait", "refuse", "ignore"] = Field(
        "wait", description="what to do where others use the GPU or, in a run on the CPU, the CPUs; ignored: marked"
    )
    busy_wait_s: float = Field(600.0, ge=0, description="how long to wait for a busy device before refusing, seconds")
    busy_cpus: float | None = Field(
        None,
        gt=0,
        description="CPUs whose time others may take before a cell is marked; a tenth, 0.4 at most, if empty",
    )

    load_timeout_s: float = Field(3600.0, gt=0, description="for an engine's start and the loading of its model")
    prepare_timeout_s: float = Field(3600.0, gt=0, description="for the caches and graphs of one batch size")
    batch_timeout_s: float = Field(3600.0, gt=0, description="for one batch")
    cell_timeout_s: float = Field(86400.0, gt=0, description="for one cell")

    @property
    def protocol(self) -> MeasureProtocol:
        """How every cell is measured."""
        return MeasureProtocol(
            warmup_batches=self.warmup_batches,
            latency_batches=self.latency_batches,
            max_batches=self.max_batches,
            precision=None if self.exhaustive else self.precision,
            max_seconds=self.max_seconds,
            max_warmup_batches=self.max_warmup_batches,
            max_warmup_seconds=self.max_warmup_seconds,
        )

    @property
    def shuffle_seed(self) -> int | None:
        """The seed that the prompts are shuffled with; ``None`` for the dataset's own order."""
        return self.sample_seed if self.sample_order == "shuffled" else None

    @property
    def quality(self) -> QualityBounds:
        """What a method must keep of the reference's quality to be ranked."""
        return QualityBounds(max_nll_increase=self.max_nll_increase, min_agreement=self.min_agreement)

    @field_validator("images", "variants", "find_max_batch", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        """A single word is a list of one; the image named null may be written without quotes, which YAML reads as
        nothing."""
        words = value if isinstance(value, list | tuple) else [value]
        return tuple("null" if word is None else word for word in words)

    @field_validator("batch_sizes")
    @classmethod
    def _each_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(value)))

    @classmethod
    def load(cls, path: Path) -> Suite:
        """Reads a suite file.

        Raises:
            BadInput: unreadable, not YAML, or a wrong key or value; the message names line and key.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # no UTF-8, or a name that no path can have
            raise BadInput(f"suite file {path} cannot be read: {error}") from error
        suite, paths = strict_yaml.parse_as(cls, text, str(path)), SuitePaths(path)
        artifacts = {name: paths.perhaps(source, f"artifacts.{name}") for name, source in suite.artifacts.items()}
        return suite.model_copy(
            update={
                "model": paths.perhaps(suite.model, "model"),
                "dataset": paths.perhaps(suite.dataset, "dataset"),
                "tokenizer": paths.always(suite.tokenizer, "tokenizer") if suite.tokenizer else None,
                "beside": paths.always(suite.beside, "beside") if suite.beside else None,
                "artifacts": artifacts,
            }
        )


class Request(Record):
    """A suite, and the folders of a call.

    Attributes:
        whole_run: measure all cells that a resumed run has planned, not those that the suite names.
    """

    suite: Suite
    results: Path = Path("results")
    data: Path = Path("data")
    models: Path = Path("models")
    run_id: str | None = None
    whole_run: bool = False

    @field_validator("run_id")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        if value is not None and not layout.is_name(value):
            raise ValueError(f"{value!r} is not a name: lower case letters, digits, '.', '_' and '-'")
        return value
