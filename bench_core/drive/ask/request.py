"""What a person asks for: a suite file, the command line over it, defaults under both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from bench_core.contract.asked.declaration import MayDiffer, Said
from bench_core.contract.asked.loads import Loads
from bench_core.contract.asked.manifest import Name
from bench_core.contract.asked.protocol import MeasureOptions
from bench_core.contract.asked.scenario import MAX_REPEAT, BatchSize, Offline, Scenario
from bench_core.contract.errors import BadInput
from bench_core.contract.measures.quality import QualityBounds
from bench_core.contract.records import layout, strict_yaml
from bench_core.contract.records.record import Record, Scalar
from bench_core.contract.records.run import LauncherName
from bench_core.contract.records.workload import DEFAULT_SAMPLE_SEED, SEEDS
from bench_core.contract.serving.capacity import DEFAULT_ATTAINMENT
from bench_core.contract.serving.load import MOST_AT_ONCE
from bench_core.contract.serving.schedule import more_than_fit
from bench_core.drive.ask.suite_paths import SuitePaths
from bench_core.drive.ask.version import normal_version

SERVED_BY = ("concurrency", "request_rate", "trace")  # options that ask for cells over HTTP


class Subjects(Record):
    """What is measured: engines, model, prompts."""

    name: Annotated[str, Said(hidden=True)] = Field("", description="a title for people")
    images: tuple[str, ...] = Field(("all",), description="images, or all")
    variants: Annotated[tuple[str, ...], Said(default="each image's own")] = Field(
        (), description="image.variant, or a variant of every image that has it, or all"
    )
    batch_sizes: Annotated[tuple[BatchSize, ...], Said(default="1,4,16; none beside a load over HTTP")] = Field(
        (1, 4, 16), description="prompts in one generate call"
    )
    shared_prefix_tokens: Annotated[int, Said(default="none")] = Field(
        0,
        ge=0,
        le=1 << 20,
        description="tokens that all prompts begin with alike, served with the prefix cache on",
    )
    model: str = Field("synthetic/tiny", description="synthetic/<shape>, a hub id or a folder")
    tokenizer: Path | None = Field(None, description="folder of a tokenizer that replaces the model's")
    revision: str | None = Field(None, description="branch, tag or commit of a model from the hub")
    seed: int = Field(0, ge=0, description="seed of synthetic weights")
    dataset: str = Field("embedded", description="embedded, a hub id, a file or a folder")
    split: str = Field("validation", description="split of the dataset")
    text_column: Annotated[str | None, Said(default="docs/models-and-data.md")] = Field(
        None, description="column of the prompts"
    )
    samples: Annotated[int | None, Said(default="all")] = Field(
        None, ge=1, description="prompts to take, which are the first of the dataset"
    )
    sample_order: Literal["shuffled", "dataset"] = Field(
        "shuffled", description="order of the prompts taken; dataset: the dataset's own"
    )
    sample_seed: int = Field(DEFAULT_SAMPLE_SEED, ge=0, lt=SEEDS, description="seed of that shuffle")
    max_prompt_tokens: Annotated[int | None, Said(default="1024, or what fits")] = Field(
        None, ge=1, description="tokens of a prompt; longer ones lose their beginning"
    )


class Suite(MeasureOptions, Loads, Subjects):
    """A suite file. Every key may also be given on the command line, which then counts.

    Paths in the file (``model``, ``tokenizer``, ``dataset``, ``beside``, sources of ``artifacts``) count from the
    file's own folder, on the command line from the working folder.

    ``variants`` and ``images`` are lists; ``all`` stands for all of them. A variant is written ``image.variant``, or
    by its bare name for every image that has it; an image of which no variant is named runs its default.
    """

    repeats: int = Field(1, ge=1, le=MAX_REPEAT, description="times that the whole grid is measured, in random order")
    order_seed: int = Field(0, ge=0, description="seed of that order")
    options: Annotated[
        dict[str, dict[str, Scalar]],
        Said(flag="option", metavar="IMAGE.KEY=VALUE", default="the variant's; --list-options lists them"),
    ] = Field({}, description="engines' options, by image; may be repeated")
    engine_version: Annotated[
        dict[str, tuple[str, ...]],
        Said(flag="engine-version", metavar="IMAGE=VERSION[,VERSION...]", default="the one that the image pins"),
    ] = Field(
        {},
        description="versions of an engine, each measured in an image made for it, the baseline first; may be repeated",
    )
    artifacts: Annotated[
        dict[Name, Annotated[str, Field(min_length=1)]],
        MayDiffer(),
        Said(flag="artifact", metavar="NAME=SOURCE", default="converted from the model"),
    ] = Field({}, description="where an artifact is taken from: a hub id, id@revision or a folder; may be repeated")
    gpus: Annotated[tuple[str, ...], Said(default="the first")] = Field(
        (), description="indices or UUIDs, or all; of several each measures cells of its own, side by side"
    )
    cpu_slices: Annotated[int | None, Said(default="one, of all cores")] = Field(
        None, ge=1, le=4096, description="on the CPU: devices of equal shares of its cores, side by side"
    )
    compare_on_one_gpu: Annotated[bool, MayDiffer()] = Field(
        False, description="measure what one table compares on one GPU or slice: the methods at a batch size or load"
    )
    beside_sample: Annotated[int, MayDiffer()] = Field(
        2, ge=0, le=1000, description="cells that are measured again alone, to tell what neighbours cost; 0: none"
    )
    launcher: Literal["auto", LauncherName] = Field("auto", description="engines run in containers or processes")
    control: Annotated[
        str | None, MayDiffer(), Said(metavar="IMAGE.VARIANT.bN", default="none; of several devices the cheapest cell")
    ] = Field(
        None,
        description="a cell measured first at every visit, on every device, to compare them; none: no such cell",
    )
    harness_check: bool = Field(
        True, description="measure the scripted engine with every visit, for the error of the suite itself"
    )
    beside: Path | None = Field(None, description="published figures to show beside the run's own, as docs/study.yaml")
    max_nll_increase: float = Field(
        QualityBounds().max_nll_increase, gt=0, le=100, description="nat/token above the reference's; not ranked beyond"
    )
    min_agreement: float = Field(
        QualityBounds().min_agreement,
        ge=0,
        le=1,
        description="share of rows that begin with the reference's first token; not ranked below (real weights)",
    )
    find_max_batch: Annotated[tuple[str, ...], Said(metavar="IMAGE.VARIANT")] = Field(
        (), description="find the largest batch size of each that fits into memory"
    )
    max_batch_limit: Annotated[BatchSize | None, Said(default="the number of prompts")] = Field(
        None, description="largest batch size that this search tries"
    )
    find_capacity: Annotated[tuple[str, ...], Said(metavar="IMAGE.VARIANT")] = Field(
        (), description="find the highest load of each server that keeps the limits of --slo"
    )
    attainment: float = Field(
        DEFAULT_ATTAINMENT, gt=0, le=1, description="share of requests that this search wants within the limits"
    )
    capacity_of: Literal["request_rate", "concurrency"] = Field("request_rate", description="what this search varies")
    capacity_start: float = Field(1.0, gt=0, le=1e6, description="load that it begins with")
    capacity_limit: float = Field(1024.0, gt=0, le=1e6, description="highest load that it tries")
    on_busy: Annotated[Literal["wait", "refuse", "ignore"], Said(variable="BENCH_ON_BUSY")] = Field(
        "wait", description="where others use the GPU or, in a run on the CPU, the CPUs; ignored: marked"
    )
    busy_wait_s: float = Field(600.0, ge=0, description="how long to wait for a busy device before refusing, seconds")

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """Of every method, closed batches."""
        return tuple(Offline(batch_size=size) for size in self.batch_sizes)

    @property
    def shuffle_seed(self) -> int | None:
        """The seed that the prompts are shuffled with; ``None`` for the dataset's own order."""
        return self.sample_seed if self.sample_order == "shuffled" else None

    @property
    def quality(self) -> QualityBounds:
        """What a method must keep of the reference's quality to be ranked."""
        return QualityBounds(max_nll_increase=self.max_nll_increase, min_agreement=self.min_agreement)

    @field_validator("images", "variants", "find_max_batch", "find_capacity", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        """A single word is a list of one; the image named null may be written without quotes, which YAML reads as
        nothing."""
        words = value if isinstance(value, list | tuple) else [value]
        return tuple("null" if word is None else word for word in words)

    @field_validator("engine_version", mode="before")
    @classmethod
    def _versions(cls, value: object) -> object:
        """A single version is a list of one; versions are compared in their normal form (PEP 440)."""
        if not isinstance(value, dict):
            return value
        return {
            image: tuple(dict.fromkeys(map(normal_version, asked if isinstance(asked, list | tuple) else [asked])))
            for image, asked in value.items()
        }

    @field_validator("batch_sizes")
    @classmethod
    def _each_once(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(value)))

    @model_validator(mode="before")
    @classmethod
    def _served_alone(cls, given: Any) -> Any:
        """A load over HTTP and no batch sizes: no closed batches."""
        if isinstance(given, dict) and "batch_sizes" not in given and any(given.get(key) for key in SERVED_BY):
            return {**given, "batch_sizes": ()}
        return given

    @model_validator(mode="after")
    def _something(self) -> Suite:
        if self.find_capacity and self.limits is None:
            raise ValueError("find_capacity: latency limits are needed: give --slo, as ttft_s=0.5,tpot_s=0.05")
        for rate in self.request_rate:  # known before anything is built
            if too_many := more_than_fit(rate, self.horizon_s):
                raise ValueError(f"request_rate: {too_many}")
        if self.find_capacity and self.capacity_of == "concurrency":
            for name in ("capacity_start", "capacity_limit"):
                value = getattr(self, name)
                if not (value.is_integer() and value <= MOST_AT_ONCE):
                    raise ValueError(f"{name}: {value:g} requests at once: a whole number from 1 to {MOST_AT_ONCE}")
        if not self.scenarios and not self.loads and not self.find_capacity:
            raise ValueError("batch_sizes: nothing to measure: give some, or a concurrency, a request rate or a trace")
        return self

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
                "trace": paths.always(suite.trace, "trace") if suite.trace else None,
                "artifacts": artifacts,
            }
        )


