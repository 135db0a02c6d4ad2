"""What builds cost in time and disk: as they took on this machine, or before that, where the suite is made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from bench_core.contract.errors import BadInput
from bench_core.contract.records.record import Record
from bench_core.drive.plan.catalogue import REPOSITORY
from bench_core.prepare.staging import locked
from bench_core.system.files import write_text

MEASURED_HERE = REPOSITORY / "build" / "builds.json"
# Of the same form: a machine's file, copied here, is what all others begin with.
MEASURED_ELSEWHERE = REPOSITORY / "docker" / "builds.json"


class BuildCost(Record):
    """One image or environment, as it was last made.

    Attributes:
        size_bytes: beyond what it stands on.
        whole_s: seconds from nothing but what it stands on.
        again_s: seconds where only the suite's or the adapter's code had changed; ``None`` where that was never done.
        pins: digest of what it installs; empty where it was measured elsewhere.
    """

    size_bytes: int = Field(ge=0)
    whole_s: float = Field(ge=0)
    again_s: float | None = Field(None, ge=0)
    pins: str = ""


class BuildCosts(Record):
    """The file: what was built, by name, and in words on what."""

    machine: str = ""
    builds: dict[str, BuildCost] = {}

    @classmethod
    def read_if_there(cls, path: Path) -> BuildCosts:
        """An empty one where there is none that can be read: it is for an estimate."""
        try:
            return cls.read(path)
        except BadInput:
            return cls()


@dataclass(frozen=True)
class Build:
    """Something to be made.

    Attributes:
        name: ``torch:cpu``, or an environment's.
        pins: digest of what it installs; where it is that of the last build, little is done again.
        instead: names of builds that together are like it, where it was never made.
    """

    name: str
    pins: str
    instead: tuple[str, ...] = ()


class BuildBegins(str):
    """News that a build begins, in the words that people read.

    Attributes:
        build: its name.
    """

    build: str

    def __new__(cls, text: str, build: Build) -> BuildBegins:
        """Of these words."""
        made = super().__new__(cls, text)
        made.build = build.name
        return made


@dataclass(frozen=True)
class Expected:
    """What a build will roughly take; ``here``: as it took on this machine."""

    build: Build
    size_bytes: int
    seconds: float
    here: bool


class BuildLog:
    """Keeps what builds took, and tells what they will take."""

    def __init__(self, here: Path = MEASURED_HERE, elsewhere: Path = MEASURED_ELSEWHERE) -> None:
        self._here = here
        self._elsewhere = elsewhere

    def keep(self, build: Build, size_bytes: int, seconds: float, *, cached: bool) -> None:
        """Notes what a build took. A file that cannot be written is not: a build does not fail for its estimate.

        Args:
            cached: some of its steps had been done before.
        """
        with contextlib.suppress(OSError, BadInput), locked(self._here.parent, self._here.name):
            costs = BuildCosts.read_if_there(self._here)
            before = costs.builds.get(build.name) or self._known_elsewhere().get(build.name)
            whole_s, again_s = seconds, before.again_s if before is not None else None
            if cached:
                whole_s, again_s = max(seconds, before.whole_s if before is not None else 0.0), seconds
            cost = BuildCost(size_bytes=max(size_bytes, 0), whole_s=whole_s, again_s=again_s, pins=build.pins)
            builds = {**costs.builds, build.name: cost}
            write_text(self._here, costs.model_copy(update={"builds": builds}).to_json())

    def expected(self, builds: Iterable[Build]) -> tuple[list[Expected], list[Build]]:
        """Of each build what it will take, and those of which nobody knows."""
        here, elsewhere = BuildCosts.read_if_there(self._here).builds, self._known_elsewhere()
        found: list[Expected] = []
        unknown: list[Build] = []
        for build in dict.fromkeys(builds):
            cost = here.get(build.name)
            if cost is not None:
                again = cost.pins == build.pins and cost.again_s is not None
                found.append(Expected(build, cost.size_bytes, cost.again_s or 0.0 if again else cost.whole_s, True))
                continue
            parts = [elsewhere.get(name) for name in build.instead or (build.name,)]
            known = [part for part in parts if part is not None]
            if len(known) < len(parts):
                unknown.append(build)
                continue
            size_bytes, seconds = sum(part.size_bytes for part in known), sum(part.whole_s for part in known)
            found.append(Expected(build, size_bytes, seconds, False))
        return found, unknown

    def _known_elsewhere(self) -> dict[str, BuildCost]:
        return BuildCosts.read_if_there(self._elsewhere).builds
