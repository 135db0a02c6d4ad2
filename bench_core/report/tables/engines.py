"""Engines: what they ran in, what they told of how they ran, cells that were disturbed, and cells without numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench_core.contract.records.outcome import MARKED
from bench_core.contract.records.run import ImageInfo
from bench_core.report.cell import Cell, measured
from bench_core.report.column import Column, Sheet, sheet
from bench_core.report.format import ABSENT, NOT_TOLD
from bench_core.runs.view import Ended, RunView
from bench_core.system.text import foreign


@dataclass(frozen=True)
class _Image:
    """An image of the plan. ``versions``: of packages, as each of its measured cells told them."""

    name: str
    infos: list[ImageInfo]
    versions: list[dict[str, str]]


def _versions(image: _Image) -> str | None:
    """Each package with its versions; there are several where visits differ."""
    words = (
        f"{name} {' / '.join(sorted({foreign(told[name]) for told in image.versions if name in told}))}"
        for name in sorted({name for told in image.versions for name in told})
    )
    return ", ".join(words) or None


_IMAGES: Sequence[Column[_Image]] = [
    Column("Image", "name", words=True),
    Column(
        "Ran in",
        lambda image: " / ".join(dict.fromkeys(foreign(info.reference) for info in image.infos)) or "not recorded",
        words=True,
    ),
    Column(
        "Id",
        lambda image: " / ".join(dict.fromkeys(info.id.removeprefix("sha256:")[:12] for info in image.infos)) or ABSENT,
        words=True,
    ),
    Column("Versions", _versions, absent="not known: none of its cells was measured", words=True),
]


def images_sheet(view: RunView) -> Sheet:
    """What each engine ran in, and versions; below it what an image tells of itself, as its last visit had it."""
    told = [(row.planned.image, row.result.versions) for row in view.rows if row.result]
    told += [(row.planned.image, row.result.versions) for row in view.served if row.result]
    images = [
        _Image(
            name,
            [visit.images[name] for visit in view.record.all_visits if name in visit.images],
            [versions for image, versions in told if image == name],
        )
        for name in dict.fromkeys(row.planned.image for row in view.every)
    ]
    noted: dict[str, list[str]] = {}  # versions of one engine tell the same
    for image in images:
        if image.infos and image.infos[-1].notes:
            noted.setdefault(image.infos[-1].notes, []).append(image.name)
    return sheet("Engines", _IMAGES, images, [f"{', '.join(names)}: {text}" for text, names in noted.items()])


@dataclass(frozen=True)
class _Told:
    """What an engine told of how it ran, once for all batch sizes where it told the same."""

    label: str
    artifact: str
    facts: str
    sizes: list[int]


_TOLD: Sequence[Column[_Told]] = [
    Column("Method", "label", words=True),
    Column("Batch sizes", lambda told: ", ".join(map(str, told.sizes)), words=True),
    Column("Artifact", "artifact", words=True),
    Column("What the engine told", "facts", words=True),
]


def engines_sheet(view: RunView) -> Sheet:
    """What the engines told of how they ran."""
    told: dict[tuple[str, str, str], list[int]] = {}
    for cell in measured(view):
        words = (_words(cell.row.result.engine_facts) if cell.row.result else "") or NOT_TOLD
        told.setdefault((cell.row.label, _artifact(cell), words), []).append(cell.row.planned.batch_size)
    return sheet("How the engines ran", _TOLD, [_Told(*key, sizes) for key, sizes in told.items()])


@dataclass(frozen=True)
class _ServerTold:
    """The same of a server, once for all load points."""

    label: str
    facts: str
    loads: list[str]


_SERVER_TOLD: Sequence[Column[_ServerTold]] = [
    Column("Method", "label", words=True),
    Column("Load points", lambda told: ", ".join(dict.fromkeys(told.loads)), words=True),
    Column("What was told of the server", "facts", words=True),
]


def servers_sheet(view: RunView) -> Iterator[Sheet]:
    """How the servers ran, where an image tells it of its own."""
    told: dict[tuple[str, str], list[str]] = {}
    for row in view.served:
        words = _words(row.result.engine_facts) if row.result else ""
        if words:
            told.setdefault((row.label, words), []).append(row.load.mark)
    if told:
        yield sheet("How the servers ran", _SERVER_TOLD, [_ServerTold(*key, loads) for key, loads in told.items()])


def _words(facts: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {foreign(value)}" for name, value in sorted(facts.items()))


def _artifact(cell: Cell) -> str:
    """Its name, and of one that was given where it is from and what its tensors are."""
    view, row = cell.view, cell.row
    if row.spec is None:
        return ABSENT
    visit = view.visit_of(row)
    info = view.record.all_visits[visit - 1].artifacts.get(row.spec.artifact) if visit else None
    if info is None or info.given is None:
        return row.spec.artifact
    return f"{row.spec.artifact}, given: {foreign(info.given)}" + (f" ({info.tensors})" if info.tensors else "")


_MARKED: Sequence[Column[Ended]] = [
    Column("Cell", "planned.cell", words=True),
    Column("What disturbed it", lambda row: row.verdict.evidence[MARKED] if row.verdict else None, words=True),
]


def marked_sheet(view: RunView) -> Iterator[Sheet]:
    """Cells whose circumstances were not as they should be, whatever came of them."""
    rows = [row for row in view.every if row.verdict and MARKED in row.verdict.evidence]
    if rows:
        yield sheet("Marked", _MARKED, rows)
