"""What stands before the table: what is built, how large that is, and how long all of it takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.artifact import ArtifactRecord
from bench_core.drive.ask.request import Suite
from bench_core.drive.launch.launcher import Launcher
from bench_core.drive.plan.builds import Build, BuildLog, Expected
from bench_core.drive.plan.catalogue import Image
from bench_core.drive.plan.estimate import (
    TYPICAL_PROMPTS,
    cell_estimates_s,
    conversion_estimate_s,
    measuring_estimate_s,
    preparing_estimate_s,
    readable_duration,
)
from bench_core.drive.plan.outlook import Outlook
from bench_core.drive.plan.plan import Plan
from bench_core.prepare.disk import readable


@dataclass(frozen=True)
class Effort:
    """Of one call.

    Attributes:
        builds: what is built, in order, with what it will take.
        unknown: what is built and was never built before, here or where the suite is made.
        preparing_s: seconds of making or fetching model and prompts; ``None`` where their size is not known.
        converting_s: seconds of all conversions; ``conversions_s``: of each, by artifact.
        measuring_s: seconds of all cells, and of what is measured beside them; ``cells_s``: of each cell.
    """

    builds: list[Expected] = field(default_factory=list)
    unknown: list[Build] = field(default_factory=list)
    preparing_s: float | None = 0.0
    converting_s: float = 0.0
    measuring_s: float = 0.0
    conversions_s: dict[str, float] = field(default_factory=dict)
    cells_s: dict[str, float] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Disk that the builds take, as far as that is known."""
        return sum(expected.size_bytes for expected in self.builds)

    @property
    def building_s(self) -> float:
        """Seconds of the builds, as far as they are known."""
        return sum(expected.seconds for expected in self.builds)

    @property
    def images(self) -> str:
        """``3 images, 1.2 GB``; empty where nothing is built."""
        count = len(self.builds) + len(self.unknown)
        size = f", {readable(self.size_bytes)}" if self.builds else ""
        return f"{count} image{'s' if count > 1 else ''}{size}" if count else ""

    @property
    def words(self) -> list[str]:
        """For the plan: each build with its size and time, then the time of everything."""
        lines = [f"to build: {self.images or 'nothing'}"]
        for expected in self.builds:
            where = "" if expected.here else " (measured elsewhere)"
            took = readable_duration(expected.seconds)
            lines.append(f"  {expected.build.name}: {readable(expected.size_bytes)}, about {took}{where}")
        lines += [f"  {build.name}: size and time are not known before its first build" for build in self.unknown]
        return [*lines, self._time]

    @property
    def _time(self) -> str:
        parts = {
            "building": self.building_s,
            "the model": self.preparing_s or 0.0,
            "conversions": self.converting_s,
            "measuring": self.measuring_s,
        }
        told = ", ".join(f"{what} {readable_duration(seconds)}" for what, seconds in parts.items() if seconds >= 1)
        left_out = [build.name for build in self.unknown] + (["the download"] if self.preparing_s is None else [])
        more = f", and {', '.join(left_out)} beside" if left_out else ""
        return f"this will take about {readable_duration(sum(parts.values()))}{more} (rough): {told or 'nothing'}"


def effort_of(
    suite: Suite, plan: Plan, outlook: Outlook, launcher: Launcher, probe: Image | None, models: Path
) -> Effort:
    """Looks at what is built and at what earlier builds and conversions took.

    Args:
        probe: the image that will measure the device, if that is to be done.
    """
    builds = [*_builds(plan, outlook, launcher, probe)]
    expected, unknown = BuildLog().expected(builds)
    prompts = suite.samples or TYPICAL_PROMPTS
    conversions_s = {
        artifact: conversion_estimate_s(outlook.weights_bytes, earlier_rate(models, artifact))
        for artifact in outlook.to_convert
    }
    return Effort(
        builds=expected,
        unknown=unknown,
        preparing_s=preparing_estimate_s(outlook.model.action, outlook.model.bytes_expected, outlook.weights_bytes),
        converting_s=sum(conversions_s.values()),
        measuring_s=measuring_estimate_s(plan, suite, outlook.weights_bytes, prompts, probed=probe is not None),
        conversions_s=conversions_s,
        cells_s=cell_estimates_s(plan, suite, outlook.weights_bytes, prompts),
    )


def _builds(plan: Plan, outlook: Outlook, launcher: Launcher, probe: Image | None) -> Iterable[Build]:
    beside = {job.image.name: job.image for job in plan.own_error}.values() if plan.jobs else ()
    measuring = [*plan.images, *beside, *([probe] if probe is not None and plan.jobs else [])]
    for image in measuring:
        yield from launcher.builds(image, "measure", plan.device)
    if plan.loads:
        yield from launcher.client_builds(plan.device)
    for artifact in outlook.to_convert:
        yield from launcher.builds(outlook.makers[artifact].image, "convert", plan.device)


def earlier_rate(models: Path, artifact: str) -> float | None:
    """Bytes of weights converted to such an artifact in a second, of the largest model of this folder that has one;
    ``None`` where none has."""
    found: list[tuple[int, float]] = []
    for path in models.glob(f"*/{artifact}/{layout.ARTIFACT_FILE}"):
        try:
            made = ArtifactRecord.read(path)
            source = ArtifactRecord.read(path.parent.with_name(layout.HF_ARTIFACT) / layout.ARTIFACT_FILE)
        except BadInput:  # somebody else's, or half written
            continue
        if made.given is None and made.seconds > 0:
            found.append((source.size_bytes, source.size_bytes / made.seconds))
    return max(found)[1] if found else None
