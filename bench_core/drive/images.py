"""``python -m bench_core.drive.images``: the engines that there are, their variants, where they run, what is built."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import docker.errors
import typer
from rich.console import Console
from rich.table import Table

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.errors import BadInput, first_line
from bench_core.drive.ask.command import run_command
from bench_core.drive.launch.containers.build import ImageBuilder
from bench_core.drive.launch.containers.endpoint import connect
from bench_core.drive.plan.catalogue import Catalogue, Image
from bench_core.drive.run.progress import printable

_DEVICE_WORDS: dict[DeviceKind, str] = {"cuda": "GPU", "cpu": "CPU"}
_BLOCK = re.compile(r"(<!-- engines -->\n).*?(<!-- /engines -->)", re.DOTALL)

IsBuilt = Callable[[Image, DeviceKind], bool]


def _runs_on(devices: Iterable[DeviceKind]) -> str:
    return ", ".join(_DEVICE_WORDS[device] for device in devices)


def _variants(image: Image) -> str:
    """Their titles; where one runs on fewer devices than its image, on which."""
    words = []
    for name, entry in image.manifest.variants.items():
        devices = entry.devices or image.manifest.devices
        where = "" if tuple(devices) == tuple(image.manifest.devices) else f" ({_runs_on(devices)})"
        words.append(f"{entry.title or name}{where}")
    return "; ".join(words)


def engine_table(catalogue: Catalogue) -> str:
    """Every engine of the repository as a Markdown table, from its ``image.yaml`` alone."""
    lines = ["| engine | image | variants | runs on |", "|---|---|---|---|"]
    for name in catalogue.names:
        image = catalogue.get(name)
        runs_on = _runs_on(image.manifest.devices)
        lines.append(f"| {image.manifest.title} | `{name}` | {_variants(image)} | {runs_on} |")
    return "\n".join(lines) + "\n"


def embedded(page: str, catalogue: Catalogue) -> str:
    """The text of a page whose block between ``<!-- engines -->`` and ``<!-- /engines -->`` holds that table.

    Raises:
        BadInput: the page has no such block.
    """
    if not _BLOCK.search(page):
        raise BadInput("the page has no block of engines", "mark one by <!-- engines --> and <!-- /engines -->")
    return _BLOCK.sub(lambda marks: marks[1] + engine_table(catalogue) + marks[2], page)


def shown(catalogue: Catalogue, is_built: IsBuilt | None) -> Table:
    """The same for a terminal, with each variant's name and what is built of the image on this machine."""
    table = Table("Image", "Variant", "Title", "Runs on", "Built", "Options")
    for name in catalogue.names:
        manifest, image = catalogue.get(name).manifest, catalogue.get(name)
        built = "?" if is_built is None else _runs_on(one for one in manifest.devices if is_built(image, one)) or "no"
        options = str(len(manifest.options))
        for row, (variant, entry) in enumerate(manifest.variants.items()):
            first = (name, built, options) if row == 0 else ("", "", "")
            mark = " *" if entry.default else ""
            runs_on = _runs_on(entry.devices or manifest.devices)
            table.add_row(first[0], variant + mark, entry.title or variant, runs_on, first[1], first[2])
        table.add_section()
    return table


def _builder() -> tuple[IsBuilt | None, str]:
    """Whether an image is built and current, and why that cannot be told."""
    try:
        builder = ImageBuilder(connect())
    except BadInput as error:
        return None, error.cause
    return lambda image, device: builder.is_current(image, "measure", device), ""


def show(
    embed: Annotated[Path | None, typer.Option(help="Write the engines into this page's marked block instead.")] = None,
) -> None:
    """List the engines: variants (* is taken where none is named), devices, what is built here, how many options."""
    catalogue = Catalogue()
    if embed is not None:
        try:
            embed.write_text(embedded(embed.read_text(encoding="utf-8"), catalogue), encoding="utf-8")
        except OSError as error:
            raise BadInput(first_line(error), "name a page that can be read and written") from error
        return
    is_built, why_not = _builder()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        console.print(shown(catalogue, is_built))
    except (docker.errors.DockerException, OSError) as error:
        is_built, why_not = None, first_line(error)
        console.print(shown(catalogue, is_built))
    if why_not:
        console.print(printable(f"what is built cannot be told: {why_not}"), markup=False, soft_wrap=True)
    console.print("options in words: python -m bench_core.drive --list-options --images IMAGE", markup=False)


def main(prog_name: str = "python -m bench_core.drive.images") -> None:
    """Runs the command line; a misuse is a line of cause, a line of hint, and exit code 2."""
    run_command(show, prog_name)


if __name__ == "__main__":
    main()
