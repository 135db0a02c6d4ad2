"""The options of ``python -m bench_core.report``, and which go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bench_core.contract.errors import BadInput
from bench_core.report.decide.cost import Prices
from bench_core.report.decide.wanted import EXAMPLE

RunFolders = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN",
        help="The run's folder: results/<run>. Several: one page that lays them side by side, see --out.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder of the report. Default: the run's folder. Of several runs a file, PAGE.html or PAGE.md.",
        show_default=False,
    ),
]
Embed = Annotated[
    Path | None,
    typer.Option("--embed", help="Write only this: the run's tables into a page's marked blocks.", show_default=False),
]
Check = Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if report.md or a CSV differs.")]
WithoutPrompts = Annotated[
    bool, typer.Option("--without-prompts", help="With --publish: leave the prompts' token ids out.")
]
Unfinished = Annotated[
    bool, typer.Option("--unfinished", help="With --publish: though planned cells have not been reached yet.")
]
Publish = Annotated[
    Path | None,
    typer.Option(
        "--publish",
        metavar="FOLDER",
        help="Copy the run there, raw events compressed, without what is private, and verify the copy.",
        show_default=False,
    ),
]
Choose = Annotated[
    str | None,
    typer.Option(
        "--choose",
        metavar="LIMITS",
        help=f"Write nothing; show which method to take within limits: {EXAMPLE}. Exit with 1 if none fits.",
        show_default=False,
    ),
]
Export = Annotated[
    Path | None,
    typer.Option(
        "--export",
        metavar="FOLDER",
        help="Write only this: the run's cells, batches and requests for other programs.",
        show_default=False,
    ),
]
ExportFormat = Annotated[
    str,
    typer.Option(
        "--export-format", help="With --export: of parquet, csv, json and llm-d these alone.", show_default="all"
    ),
]
GpuHourPrice = Annotated[
    float | None,
    typer.Option(help="Price of an hour of the device: adds the cost of a million output tokens.", show_default=False),
]
KwhPrice = Annotated[
    float | None, typer.Option(help="Price of a kWh: adds the cost of the device's energy.", show_default=False)
]
Currency = Annotated[str, typer.Option(help="Of the prices, a word for headings, as EUR.", show_default=False)]


@dataclass(frozen=True)
class Asked:
    """What was asked for. Of ``embed``, ``check``, ``publish_to``, ``choose`` and ``export_to`` at most one is."""

    runs: Sequence[Path]
    out: Path | None
    embed: Path | None
    check: bool
    publish_to: Path | None
    without_prompts: bool
    unfinished: bool
    choose: str | None
    export_to: Path | None
    export_format: str
    prices: Prices

    def require_sense(self) -> None:
        """Refuses options that do not go together.

        Raises:
            BadInput: they do not.
        """
        modes = self._modes()
        if len(modes) > 1:
            raise BadInput(f"{modes[0]} and {modes[1]} do not go together", "one of them at a time")
        mode = modes[0] if modes else ""
        if self.prices and mode not in ("", "--choose"):
            raise BadInput("prices go with a report or with --choose", "leave them out")
        if self.out is not None and mode not in ("", "--check"):
            raise BadInput(f"{mode} does not write a report, and --out is where one goes", "leave out --out")
        for option, given, goes_with in (
            ("--without-prompts", self.without_prompts, "--publish"),
            ("--unfinished", self.unfinished, "--publish"),
            ("--export-format", bool(self.export_format), "--export"),
        ):
            if given and mode != goes_with:
                raise BadInput(f"{option} goes with {goes_with}")
        if len(self.runs) > 1:
            self._require_a_page(mode)
        elif self.out is not None and self.out.suffix in (".html", ".md"):
            raise BadInput(f"--out {self.out}: of one run it is a folder", "a page of several runs takes several RUN")

    def _modes(self) -> list[str]:
        given = {
            "--choose": self.choose is not None,
            "--publish": self.publish_to is not None,
            "--export": self.export_to is not None,
            "--check": self.check,
            "--embed": self.embed is not None,
        }
        return [name for name, is_given in given.items() if is_given]

    def _require_a_page(self, mode: str) -> None:
        if mode:
            raise BadInput(f"several runs make one page and nothing else, and {mode} is of one run", "name one run")
        if self.out is None:
            raise BadInput("several runs make one page, which belongs to none of them", "say where: --out PAGE.html")
