"""Going on with a run: which of its cells are kept, and whether what is asked for now belongs to the same run.

A run may be spread over several visits to machines. What decides a number must be the same at each of them; where it
is not, the run is refused before anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_core.contract.asked.difference import differences
from bench_core.contract.errors import BadInput, nearest
from bench_core.contract.records import layout
from bench_core.contract.records.record import Scalar
from bench_core.contract.records.run import AgainCell, GpuInfo, HostInfo, ImageInfo, PlannedCell, RunRecord, VisitInfo
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import order_words
from bench_core.drive.ask.request import SERVED_BY, Suite
from bench_core.drive.fleet.queue import Before
from bench_core.drive.launch.launcher import Launcher
from bench_core.drive.material.prepared import Prepared
from bench_core.drive.plan.engine_versions import joined
from bench_core.drive.plan.plan import Plan
from bench_core.runs.load import load_run
from bench_core.runs.view import Ended, Row, RunView
from bench_core.system.processor import as_meant, this_host

# NVML's total shrinks a little with drivers that reserve more; the next model of a card is further away than that.
_GPU_MEMORY_SLACK = 0.02
_SELECTION = ("images", "variants", "batch_sizes", *SERVED_BY, "arrivals", "repeats", "order_seed")


def find_run(run: str, results: Path) -> Path:
    """The folder of a run: its name under the results folder, or a path.

    Raises:
        BadInput: there is no such run, or its folder has a name that no run can have.
    """
    named = [results / run] if layout.is_name(run) else []
    for folder in (*named, Path(run).expanduser()):
        try:
            if not (folder / layout.RUN_FILE).is_file():
                continue
        except (OSError, ValueError):  # a name that no path can have
            continue
        home = folder.resolve()
        if not layout.is_name(home.name):
            raise BadInput(f"--resume {run[:100]!r}: {home.name!r} is not a run's name", "rename the folder")
        return home
    known = [path.parent.name for path in results.glob(f"*/{layout.RUN_FILE}")] if results.is_dir() else []
    hint = nearest(run, known) if known else f"there is no run under {results}"
    raise BadInput(f"--resume {run[:100]!r}: no such run", hint)


@dataclass(frozen=True)
class Earlier:
    """A run as it stands: every cell that is complete is kept, but those that are to be measured again.

    Attributes:
        again: complete cells that are not kept.
    """

    folder: Path
    view: RunView
    again: tuple[AgainCell, ...] = ()

    @classmethod
    def load(cls, folder: Path) -> Earlier:
        """Reads a run and judges each of its cells from its raw events.

        Raises:
            BadInput: not a run, or its ``run.json`` is damaged.
        """
        return cls(folder, load_run(folder))

    @property
    def record(self) -> RunRecord:
        """``run.json``."""
        return self.view.record

    @property
    def complete(self) -> tuple[Ended, ...]:
        """Cells that are kept."""
        dropped = {one.cell for one in self.again}
        return tuple(row for row in self.view.every if row.complete and row.planned.cell not in dropped)

    @property
    def complete_cells(self) -> tuple[PlannedCell, ...]:
        """The same as cells of the plan."""
        return tuple(row.planned for row in self.complete)

    def of_the_pool(self) -> Before:
        """Where the complete cells were measured, where several devices ran, and how long each took."""
        homes: dict[tuple[str, int], str] = {}
        took_s: dict[tuple[str, str], float] = {}
        for row in self.complete:
            word = row.planned.scenario.word
            if row.spec is not None and row.spec.placement is not None:
                homes[word, row.planned.repeat] = row.spec.placement.worker
            if isinstance(row, Row) and row.alive_s is not None:
                took_s[f"{row.planned.image}.{row.planned.variant}", word] = row.alive_s[1] - row.alive_s[0]
        return Before(homes, took_s)

    def suite(self) -> Suite:
        """What was asked for, or as much of it as the run itself says where that was not kept; without the file of
        others' figures, which the run keeps.

        Raises:
            BadInput: ``suite.json`` is damaged.
        """
        kept = self._suite()
        return kept.model_copy(update={"beside": None}) if (self.folder / layout.BESIDE_FILE).is_file() else kept

    def _suite(self) -> Suite:
        path = self.folder / layout.SUITE_FILE
        if path.is_file():
            suite = Suite.read(path)
            kept = json.loads(path.read_bytes())
            # Of before there was a rule to stop by: everything was measured. Of before prompts were shuffled: they
            # were not.
            then = {} if "precision" in kept else _NO_RULES
            return suite.model_copy(update=then if "sample_order" in kept else {**then, "sample_order": "dataset"})
        cells, record = self.record.cells, self.record
        protocol = next((spec.protocol for spec in self._specs()), None)
        return Suite(
            images=tuple(dict.fromkeys(cell.image for cell in cells)),
            variants=tuple(dict.fromkeys(f"{cell.image}.{cell.variant}" for cell in cells)),
            batch_sizes=tuple(cell.batch_size for cell in cells if cell.load is None),
            model=record.model.name,
            samples=record.workload.prompts,
            **_order_as_asked(record.workload.sample_seed),
            max_new_tokens=record.max_new_tokens,
            length=record.length,
            device=record.device,
            launcher="auto" if record.launcher == "standalone" else record.launcher,
            repeats=record.repeats,
            gpus_per_cell=max((cell.gpus for cell in cells), default=1),
            **(protocol.as_asked if protocol else _NO_RULES),
            **record.quality.model_dump(),
        )

    def kept_suite(self, now: Suite, *, whole: bool) -> Suite:
        """What the run asks for from now on: the cells of its beginning, with the repeats that were added to all of
        them (``whole``), everything else as it was given last."""
        first = self.suite()
        kept: dict[str, object] = {key: getattr(first, key) for key in _SELECTION}
        kept["engine_version"] = joined(first.engine_version, now.engine_version)
        return now.model_copy(update={**kept, "repeats": now.repeats} if whole else kept)

    def require_same_plan(
        self, plan: Plan, suite: Suite, launcher: Launcher, gpus: Iterable[GpuInfo], host: HostInfo | None = None
    ) -> None:
        """Refuses what shows before anything is prepared or built.

        Args:
            host: that is measured on; this one where there is none.

        Raises:
            BadInput: names every difference.
        """
        self._refuse(
            [
                *self._settings(plan, suite, launcher.name),
                *self._cells(plan, suite),
                *self._machine(plan, gpus, host or this_host()),
                *self._recipes(plan, launcher),
            ]
        )

    def require_same_material(self, prepared: Prepared, visit: VisitInfo) -> None:
        """Refuses another model, workload, artifact or image, once they are there.

        Raises:
            BadInput: names every difference.
        """
        # The scripted engine beside the cells is not compared: its numbers are each visit's own.
        images = {
            name: info for name, info in visit.images.items() if any(c.startswith(f"{name}.") for c in visit.cells)
        }
        self._refuse([*self._prompts(prepared), *self._artifacts(visit), *self._images(images)])

    def require_same_model(self, digest: str) -> None:
        """Refuses another model.

        Raises:
            BadInput: it is one.
        """
        self._refuse(list(_differing([("model digest", self.record.model.digest, digest)])))

    def _refuse(self, differences: list[str]) -> None:
        if differences:
            raise BadInput(
                f"{self.record.run_id} cannot go on with this: " + "; ".join(dict.fromkeys(differences)),
                "cells of one run do equal work: ask for the same as before, or start a new run",
            )

    def _specs(self) -> Iterator[CellSpec]:
        return (row.spec for row in self.complete if row.spec is not None)

    def _visit_of(self, row: Ended) -> VisitInfo | None:
        number = self.view.visit_of(row)
        return self.record.all_visits[number - 1] if number else None

    def _settings(self, plan: Plan, suite: Suite, launcher: str) -> Iterator[str]:
        record = self.record
        pairs: list[tuple[str, object, object]] = [
            ("launcher", record.launcher, launcher),
            ("device", record.device, plan.device),
            ("max_new_tokens", record.max_new_tokens, suite.max_new_tokens),
            ("length", record.length, suite.length),
            ("gpus_per_cell", self.suite().gpus_per_cell, suite.gpus_per_cell),
            *([("cpu_slices", self.suite().cpu_slices, suite.cpu_slices)] if plan.device == "cpu" else []),
            ("order of the prompts", record.workload.order, order_words(suite.shuffle_seed)),
            *((f"bound {name}", had, now) for name, had, now in differences(record.quality, suite.quality)),
        ]
        yield from _differing(pairs)

    def _cells(self, plan: Plan, suite: Suite) -> Iterator[str]:
        """Each complete cell beside the same cell as it would be asked for now."""
        options = self._options_now(plan, suite.find_max_batch)
        for spec in self._specs():
            # Specs of before there were declarations lack what nobody gave, and have what nothing reads here.
            defaults, given = options.get((spec.image, spec.variant), (spec.options, spec.options))
            kept = {key: value for key, value in spec.options.items() if key in given}
            had = spec.model_copy(update={"protocol": spec.protocol.in_effect, "options": {**defaults, **kept}})
            now = had.model_copy(
                update={
                    "max_new_tokens": suite.max_new_tokens,
                    "length": suite.length,
                    "threads": suite.threads or spec.threads,
                    "options": dict(given),
                    "protocol": suite.protocol.in_effect,
                    "serve": spec.serve and spec.serve.model_copy(update={"protocol": suite.serve_protocol}),
                }
            )
            named = differences(had, now)
            yield from _differing((_in_words(spec, name), one, other) for name, one, other in named)

    def _machine(self, plan: Plan, gpus: Iterable[GpuInfo], now: HostInfo) -> Iterator[str]:
        """Another card of the same model is the same machine here; on a CPU run, the processor is the device."""
        record = self.record
        if plan.device == "cpu" and record.device == "cpu":
            had = record.host
            yield from _differing([("processor", as_meant(had.cpu, now.cpu), now.cpu), ("cores", had.cores, now.cores)])
        for gpu in gpus:
            if record.gpus and not any(_same_model(gpu, known) for known in record.gpus):
                first = record.gpus[0]
                yield from _differing([("GPU", _card(first), _card(gpu))])

    def _options_now(
        self, plan: Plan, searched: Sequence[str]
    ) -> dict[tuple[str, str], tuple[Mapping[str, Scalar], Mapping[str, Scalar]]]:
        """Image and variant to the defaults of its options and their values now. Also where its cells are complete,
        whose options would be passed over; not where they are a search's alone."""
        measured = {job.title for job in plan.jobs}
        found: dict[tuple[str, str], tuple[Mapping[str, Scalar], Mapping[str, Scalar]]] = {}
        for job in plan.grid:
            if job.title in searched and job.title not in measured:
                continue
            manifest = job.image.manifest
            now = manifest.variant(job.variant, job.options, plan.device).options
            found[job.image.name, job.variant] = (manifest.options_on(plan.device).defaults, now)
        return found

    def _recipes(self, plan: Plan, launcher: Launcher) -> Iterator[str]:
        for image in plan.images:
            recipes = {info.recipe for info in self._images_of(image.name)}
            if recipes - {None, launcher.recipe(image, plan.device)}:
                yield f"image {image.name} is made of other files than the cells that it has here"

    def _images(self, images: dict[str, ImageInfo]) -> Iterator[str]:
        """Where no recipe was recorded, only the very same image is known to be the same."""
        for name, now in images.items():
            for had in self._images_of(name):
                if had.recipe is None and had.id != now.id:
                    yield f"image {name} is {now.id}, was {had.id}, and what that was made of is not recorded"

    def _images_of(self, name: str) -> Iterator[ImageInfo]:
        """What the complete cells of an image ran in."""
        for row in self.complete:
            visit = self._visit_of(row)
            if row.planned.image == name and visit is not None and name in visit.images:
                yield visit.images[name]

    def _prompts(self, prepared: Prepared) -> Iterator[str]:
        record = self.record
        return _differing(
            [
                ("model digest", record.model.digest, prepared.model.digest),
                ("workload digest", record.workload.digest, prepared.workload.digest),
            ]
        )

    def _artifacts(self, visit: VisitInfo) -> Iterator[str]:
        """The same content, or converted by the same converter: a conversion on a GPU is not the same to the bit."""
        for row in self.complete:
            now = visit.artifacts.get(row.spec.artifact) if row.spec else None
            if row.spec is None or now is None or row.spec.artifact_digest in (None, now.digest):
                continue
            then = self._visit_of(row)
            had = then.artifacts.get(row.spec.artifact) if then else None
            if had is None or had.given or now.given or had.converter_digest != now.converter_digest:
                digest = str(row.spec.artifact_digest)
                yield from _differing([(f"artifact {row.spec.artifact}", digest, now.digest)])


# What a protocol without rules was asked for by.
_NO_RULES: dict[str, Any] = {"exhaustive": True, "max_warmup_batches": 1}


def _in_words(spec: CellSpec, field: str) -> str:
    """A field of a spec as a refusal names it."""
    key = field.removeprefix("options.")
    return field if key == field else f"option {spec.image}.{spec.variant}.{key}"


def _order_as_asked(sample_seed: int | None) -> dict[str, Any]:
    """The keys of a suite that give this order of prompts."""
    return {"sample_order": "dataset"} if sample_seed is None else {"sample_seed": sample_seed}


def _differing(pairs: Iterable[tuple[str, object, object]]) -> Iterator[str]:
    for name, had, now in pairs:
        if had != now:
            yield f"{name} is {_word(now)}, was {_word(had)}"


def _word(value: object) -> str:
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == 64 else text


def _same_model(one: GpuInfo, other: GpuInfo) -> bool:
    apart = abs(one.memory_bytes - other.memory_bytes)
    return one.name == other.name and apart <= _GPU_MEMORY_SLACK * other.memory_bytes


def _card(gpu: GpuInfo) -> str:
    return f"{gpu.name} of {gpu.memory_bytes} bytes"
