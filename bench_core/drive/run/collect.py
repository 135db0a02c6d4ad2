"""Judging a launch: the worker's verdict on each cell where it could speak, the driver's where it could not."""

from __future__ import annotations

import contextlib
from pathlib import Path

from bench_core.contract.errors import BadInput, MachineFailure, shortened
from bench_core.contract.records import layout
from bench_core.contract.records.events import TelemetryEvent, parse_events
from bench_core.contract.records.outcome import (
    EXIT_BAD_INPUT,
    EXIT_MACHINE,
    INTERRUPTED,
    MemoryEvidence,
    Outcome,
    Verdict,
)
from bench_core.contract.records.record import Record
from bench_core.drive.launch.launcher import Ended
from bench_core.runs.files import Unreadable, read_record
from bench_core.system.files import sync_folder, write_text

# The worker states its causes itself; a line of this kind may also be an engine's.
_LONGEST_CAUSE = 1000


def write_record(path: Path, record: Record) -> None:
    """Writes a record atomically; what UTF-8 cannot hold (a lone surrogate of an engine's text) stands as an escape."""
    write_text(path, record.to_json())


def read_verdict(run_folder: Path, cell: str) -> Verdict | None:
    """A cell's verdict, if it has one that can be read; ``ok`` counts only together with a result."""
    folder = layout.cell_folder(run_folder, cell)
    try:
        verdict = read_record(run_folder, folder / layout.OUTCOME_FILE, Verdict)
    except (Unreadable, OSError):
        return None
    if verdict is None or (verdict.outcome is Outcome.OK and not (folder / layout.RESULT_FILE).is_file()):
        return None
    return verdict


def judge(run_folder: Path, cells: list[str], ended: Ended, *, interrupted: bool = False) -> dict[str, Verdict]:
    """Verdicts after a launch, in the order of ``cells``; cells that were not reached are left out.

    A worker judges its cells itself. If its box died before it could, the first cell without a verdict is the one in
    hand and gets the driver's; if not even that one was begun, the failure is the box's, and all cells get it. Where
    the worker says that the machine failed, no cell gets a verdict of it: they are still to come.

    Args:
        interrupted: somebody asked twice to stop, so that the driver itself ended the box.
    """
    verdicts = {cell: verdict for cell in cells if (verdict := read_verdict(run_folder, cell)) is not None}
    silent = [cell for cell in cells if cell not in verdicts]
    if not silent or ended.exit_code == EXIT_MACHINE:
        return verdicts
    folder = layout.cell_folder(run_folder, silent[0])
    begun = folder.is_dir()
    if interrupted and not begun:  # it was not reached, and nothing ended it
        return verdicts
    verdict = _on_silence(ended, folder if begun else None, interrupted=interrupted)
    for cell in silent[:1] if begun or verdicts else silent:
        folder = layout.cell_folder(run_folder, cell)
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / layout.LOG_FILE
        if not log.exists():  # renamed into place: a link of that name is replaced, not followed
            write_text(log, ended.stderr_tail)
        write_record(folder / layout.OUTCOME_FILE, verdict)
        verdicts[cell] = verdict
    return verdicts


def _on_silence(ended: Ended, begun: Path | None, *, interrupted: bool) -> Verdict:
    """The verdict on a box that left none; ``begun`` is the folder of the cell in hand."""
    evidence = {"last_line": last_line(ended.stderr_tail), **(_memory_told(begun).words if begun else {})}
    if ended.removed:
        evidence["removed"] = shortened(", ".join(ended.removed), 300)
    if interrupted:
        outcome, cause = Outcome.KILLED, INTERRUPTED
    elif ended.never_ran:  # nothing that the cell did
        outcome, cause = Outcome.KILLED, stated_cause(ended.stderr_tail)
    elif ended.exit_code == EXIT_BAD_INPUT:
        outcome, cause = Outcome.BAD_SPEC, stated_cause(ended.stderr_tail)
    elif ended.silent:
        outcome, cause = Outcome.TIMEOUT, "the container said nothing any more, not even its supervisor, and was ended"
    elif ended.engine_lost:
        outcome, cause = Outcome.KILLED, "the Docker engine went away, and the container with it"
    elif ended.out_of_memory:
        # The supervisor itself was ended, else it would have told. A cell is begun once the model is loaded.
        outcome = Outcome.OOM_KV if begun else Outcome.OOM_LOAD
        cause = "the kernel ended the container at its memory limit"
    elif ended.exit_code == Outcome.KILLED.worker_exit_code:  # no process to be had, its folder is gone
        outcome, cause = Outcome.KILLED, stated_cause(ended.stderr_tail)
    elif ended.exit_code in (137, -9, 143, -15):
        outcome, cause = Outcome.KILLED, f"the container was ended from outside (code {ended.exit_code})"
    else:
        outcome, cause = Outcome.CRASHED, f"the container ended with code {ended.exit_code} and left no verdict"
    return Verdict(outcome=outcome, cause=cause, judged_by="driver", exit_code=ended.exit_code, evidence=evidence)


def _memory_told(folder: Path) -> MemoryEvidence:
    """The last and the highest samples in the log of a cell whose box has died, as far as it can be read."""
    host: list[int] = []
    device: list[int] = []
    # The line in hand may be cut, and samples of the last moments were not written any more.
    with contextlib.suppress(OSError, BadInput), (folder / layout.EVENTS_FILE).open("rb") as stream:
        for event in parse_events(stream, layout.EVENTS_FILE):
            if isinstance(event, TelemetryEvent):
                host += [value for value in event.rss_bytes if value]
                device += [value for value in event.device_used_bytes or () if value is not None]
    return MemoryEvidence(*_last_and_highest(host), *_last_and_highest(device))


def _last_and_highest(values: list[int]) -> tuple[int | None, int | None]:
    return (values[-1], max(values)) if values else (None, None)


def set_aside(run_folder: Path, *cells: str) -> None:
    """Moves what there is of these cells out of the way, whole, before they are measured again."""
    for cell in cells:
        _set_aside(run_folder, cell)


def _set_aside(run_folder: Path, cell: str) -> None:
    folder = layout.cell_folder(run_folder, cell)
    if not folder.exists() and not folder.is_symlink():
        return
    home = run_folder / layout.SET_ASIDE_FOLDER
    home.mkdir(exist_ok=True)
    number = 1
    while (home / f"{cell}.{number}").exists():
        number += 1
    folder.rename(home / f"{cell}.{number}")
    sync_folder(home)
    sync_folder(folder.parent)


def stated_cause(text: str) -> str:
    """The worker's own ``error: ...`` line, or its last line."""
    stated = [line.removeprefix("error: ") for line in text.splitlines() if line.startswith("error: ")]
    return shortened(stated[-1], _LONGEST_CAUSE) if stated else last_line(text)


def last_line(text: str) -> str:
    """The last line that says anything, shortened, printable."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return shortened("".join(char if char.isprintable() else "?" for char in lines[-1]), 300) if lines else ""


def require_there(run_folder: Path) -> None:
    """The run's folder is still there.

    Raises:
        MachineFailure: somebody has removed the run's folder.
    """
    if not (run_folder / layout.RUN_FILE).is_file():
        raise MachineFailure(f"{run_folder} was removed while the run was measured", "start a new run")
