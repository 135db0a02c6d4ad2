"""``image.yaml``: what a backend says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from bench_core.contract.adapter import Variant
from bench_core.contract.asked.options import EngineOption, OptionName, Options
from bench_core.contract.asked.server import PLACE, ServerEntry
from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.digest import text_sha256
from bench_core.contract.records.record import Misplaced, Record, Scalar

Name = Annotated[str, StringConstraints(pattern=layout.NAME_PATTERN)]
EntryPoint = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*:[A-Za-z_]\w*$")]
EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,79}$")]
DeviceKind = Literal["cuda", "cpu"]

# Read when a process starts, or the launcher's to set: an image that names one of these would not get what it asks for.
_NOT_FOR_IMAGES = ("LD_", "PYTHON", "CUDA_VISIBLE", "NVIDIA_VISIBLE", "PATH", "HOME", "TMPDIR", "LOGNAME")


class VariantEntry(Record):
    """One configuration of an engine."""

    artifact: Name = Field(description="the artifact that it reads: hf, ct2-float16, gguf-q4_k_m ..., or none")
    title: str = Field("", description="what the table prints; the variant's name where empty")
    bits: float | None = Field(
        None,
        gt=0,
        le=64,
        description="bits of a weight that the title names; where the weights take a quarter more, the table says so",
    )
    default: bool = Field(False, description="taken where no variant is named; the first default of a device counts")
    reference: bool = Field(False, description="the variant that others of the same model are compared with")
    stands_in: int | None = Field(
        None,
        ge=1,
        description="place in the order of variants (of all images) that stand in for the reference where it has no "
        "numbers: 1 for 32-bit weights, 2 and 3 for 16-bit ones, 4 for bfloat16",
    )
    devices: tuple[DeviceKind, ...] = Field((), description="where it runs; all devices of the image where empty")
    options: dict[str, Scalar] = Field({}, description="values of the image's options in this variant")
    serve: tuple[str, ...] | None = Field(
        None, description="what the server's command has more in this variant; left out where it is not served"
    )
    closed_batches: bool = Field(
        True, description="whether the adapter runs it in closed batches; false: it is the engine's server's alone"
    )
    speculative: bool = Field(
        False,
        description="whether it guesses tokens and checks several at once, so that its speed depends on the text: its "
        "cells are marked, and not ranked where weights are random",
    )


BudgetUnit = Literal["bytes", "fraction"]


class MemoryBudget(Record):
    """The option by which an engine that reserves memory is told how much it may take; for ``--min-memory``."""

    option: str = Field(description="of the variants")
    unit: BudgetUnit = Field(description="fraction: of the device's memory")
    min: float = Field(ge=0, description="the smallest value that makes sense")
    max: float = Field(gt=0, description="the largest")
    devices: tuple[DeviceKind, ...] = Field((), description="where the engine obeys it; all devices where empty")

    @model_validator(mode="after")
    def _a_range(self) -> MemoryBudget:
        if self.min >= self.max or (self.unit == "fraction" and self.max > 1):
            raise ValueError("min must be below max, and a fraction's max at most 1")
        return self


# Multicast over NVLink and its switches is a resource of the whole host: a process that ends badly with it in hand can
# leave GPUs unusable that others share. NCCL, PyTorch's symmetric memory and NVSHMEM each take it unasked.
MULTICAST_OFF = {
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "NVSHMEM_DISABLE_NVLS": "1",
}


class SplitEntry(Record):
    """How the engine splits one model over several GPUs; an image without one runs on one GPU."""

    how: Literal["tensor", "layers"] = Field(
        description="tensor: every layer is on all GPUs, which work at the same time; layers: each GPU has layers of "
        "its own, and one works after the other"
    )
    words: Annotated[str, StringConstraints(min_length=10)] = Field(description="by what, for people")
    variants: tuple[Name, ...] = Field((), description="that are split; all where empty")
    refused: str = Field("", description="why the other variants are not")
    serve: tuple[str, ...] | None = Field(
        None,
        description="what the server's command has more, {gpus} for their number; left out where it does not split",
    )
    environment: dict[EnvironmentName, str] = Field({}, description="variables that the engine reads where it splits")


class KnownFailure(Record):
    """A check of the contract suite that this image fails, and why that is accepted."""

    check: str
    reason: Annotated[str, StringConstraints(min_length=10)]
    variants: tuple[Name, ...] = Field((), description="the variants concerned; all where empty")
    devices: tuple[DeviceKind, ...] = Field((), description="the devices concerned; all where empty")
    sometimes: bool = Field(False, description="whether the check may also pass: an engine that is not deterministic")


class Manifest(Record):
    """A backend: how it is built, what it can do, what it reads."""

    name: Name = Field(description="the folder's name")
    title: str = Field(description="the engine's name as its authors write it")
    colour: str = Field(
        "",
        pattern=r"^(#[0-9a-f]{6})?$",
        description="of the engine in all figures, as #0072b2; `make compose` checks it",
    )
    adapter: EntryPoint | None = Field(
        None, description="module:Class in the image's folder; left out by an image that is no engine"
    )
    base: Name = Field(
        "base",
        description="what it is built on: base, python311 (Debian 12's Python, for engines that came to a stop there), "
        "or docker/<base>.Dockerfile",
    )
    batching: Literal["native", "sequential"] = Field(description="is a batch one piece of work for the engine")
    token_times: Literal["live", "engine", "separate", "none"] = Field(
        description="live: reported as tokens arrive; engine: the engine's own stamps; separate: the callback costs, "
        "so time to first token is measured in batches of its own; none: the engine does not tell"
    )
    devices: tuple[DeviceKind, ...] = Field(min_length=1)
    environment: dict[EnvironmentName, str] = Field(
        {}, description="variables that the engine reads, set before the adapter is imported, under every launcher"
    )
    packages: tuple[str, ...] = Field(description="distributions whose versions are recorded with every cell")
    engine_packages: tuple[str, ...] = Field(
        (),
        description="distributions whose version is the engine's, where it has another one for another device: "
        "--engine-version sets all of them; the first of packages where empty",
    )
    direct: EntryPoint | None = Field(
        None, description="module:function that calls the loaded engine as its documentation does, for parity"
    )
    converts: dict[Name, EntryPoint] = Field({}, description="artifacts made by this image: module:function")
    convert_target: bool = Field(
        False, description="converters live in the build target `convert` (requirements.convert.txt), not in `measure`"
    )
    measures_device: EntryPoint | None = Field(
        None, description="module:function that offers work for measuring a device; such an image is no engine"
    )
    options: dict[OptionName, EngineOption] = Field(
        {}, description="what the engine may be told by IMAGE.NAME=VALUE and by variants; the adapter reads all of it"
    )
    memory_budget: MemoryBudget | None = Field(
        None, description="how the engine is told what memory it may reserve, for an engine that reserves"
    )
    out_of_memory_signs: tuple[Annotated[str, StringConstraints(min_length=8, to_lower=True)], ...] = Field(
        (),
        description="what the engine prints before it ends its own process for want of memory, in lower case: its "
        "adapter, which classifies all other failures, has ended with it",
    )
    variants: dict[Name, VariantEntry] = Field({}, description="at least one, unless the image is no engine")
    serve: ServerEntry | None = Field(None, description="the engine's own server, for cells under load")
    split: SplitEntry | None = Field(
        None, description="how one model is split over several GPUs; left out by an engine that runs on one"
    )
    ranked: bool = Field(True, description="false for an engine that is no engine: in tables, not in the comparison")
    harness_variant: Name | None = Field(
        None, description="of a scripted engine: measured with every run, for the error of the suite itself"
    )
    known_failures: tuple[KnownFailure, ...] = ()
    notes: str = Field("", description="what a reader of the table should know: an old pin and why, for example")

    @field_validator("title")
    @classmethod
    def _one_line(cls, title: str) -> str:
        if not title or not title.isprintable() or len(title) > 60:
            raise ValueError("a title is one printable line of at most 60 characters")
        return title

    @field_validator("environment")
    @classmethod
    def _settable(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if name.startswith(_NOT_FOR_IMAGES):
                raise ValueError(f"{name} is read when a process starts or belongs to the launcher")
        return environment

    @model_validator(mode="after")
    def _splits_what_it_has(self) -> Manifest:
        split = self.split
        if split is None:
            return self
        if "cuda" not in self.devices:
            raise Misplaced(("split",), "a model is split over GPUs, and this image does not run on any")
        unknown = sorted({*split.variants} - {*self.variants})
        if unknown:
            raise Misplaced(("split", "variants"), f"{unknown[0]!r} is no variant")
        if bool(split.variants) != bool(split.refused):
            raise Misplaced(("split", "refused"), "says why the variants that are not named are not split")
        if split.serve is not None and self.serve is None:
            raise Misplaced(("split", "serve"), "the image has no server")
        for name in split.environment:
            if name.startswith(_NOT_FOR_IMAGES) or name in MULTICAST_OFF:
                raise Misplaced(("split", "environment", name), "belongs to the launcher")
        return self

    def why_not_split(self, variant: str, *, served: bool = False) -> str:
        """Why a variant runs on one GPU alone, in one line; empty where it is split over as many as are asked for.

        Args:
            served: by the engine's own server.
        """
        if self.split is None:
            return f"image {self.name} does not split a model over GPUs"
        if self.split.variants and variant not in self.split.variants:
            return f"{self.name}.{variant} does not split its model over GPUs: {self.split.refused}"
        if served and self.split.serve is None:
            return f"the server of {self.name} does not split a model over GPUs"
        return ""

    def environment_on(self, gpus: int) -> dict[str, str]:
        """Variables of the engine's process, by the number of its GPUs."""
        if gpus < 2:
            return self.environment
        return {**self.environment, **(self.split.environment if self.split else {}), **MULTICAST_OFF}

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if self.measures_device is not None:
            if self.adapter is not None or self.variants:
                raise ValueError("an image that measures devices is no engine: no adapter, no variants")
            return self
        if self.adapter is None:
            raise ValueError("adapter: Field required")
        if not self.variants:
            raise ValueError("variants: at least one is needed")
        if self.convert_target and not self.converts:
            raise ValueError("convert_target is set but nothing is converted")
        if self.harness_variant is not None and self.harness_variant not in self.variants:
            raise ValueError(f"harness_variant {self.harness_variant!r} is no variant")
        if any(v.reference and v.stands_in is not None for v in self.variants.values()):
            raise ValueError("the reference does not stand in for itself")
        self._check_options()
        for name, variant in self.variants.items():
            if not variant.closed_batches and (variant.serve is None or variant.default):
                raise ValueError(f"variant {name} has no closed batches: it must be served, and is no default")
        if self.serve is None and any(v.serve is not None for v in self.variants.values()):
            raise ValueError("a variant is served, and the image has no server: serve: is missing")
        for device in self.devices:
            if not any(v.default for v in self._on(device).values()):
                raise ValueError(f"no variant is the default on {device}")
        return self

    def _check_options(self) -> None:
        for name, entry in self.variants.items():
            for option, value in entry.options.items():
                try:
                    self.options_on(None).checked({option: value})
                except BadInput as error:
                    raise Misplaced(("variants", name, "options", option), str(error)) from error
        budget = self.memory_budget
        if budget is not None:
            declared = self.options.get(budget.option)
            if declared is None or declared.type != {"bytes": "int", "fraction": "float"}[budget.unit]:
                raise Misplaced(
                    ("memory_budget", "option"), f"{budget.option!r} must be declared under options: int, or a fraction"
                )

    def options_on(self, device: str | None) -> Options:
        """The options that the engine reads on a device; all of them where that is ``None``."""
        return Options(self.name, self.options, device)

    def _on(self, device: str) -> dict[str, VariantEntry]:
        return {name: v for name, v in self.variants.items() if device in (v.devices or self.devices)}

    def variants_on(self, device: str) -> tuple[str, ...]:
        """Names of the variants that run on a device, in the order of the file."""
        return tuple(self._on(device)) if device in self.devices else ()

    @property
    def engine_distributions(self) -> tuple[str, ...]:
        """Distributions whose version is the engine's; empty for an engine without packages."""
        return self.engine_packages or self.packages[:1]

    @property
    def server_options(self) -> frozenset[str]:
        """Options that the server's command takes by their places, whether or not the adapter reads them as well."""
        if self.serve is None:
            return frozenset()
        switched = (self.serve.prefix_cache(on=on).words(idle=idle) for on in (False, True) for idle in (False, True))
        caches = (word for words in switched for word in words)
        variants = (word for variant in self.variants.values() for word in variant.serve or ())
        split = self.split.serve or () if self.split is not None else ()
        words = (*self.serve.command, *self.serve.check, *self.serve.facts, *caches, *variants, *split)
        return frozenset(place for word in words for place in PLACE.findall(word)) & self.options.keys()

    def served_on(self, device: str) -> tuple[str, ...]:
        """Names of the variants that the engine's own server serves on a device."""
        return tuple(name for name in self.variants_on(device) if self.variants[name].serve is not None)

    def default_variant(self, device: str) -> str:
        """The variant taken where none is named.

        Raises:
            BadInput: the image does not run on that device.
        """
        for name in self.variants_on(device):
            if self.variants[name].default:
                return name
        raise BadInput(f"image {self.name} does not run on {device}", f"it runs on {', '.join(self.devices)}")

    def variant(self, name: str, overrides: Mapping[str, Scalar] | None = None, device: str | None = None) -> Variant:
        """A variant as its adapter sees it: every option that is read on ``device`` (on any, where that is ``None``),
        with its default, the variant's value or that of ``overrides``, which counts most.

        Raises:
            BadInput: no such variant; of ``overrides`` an unknown name, a value of another type or beyond the limits,
                or an option of another device.
        """
        entry = self.variants.get(name)
        if entry is None:
            raise BadInput(f"image {self.name} has no variant {name!r}", f"variants: {', '.join(self.variants)}")
        here = self.options_on(device)
        own = {key: value for key, value in entry.options.items() if key in here.defaults}  # others: other devices'
        options = {**here.defaults, **here.checked(own), **here.checked(overrides or {})}
        return Variant(name=name, artifact=entry.artifact, options=options)

    def reference_rank(self, variant: str) -> int | None:
        """0 for the reference, its place for a variant that may stand in, ``None`` for any other."""
        entry = self.variants.get(variant)
        if entry is None:
            return None
        return 0 if entry.reference else entry.stands_in

    def bits(self, variant: str) -> float | None:
        """The bits of a weight that a variant names, if it does."""
        entry = self.variants.get(variant)
        return entry.bits if entry else None

    def label(self, variant: str, gpus: int = 1) -> str:
        """The row's name in a table: engine and variant, and the number of GPUs where it is more than one."""
        entry = self.variants.get(variant)
        name = f"{self.title} {(entry.title if entry else '') or variant}"
        return name if gpus == 1 else f"{name}, {gpus} GPUs"

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Reads ``image.yaml`` of an image's folder.

        Raises:
            BadInput: missing or invalid, with file, line and key.
        """
        return cls.parse_yaml(text_of(folder), str(folder / layout.MANIFEST_FILE))

    @classmethod
    def parse_yaml(cls, text: str, origin: str) -> Manifest:
        """Reads the text of an ``image.yaml``; ``origin`` names it in errors.

        Raises:
            BadInput: invalid, with line and key.
        """
        digest = text_sha256(text)
        if digest not in READ:
            from bench_core.contract.records import strict_yaml  # noqa: PLC0415  # a tenth of a short cell

            READ[digest] = strict_yaml.parse_as(cls, text, origin)
        return READ[digest]


def text_of(folder: Path) -> str:
    """The text of an image's ``image.yaml``.

    Raises:
        BadInput: it cannot be read.
    """
    path = folder / layout.MANIFEST_FILE
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read: {error}", "an image is a folder with an image.yaml") from error


# By the digest of the text. A worker and its engine's process read the same one, a driver reads it for each job.
READ: dict[str, Manifest] = {}
