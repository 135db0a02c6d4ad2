"""``python -m bench_core.drive.images``: the engines that there are, their variants, where they run, what is built."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

import docker.errors
import typer
from rich.console import Console
from rich.table import Table

from bench_core.contract.errors import BadInput, first_line
from bench_core.contract.manifest import DeviceKind
from bench_core.contract.outcome import EXIT_OK
from bench_core.drive.catalogue import Catalogue, Image
from bench_core.drive.cli import refuse
from bench_core.drive.docker_endpoint import connect
from bench_core.drive.docker_images import ImageBuilder
from bench_core.drive.progress import printable

_DEVICE_WORDS: dict[DeviceKind, str] = {"cuda": "GPU", "cpu": "CPU"}
IsBuilt = Callable[[Image, DeviceKind], bool]


def _runs_on(devices: Iterable[DeviceKind]) -> str:
    return ", ".join(_DEVICE_WORDS[device] for device in devices)


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


def show() -> None:
    """List the engines: variants (* is taken where none is named), devices, what is built here, how many options."""
    catalogue = Catalogue()
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


def main() -> None:
    """Runs the command line; a misuse is a line of cause, a line of hint, and exit code 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(show)
    try:
        typer.main.get_command(app).main(prog_name="python -m bench_core.drive.images", standalone_mode=False)
    except BadInput as error:
        refuse(error)
    except typer.TyperException as error:
        refuse(BadInput(error.format_message(), "see --help"))
    sys.exit(EXIT_OK)


if __name__ == "__main__":
    main()
