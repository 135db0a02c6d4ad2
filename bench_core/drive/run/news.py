"""What a call says beside its progress: notes, the plan, checks, and the report with its table at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

import click
from rich.console import Console

from bench_core.contract.records.outcome import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from bench_core.drive.ask.request import Modes
from bench_core.drive.plan.effort import Effort
from bench_core.drive.plan.outlook import Outlook
from bench_core.drive.plan.plan import Plan
from bench_core.drive.run.execute import Finished
from bench_core.drive.run.progress import printable
from bench_core.drive.run.visit import point_latest
from bench_core.report.format import quantity

_PLAIN_WIDTH = 120  # of the table where standard output is no terminal


class News:
    """Of one call: for a person on the console, or as JSON lines on standard output."""

    def __init__(self, modes: Modes) -> None:
        self._modes = modes
        width = None if sys.stdout.isatty() else _PLAIN_WIDTH
        self._console = Console(stderr=modes.as_json, highlight=False, width=width)

    def say(self, text: str) -> None:
        """A line of news before there is a display."""
        if self._modes.as_json:
            sys.stdout.write(json.dumps({"type": "note", "text": text}) + "\n")
        else:
            self._print([text])

    def plan(self, plan: Plan, words: list[str]) -> None:
        """What is about to be done."""
        if self._modes.as_json:
            news = {"type": "plan", "cells": list(plan.to_measure), "words": words}
            sys.stdout.write(json.dumps(news) + "\n")
        else:
            self._print(words)

    def ask(self, plan: Plan, outlook: Outlook, effort: Effort) -> None:
        """Asks a person at a terminal before a build or a download; anything else goes ahead."""
        if self._modes.yes or self._modes.as_json or not sys.stdin.isatty() or not (outlook.downloads or effort.images):
            return
        first = [f"build {effort.images}"] if effort.images else []
        first += [f"download {', '.join(outlook.downloads)}"] if outlook.downloads else []
        last = "check" if self._modes.self_check else f"measure {quantity(len(plan.to_measure), 'cell')}"
        question = f"{', '.join(first)} and {last}?"
        if not click.confirm(question, default=True):
            raise click.exceptions.Exit(EXIT_INTERRUPTED)

    def finish(self, finished: Finished, *, resume: str, sizes_searched: bool) -> None:
        """Writes the report and shows the table; ``resume`` is what to type for cells that are not measured yet."""
        from bench_core.report.tables.glance import fastest_lines  # noqa: PLC0415
        from bench_core.report.tables.serving.glance import first_lines  # noqa: PLC0415
        from bench_core.report.write.console import console_tables  # noqa: PLC0415
        from bench_core.report.write.files import write_report  # noqa: PLC0415
        from bench_core.report.write.narrow import fitted  # noqa: PLC0415
        from bench_core.runs.load import load_run  # noqa: PLC0415  # drawing is not needed before

        paths = write_report(finished.run_folder)
        if self._modes.as_json:
            verdicts = {cell: verdict.model_dump(mode="json") for cell, verdict in finished.all_verdicts.items()}
            news = {"type": "run_ended", "run": str(finished.run_folder), "verdicts": verdicts}
            if sizes_searched:
                found = load_run(finished.run_folder).max_batches
                news["max_batch"] = {one.method: {"largest": one.largest, "problem": one.problem} for one in found}
            sys.stdout.write(json.dumps({**news, "report": str(paths.markdown)}) + "\n")
            return
        view = load_run(finished.run_folder)
        for shown in console_tables(view):
            self._console.print(fitted(shown, self._console))
        latest = point_latest(finished.run_folder)
        pending = sum(row.pending for row in view.every)
        lines = [
            *fastest_lines(view),
            *first_lines(view),
            f"Report, for a browser: {paths.page}",
            f"The same as text: {paths.markdown}",
            *([f"The last run is always at {latest}"] if latest is not None else []),
            *([f"{quantity(pending, 'cell')} not measured yet. Go on with: {resume}"] if pending else []),
        ]
        self._print(lines)

    def checks(self, checks: dict[str, list[str]]) -> int:
        """Shows the checks of a self-check; returns the exit code."""
        failed = 0
        for title, lines in checks.items():
            for line in lines:
                check = json.loads(line)
                failed += check["outcome"] == "failed"
                text = f"{title}  {check['name']}: {check['outcome']}" + (
                    f" ({check['detail']})" if check["detail"] else ""
                )
                if self._modes.as_json:
                    sys.stdout.write(json.dumps({**check, "job": title}) + "\n")
                else:
                    self._print([text])
        return EXIT_FAILED if failed else EXIT_OK

    def _print(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._console.print(printable(line), markup=False, soft_wrap=True)
