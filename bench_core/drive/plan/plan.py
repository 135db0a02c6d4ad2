"""From a request to cells: pure, so that ``--dry-run`` shows what a run would do."""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cached_property

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.asked.scenario import Offline, Scenario
from bench_core.contract.errors import BadInput, nearest
from bench_core.contract.records import layout
from bench_core.contract.records.record import Scalar
from bench_core.contract.records.run import EngineVersion, PlannedCell
from bench_core.contract.serving.load import Serve
from bench_core.drive.ask.request import Suite
from bench_core.drive.plan.able import split_here, why_not_served, why_not_split
from bench_core.drive.plan.catalogue import Catalogue, Image
from bench_core.drive.plan.named import cell_parts, chosen_variants, image_of, single

NO_CONTROL = "none"


@dataclass(frozen=True)
class Job:
    """One container: one variant of one image, loaded once, in one or more scenarios; the same repeat of each.

    Attributes:
        gpus: that its model is split over; 1 on a CPU too.
    """

    image: Image
    variant: str
    scenarios: tuple[Scenario, ...]
    options: dict[str, Scalar]
    repeat: int = 1
    limits: Mapping[str, float] = field(default_factory=dict)  # below the suite's: of its options, by name
    gpus: int = 1

    @property
    def artifact(self) -> str:
        """What it reads."""
        return self.image.manifest.variants[self.variant].artifact

    @property
    def title(self) -> str:
        """``image.variant``."""
        return f"{self.image.name}.{self.variant}"

    @property
    def served(self) -> bool:
        """Whether its cells are requests to the engine's own server."""
        return any(isinstance(scenario, Serve) for scenario in self.scenarios)

    @property
    def cells(self) -> tuple[str, ...]:
        """Names of its cells."""
        return tuple(self.cell(scenario) for scenario in self.scenarios)

    def cell(self, scenario: Scenario) -> str:
        """A cell's name."""
        return layout.cell_id(self.image.name, self.variant, scenario.word, self.repeat, self.gpus)

    def without(self, cells: Container[str]) -> Job:
        """The same for the scenarios whose cells are not among ``cells``."""
        return replace(self, scenarios=tuple(s for s in self.scenarios if self.cell(s) not in cells))

    def planned(self) -> list[PlannedCell]:
        """Its cells."""
        return [
            PlannedCell(
                cell=self.cell(scenario),
                image=self.image.name,
                variant=self.variant,
                scenario=scenario,
                repeat=self.repeat,
                gpus=self.gpus,
                label=self.image.manifest.label(self.variant, self.gpus),
                bits=self.image.manifest.bits(self.variant),
                ranked=self.image.manifest.ranked,
                harness=self.variant == self.image.manifest.harness_variant,
                reference=self.image.manifest.reference_rank(self.variant),
            )
            for scenario in self.scenarios
        ]