class Request(Record):
    """A suite, and the folders of a call.

    Attributes:
        whole_run: measure all cells that a resumed run has planned, not those that the suite names.
    """

    suite: Annotated[Suite, Said(hidden=True)]
    results: Path = Field(Path("results"), description="folder of results")
    data: Path = Field(Path("data"), description="folder of workloads")
    models: Path = Field(Path("models"), description="folder of models and artifacts")
    run_id: Annotated[str | None, Said(default="the time", metavar="NAME")] = Field(
        None, description="name of the run's folder"
    )
    whole_run: Annotated[bool, Said(hidden=True)] = False

    @field_validator("run_id")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        if value is not None and not layout.is_name(value):
            raise ValueError(f"{value!r} is not a name: lower case letters, digits, '.', '_' and '-'")
        return value


class Modes(Record):
    """What to do with the plan.

    Attributes:
        options_of: images that ``--option`` names.
        versions_of: images of which versions are asked for by this call.
        given: keys of the suite that the command line gives, and ``suite`` for a file.
    """

    device_rates: Annotated[bool | None, Said(default="where it costs seconds")] = Field(
        None, description="measure each device's bandwidth and matrix rate at the visit"
    )
    min_memory: Annotated[str | None, Said(metavar="IMAGE.VARIANT.bN")] = Field(
        None, description="find the smallest memory budget that sustains this cell, and measure it"
    )
    again: Annotated[tuple[str, ...], Said(metavar="WHICH", default="none")] = Field(
        (),
        description="of --resume, measure complete cells again: by mark (busy), outcome (timeout) or name (vllm.*.b64)",
    )
    dry_run: bool = Field(False, description="show the plan and stop; nothing is written")
    yes: bool = Field(False, description="do not ask before a build or a download")
    watch: Annotated[int | None, Said(metavar="PORT", default="no")] = Field(
        None, ge=0, le=65535, description="serve the run's page on 127.0.0.1 while it goes on; 0: any free port"
    )
    as_json: Annotated[bool, Said(flag="json")] = Field(
        False, description="news and result as JSON lines on standard output"
    )
    build_only: bool = Field(False, description="build images and converters, then stop")
    self_check: bool = Field(False, description="run each image's contract suite instead")
    cluster: Annotated[str | None, Said(metavar="ADDRESS", default="this host alone")] = Field(
        None,
        description="measure on the nodes of a Ray cluster: ray://HOST:10001, or local for one of this host alone",
    )
    node_labels: Annotated[tuple[str, ...], Said(metavar="KEY=VALUE", default="any node")] = Field(
        (), description="of a cluster, the nodes that have these labels of Ray's"
    )
    registry: Annotated[str | None, Said(metavar="HOST/PATH", default="Ray's object store")] = Field(
        None, description="of a cluster, where nodes take images from that they lack; they are pushed there first"
    )
    serve_address: Annotated[str | None, Said(metavar="ADDRESS", default="none: nobody outside reaches them")] = Field(
        None,
        description="of --client-nodes, where servers may be reached: an address of their nodes, or a network as "
        "10.0.0.0/24 with one of each",
    )
    options_of: Annotated[frozenset[str], Said(hidden=True)] = frozenset()
    versions_of: Annotated[frozenset[str], Said(hidden=True)] = frozenset()
    given: Annotated[frozenset[str], Said(hidden=True)] = frozenset()
