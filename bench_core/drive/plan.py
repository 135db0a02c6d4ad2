"""From a request to cells: pure, so that ``--dry-run`` shows what a run would do."""

from __future__ import annotations

from dataclasses import dataclass

from bench_core.contract import layout
from bench_core.contract.errors import BadInput
from bench_core.contract.manifest import DeviceKind
from bench_core.contract.record import Scalar
from bench_core.contract.run import PlannedCell
from bench_core.drive.catalogue import Catalogue, Image, nearest
from bench_core.drive.request import Suite


@dataclass(frozen=True)
class Job:
    """One container: one variant of one image, loaded once, at one or more batch sizes."""

    image: Image
    variant: str
    batch_sizes: tuple[int, ...]
    options: dict[str, Scalar]

    @property
    def artifact(self) -> str:
        """What it reads."""
        return self.image.manifest.variants[self.variant].artifact

    @property
    def title(self) -> str:
        """``image.variant``."""
        return f"{self.image.name}.{self.variant}"

    def cell(self, batch_size: int) -> str:
        """A cell's name."""
        return layout.cell_id(self.image.name, self.variant, batch_size)

    def planned(self) -> list[PlannedCell]:
        """Its cells."""
        return [
            PlannedCell(
                cell=self.cell(batch_size),
                image=self.image.name,
                variant=self.variant,
                batch_size=batch_size,
                label=self.image.manifest.label(self.variant),
                ranked=self.image.manifest.ranked,
            )
            for batch_size in self.batch_sizes
        ]


@dataclass(frozen=True)
class Plan:
    """The jobs of a run in order, the artifacts they need, and what was left out and why."""

    device: DeviceKind
    jobs: tuple[Job, ...]
    left_out: tuple[str, ...]

    @property
    def cells(self) -> tuple[PlannedCell, ...]:
        """All cells in order."""
        return tuple(cell for job in self.jobs for cell in job.planned())

    @property
    def artifacts(self) -> tuple[str, ...]:
        """Artifacts to be read beyond the model itself, each once."""
        wanted = (job.artifact for job in self.jobs)
        return tuple(dict.fromkeys(a for a in wanted if a not in (layout.NO_ARTIFACT, layout.HF_ARTIFACT)))

    @property
    def images(self) -> tuple[Image, ...]:
        """Images that measure, each once."""
        return tuple({job.image.name: job.image for job in self.jobs}.values())


def make_plan(suite: Suite, catalogue: Catalogue, device: DeviceKind) -> Plan:
    """Expands a suite.

    Raises:
        BadInput: an unknown image, variant or option's image; a named image or variant that does not run on this
            device; nothing left to run.
    """
    everything = "all" in suite.images
    names = catalogue.names if everything else tuple(dict.fromkeys(suite.images))
    images = [catalogue.get(name) for name in names]
    for name in suite.options:
        catalogue.get(name)
    left_out: list[str] = []
    jobs: list[Job] = []
    chosen = _chosen_variants(suite.variants, images, catalogue)
    for image in images:
        if device not in image.manifest.devices:
            reason = f"{image.name} does not run on {device}"
            if not everything:
                raise BadInput(reason, f"it runs on {', '.join(image.manifest.devices)}")
            left_out.append(reason)
            continue
        runnable = image.manifest.variants_on(device)
        if suite.variants == ("all",):
            wanted = runnable
        else:
            wanted = chosen.get(image.name) or (image.manifest.default_variant(device),)
        for variant in wanted:
            if variant not in runnable:
                raise BadInput(
                    f"variant {variant} of {image.name} does not run on {device}",
                    f"those that do: {', '.join(runnable)}",
                )
            jobs.append(Job(image, variant, suite.batch_sizes, dict(suite.options.get(image.name, {}))))
    if not jobs:
        raise BadInput("nothing to run", "; ".join(left_out))
    return Plan(device, tuple(jobs), tuple(left_out))


def _chosen_variants(words: tuple[str, ...], images: list[Image], catalogue: Catalogue) -> dict[str, tuple[str, ...]]:
    """Image name to its named variants. A word is ``image.variant`` or a variant's bare name."""
    chosen: dict[str, list[str]] = {}
    if words == ("all",):
        return {}
    for word in words:
        image_name, _, variant = word.partition(".")
        if variant and image_name in catalogue.names:
            image = catalogue.get(image_name)
            if variant not in image.manifest.variants:
                raise BadInput(
                    f"image {image_name} has no variant {variant!r}", nearest(variant, image.manifest.variants)
                )
            if image not in images:
                raise BadInput(f"--variants names {word}, but {image_name} is not among the images of this run")
            chosen.setdefault(image_name, []).append(variant)
            continue
        owners = [image for image in images if word in image.manifest.variants]
        if not owners:
            known = {variant for image in images for variant in image.manifest.variants}
            raise BadInput(f"no image of this run has a variant {word!r}", nearest(word, known))
        for image in owners:
            chosen.setdefault(image.name, []).append(word)
    return {name: tuple(dict.fromkeys(variants)) for name, variants in chosen.items()}
