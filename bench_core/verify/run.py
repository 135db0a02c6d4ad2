"""Everything that a run publishes, computed again from its raw events, and every digest that it keeps, compared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench_core.contract.errors import BadInput, first_line
from bench_core.contract.records import layout
from bench_core.contract.records.digest import file_sha256
from bench_core.contract.records.run import RunRecord
from bench_core.runs.files import Unreadable, check_inside
from bench_core.runs.forks import side_by_side
from bench_core.runs.load import Watched, load_run
from bench_core.runs.plan import check_plan
from bench_core.runs.view import RunView
from bench_core.verify.capacity import TrialChecks
from bench_core.verify.cells import CellChecks, plan_differences, raw_files, unplanned_digests, unreached
from bench_core.verify.differences import Difference, in_cell, of_run, present
from bench_core.verify.logs import LogChecks, overlaps
from bench_core.verify.searches import search_differences
from bench_core.verify.serving import ServedChecks

_DIGEST_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


@dataclass(frozen=True)
class Verification:
    """What became of it.

    Attributes:
        run_id: of ``run.json``.
        cells: planned, the scripted engine's own included.
        differences: what does not agree; nothing where all does.
        not_checked: what the run does not keep and could therefore not be compared: one line each.
    """

    run_id: str
    cells: int
    differences: tuple[Difference, ...]
    not_checked: tuple[str, ...]


def verify_run(folder: Path, *, published: bool = True, processes: int = 1) -> Verification:
    """Verifies a run's folder. Reads nothing outside of it and writes nothing.

    Args:
        published: compare table, report, page and figures as well.
        processes: see :func:`~bench_core.runs.load.load_run`.

    Raises:
        BadInput: not a run: there is no folder, or no ``run.json`` that can be read.
    """
    if not (folder / layout.RUN_FILE).is_file():
        load_run(folder)  # says what is wrong with it, and what a run is
    record = RunRecord.read(folder / layout.RUN_FILE)
    cells = len(record.cells)
    try:
        check_plan(record, layout.RUN_FILE)
    except BadInput as error:
        what = error.cause.removeprefix(f"{layout.RUN_FILE}: ")
        return Verification(record.run_id, cells, (of_run(layout.RUN_FILE, what),), ())
    logs = Watched(LogChecks)
    # Only a page shows series; what a report needs is imported while other processes read.
    view = load_run(
        folder,
        logs,
        processes,
        series=published and present(folder / layout.PAGE_FILE),
        meanwhile=_import_report if published else None,
    )
    (found, notes), (differing, missing) = side_by_side(
        lambda: _cells_and_files(folder, view, logs.of),
        lambda: _import_report()(folder, view) if published else ([], []),
        processes,
    )
    return Verification(
        record.run_id,
        cells + len(view.own_error) + len(view.own_error_served) + len(view.alone),
        tuple(dict.fromkeys([*found, *differing])),
        (*notes, *missing),
    )


def _import_report() -> Callable[[Path, RunView], tuple[list[Difference], list[str]]]:
    from bench_core.verify.report import report_differences  # noqa: PLC0415

    return report_differences


def _cells_and_files(folder: Path, view: RunView, logs: Mapping[str, LogChecks]) -> tuple[list[Difference], list[str]]:
    """Everything but what is written of a run; also says what could not be compared."""
    found = [*_digests(folder), *plan_differences(folder, view), *_workload(view)]
    checks = CellChecks(folder, view, logs)
    checks.run()
    served = ServedChecks(folder, view)
    served.run()
    trials = TrialChecks(folder, view)
    trials.run()
    found += [*checks.found, *served.found, *trials.found, *search_differences(folder, view)]
    together = overlaps([*checks.facts, *served.facts])
    found += [in_cell(cell, layout.EVENTS_FILE, what) for cell, what in together]
    left: Counter[str] = Counter(checks.not_checked) + Counter(served.not_checked) + Counter(trials.not_checked)
    notes = [f"{what} ({count} x)" for what, count in left.items()]
    if view.workload is None and view.workload_damage is None:
        notes.append("ids given to the engines: the run does not keep its prompts; cells were compared with each other")
    if present(folder / layout.DIGESTS_FILE) and (cells_left := unreached(folder, view)):
        notes.append(f"planned cells that were not reached when this was published ({len(cells_left)} x)")
    if not view.record.visits:
        notes.append(f"visits: {layout.RUN_FILE} is an older record, which does not list them")
    return found, notes


def _workload(view: RunView) -> Iterator[Difference]:
    if view.workload_damage is not None:
        yield of_run(view.workload_damage.where, view.workload_damage.what)


def _digests(folder: Path) -> Iterator[Difference]:
    """The digests that a published run comes with, in the format of ``sha256sum``."""
    path = folder / layout.DIGESTS_FILE
    if not present(path):
        return
    try:
        check_inside(folder, path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, Unreadable) as error:
        yield of_run(layout.DIGESTS_FILE, f"cannot be read: {first_line(error)}")
        return
    listed: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = _DIGEST_LINE.fullmatch(line)
        if match is None:
            yield of_run(f"{layout.DIGESTS_FILE}:{number}", "is not a digest and a name")
        else:
            listed[match[2]] = match[1]
    there = {file.relative_to(folder).as_posix(): file for file in raw_files(folder)}
    for name, digest in listed.items():
        cell = name.split("/")[1] if name.startswith(f"{layout.CELLS_FOLDER}/") and name.count("/") == 2 else None
        if name not in there:
            yield Difference(name, cell, f"is missing; {layout.DIGESTS_FILE} names it")
            continue
        try:
            check_inside(folder, there[name])
            now = file_sha256(there[name])
        except Unreadable as error:
            yield Difference(name, cell, error.damage.what)
            continue
        except OSError as error:
            yield Difference(name, cell, error.strerror or "cannot be read")
            continue
        if now != digest:
            yield Difference(name, cell, f"sha256 is {now[:12]}, {layout.DIGESTS_FILE} has {digest[:12]}")
    for name in unplanned_digests(folder, listed):
        yield of_run(name, f"is not named in {layout.DIGESTS_FILE}")