@dataclass(frozen=True)
class Plan:
    """What a call asks for, and what of it is to be measured.

    Attributes:
        grid: the jobs asked for, in the order of the table.
        control: one cell that every visit measures first, as a repeat of its own from the second time on.
        kept: cells of an earlier visit that need no further measurement.
        left_out: what was not planned, and why.
        repeats: how often the grid is measured; what the control adds is not counted.
        own_error: of the scripted engine, measured before the others for the suite's own error.
        order_seed: of the order of the launches, where that is more than once.
        devices: that cells are measured on side by side; each measures the control.
        alone: jobs of one cell that is measured again while nothing runs beside it, and the cell it is held against.
    """

    device: DeviceKind
    grid: tuple[Job, ...]
    left_out: tuple[str, ...] = ()
    control: Job | None = None
    kept: frozenset[str] = frozenset()
    own_error: tuple[Job, ...] = ()
    repeats: int = 1
    order_seed: int = 0
    devices: int = 1
    alone: tuple[tuple[Job, str], ...] = ()

    @cached_property
    def controls(self) -> tuple[Job, ...]:
        """The control of each device: on the first as it is, on the others as further repeats; nothing where nothing
        of the grid is left, and so nothing to control either."""
        if self.control is None:
            return ()
        first = self.control.repeat
        others = range(max(self.repeats, first) + 1, max(self.repeats, first) + self.devices)
        controls = (self.control, *(replace(self.control, repeat=repeat) for repeat in others))
        cells = self._of(controls)
        new = any(cell.cell not in self.kept and cell.repeat == 1 for cell in cells)
        return controls if new or self._left({cell.cell for cell in cells}) else ()

    def _left(self, done: Set[str]) -> tuple[Job, ...]:
        """The grid without what is kept and what is ``done`` beside it."""
        return tuple(job for job in (job.without(self.kept | done) for job in self.in_order_of_launch) if job.scenarios)

    @property
    def in_order_of_launch(self) -> tuple[Job, ...]:
        """The grid in the order of the table, or, where it is repeated, one repeat after the other, the jobs of each in
        a random order of its own: randomised blocks, so that what changes with time falls on all methods alike."""
        if self.repeats == 1:
            return self.grid
        drawn = random.Random(self.order_seed)  # noqa: S311  # an order, not a secret
        ordered: list[Job] = []
        for repeat in sorted({job.repeat for job in self.grid}):
            block = [job for job in self.grid if job.repeat == repeat]
            drawn.shuffle(block)
            ordered += block
        return tuple(ordered)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """What is to be launched, in order: the controls, then the grid without them and without what is kept."""
        return (*self.controls, *self._left({cell.cell for cell in self._of(self.controls)}))

    @property
    def cells(self) -> tuple[PlannedCell, ...]:
        """All cells asked for, in the order of the table."""
        every = self._of([*self.grid, *self.controls])
        return tuple({cell.cell: cell for cell in every}.values())

    @property
    def to_measure(self) -> tuple[str, ...]:
        """Names of the cells to be measured, in the order of the launches."""
        return tuple(cell.cell for cell in self._of(self.jobs))

    @property
    def artifacts(self) -> tuple[str, ...]:
        """Artifacts to be read beyond the model itself, each once."""
        wanted = (job.artifact for job in self.jobs)
        return tuple(dict.fromkeys(a for a in wanted if a not in (layout.NO_ARTIFACT, layout.HF_ARTIFACT)))

    @property
    def gpus_per_cell(self) -> int:
        """The same for all of its cells."""
        return max((job.gpus for job in self.grid), default=1)

    @property
    def own_error_cells(self) -> tuple[PlannedCell, ...]:
        """Cells of the scripted engine beside the others."""
        return self._of(self.own_error)

    @property
    def images(self) -> tuple[Image, ...]:
        """Images that measure, each once."""
        return tuple({job.image.name: job.image for job in self.jobs}.values())

    @property
    def engine_versions(self) -> dict[str, EngineVersion]:
        """Of the images of its cells those that were made for a version of an engine."""
        images = {job.image.name: job.image for job in (*self.grid, *self.jobs)}
        return {name: image.version for name, image in images.items() if image.version is not None}

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes to be measured, ascending."""
        offline = (s for job in self.jobs for s in job.scenarios if isinstance(s, Offline))
        return tuple(sorted({scenario.batch_size for scenario in offline}))

    @property
    def loads(self) -> tuple[Serve, ...]:
        """Load points to be measured, each once."""
        return tuple(dict.fromkeys(s for job in self.jobs for s in job.scenarios if isinstance(s, Serve)))

    def resumed(self, complete: Iterable[PlannedCell]) -> Plan:
        """The same plan for a run of which some cells are complete: these are kept, and the control is the next
        repeat of its cell."""
        cells = tuple(complete)
        plan = replace(self, kept=frozenset(cell.cell for cell in cells))
        if self.control is None:
            return plan
        first = (self.control.image.name, self.control.variant, *self.control.scenarios)
        done = [cell.repeat for cell in cells if (cell.image, cell.variant, cell.scenario) == first]
        return replace(plan, control=replace(self.control, repeat=1 + max(done, default=0)))

    @staticmethod
    def _of(jobs: Iterable[Job]) -> tuple[PlannedCell, ...]:
        return tuple(cell for job in jobs for cell in job.planned())


def make_plan(suite: Suite, catalogue: Catalogue, device: DeviceKind) -> Plan:
    """Expands a suite.

    Raises:
        BadInput: an unknown image, variant or option, an option's value of another type; a named image or variant that
            does not run on this device; nothing left to run.
    """
    everything = "all" in suite.images
    names = catalogue.names if everything else tuple(dict.fromkeys(suite.images))
    images = list({image.name: image for name in names for image in catalogue.meant(name)}.values())
    for name, options in suite.options.items():
        catalogue.get(name).manifest.options_on(None).checked(options)
    left_out: list[str] = []
    jobs: list[Job] = []
    chosen = chosen_variants(suite.variants, images, catalogue)
    for image in images:
        if device not in image.manifest.devices:
            reason = f"{image.name} does not run on {device}"
            if not everything:
                raise BadInput(reason, f"it runs on {', '.join(image.manifest.devices)}")
            left_out.append(reason)
            continue
        runnable = image.manifest.variants_on(device)
        if suite.variants == ("all",):
            wanted = tuple(
                name
                for name in runnable
                if name != image.manifest.harness_variant
                and (suite.loads or image.manifest.variants[name].closed_batches)
            )
        else:
            wanted = chosen.get(image.name) or (image.manifest.default_variant(device),)
        for variant in wanted:
            found, reasons = _jobs_of(image, variant, suite, catalogue, device)
            jobs += found
            left_out += reasons
    if not jobs:
        raise BadInput("nothing to run", "; ".join(left_out))
    grid = tuple(replace(job, repeat=repeat) for job in jobs for repeat in range(1, suite.repeats + 1))
    return Plan(
        device,
        grid,
        tuple(left_out),
        _control(suite, catalogue, device),
        repeats=suite.repeats,
        order_seed=suite.order_seed,
    )


def _jobs_of(
    image: Image, variant: str, suite: Suite, catalogue: Catalogue, device: DeviceKind
) -> tuple[list[Job], list[str]]:
    """The jobs of one method, and why others of it are not planned.

    Raises:
        BadInput: it was named, and cannot do what is asked for.
    """
    everything = "all" in suite.images
    named = not everything and suite.variants != ("all",)
    if reason := why_not_split(image, variant, suite):
        if named:
            raise BadInput(reason, split_here(catalogue, device))
        return [], [reason]
    jobs, left_out = [], []
    if suite.scenarios and image.manifest.variants[variant].closed_batches:
        jobs.append(_job(image, variant, suite.scenarios, suite, device))
    elif suite.scenarios:
        left_out.append(f"{image.name}.{variant} is its server's alone: it has no closed batches")
        if named and not suite.loads:
            raise BadInput(left_out[0], "name a load: --concurrency 1,16, for example")
    if not suite.loads:
        return jobs, left_out
    unserved = why_not_served(image, variant, suite, catalogue, device)
    if unserved is None:
        launches = _launches(image, suite.loads, device)
        return [*jobs, *(_job(image, variant, loads, suite, device) for loads in launches)], left_out
    if not everything and not suite.scenarios:
        raise BadInput(*unserved)
    return jobs, [*left_out, unserved[0]]


def plan_of_cells(cells: Iterable[PlannedCell], suite: Suite, catalogue: Catalogue, device: DeviceKind) -> Plan:
    """The plan of these cells, in as many repeats as the suite asks for, with its options and its control.

    Repeats of the control beyond those of the grid are left out: every visit adds one of its own.

    Raises:
        BadInput: an image or variant that is not there any more, or does not run on this device.
    """
    control = _control(suite, catalogue, device)
    found: dict[tuple[str, str, int], list[Scenario]] = {}
    for cell in cells:
        if (
            control is None
            or cell.repeat <= suite.repeats
            or (cell.image, cell.variant) != (control.image.name, control.variant)
        ):
            found.setdefault((cell.image, cell.variant, cell.repeat), []).append(cell.scenario)
    for image, variant, repeat in [key for key in found if key[2] == 1]:
        for added in range(repeat + 1, suite.repeats + 1):
            there = found.setdefault((image, variant, added), [])
            there += [scenario for scenario in found[image, variant, repeat] if scenario not in there]
    grid = tuple(
        replace(_job(catalogue.get(image), variant, of_kind, suite, device), repeat=repeat)
        for (image, variant, repeat), scenarios in found.items()
        for of_kind in _launches(catalogue.get(image), scenarios, device)
    )
    return Plan(device, grid, control=control, repeats=suite.repeats, order_seed=suite.order_seed)


def _launches(image: Image, scenarios: Iterable[Scenario], device: DeviceKind) -> list[tuple[Scenario, ...]]:
    """Those of one launch each: closed batches, or the loads of one server."""
    given = tuple(scenarios)
    closed = tuple(scenario for scenario in given if not isinstance(scenario, Serve))
    loads = tuple(scenario for scenario in given if isinstance(scenario, Serve))
    entry = image.manifest.serve
    served: Iterable[tuple[Scenario, ...]] = entry.of_one_server(loads, device) if entry and loads else (loads,)
    return [launch for launch in (closed, *served) if launch]


def _job(image: Image, variant: str, scenarios: tuple[Scenario, ...], suite: Suite, device: DeviceKind) -> Job:
    runnable = image.manifest.variants_on(device)
    if variant not in image.manifest.variants:
        raise BadInput(f"image {image.name} has no variant {variant!r}", nearest(variant, image.manifest.variants))
    if variant == image.manifest.harness_variant:
        raise BadInput(
            f"variant {variant} of {image.name} measures the suite itself, with every run",
            "leave it out; --no-harness-check switches it off",
        )
    if variant not in runnable:
        raise BadInput(
            f"variant {variant} of {image.name} does not run on {device}",
            f"those that do: {', '.join(runnable) or 'none'}",
        )
    asked = {**suite.options.get(image.engine, {}), **suite.options.get(image.name, {})}  # of a version above all's
    options = image.manifest.options_on(device).checked(asked)
    served = any(isinstance(scenario, Serve) for scenario in scenarios)
    if reason := why_not_split(image, variant, suite, served=served):
        raise BadInput(reason, "leave --gpus-per-cell out, or name another")
    return Job(image, variant, scenarios, dict(options), gpus=suite.gpus_per_cell)


def _control(suite: Suite, catalogue: Catalogue, device: DeviceKind) -> Job | None:
    """The suite's control cell, written ``image.variant.b<batch size>``; either name may hold dots."""
    return (
        None if suite.control in (None, NO_CONTROL) else cell_job(suite.control, "--control", suite, catalogue, device)
    )


def cell_job(cell: str, option: str, suite: Suite, catalogue: Catalogue, device: DeviceKind) -> Job:
    """One cell by its name, with the suite's options.

    Raises:
        BadInput: not such a name, or not a cell that runs here; ``option`` is where it was given.
    """
    image, variant, scenario = cell_parts(cell, option, catalogue)
    return _job(image, variant, (scenario,), suite, device)


def method_job(method: str, option: str, suite: Suite, catalogue: Catalogue, device: DeviceKind) -> Job:
    """One variant of one image at batch size 1, written ``image.variant``; either name may hold dots.

    Raises:
        BadInput: not such a name, or it does not run here; ``option`` is where it was given.
    """
    named = image_of(method, option, catalogue)
    image = single(named, option, method, catalogue)
    return _job(image, method.removeprefix(f"{named.name}."), (Offline(batch_size=1),), suite, device)
