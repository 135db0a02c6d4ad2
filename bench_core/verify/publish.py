"""A copy of a run that others may have: small, the same bytes whenever it is made, and verified."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from pathlib import Path

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.digest import file_sha256
from bench_core.contract.records.run import RunRecord
from bench_core.report.write.files import write_report
from bench_core.runs.files import check_inside, log_path
from bench_core.runs.plan import beside_the_plan
from bench_core.verify.cells import NEVER_REACHED, RAW_FOLDERS, raw_files
from bench_core.verify.differences import Difference
from bench_core.verify.run import verify_run

_RECORDS = (layout.SPEC_FILE, layout.OUTCOME_FILE, layout.RESULT_FILE)
_PRIVATE = (layout.SUITE_FILE, layout.LOG_FILE)


class NotVerified(Exception):
    """A run, or the copy of it, does not agree with itself."""

    def __init__(self, differences: tuple[Difference, ...]) -> None:
        super().__init__(f"{len(differences)} differences")
        self.differences = differences


def publish(run_folder: Path, target: Path, *, prompts: bool = True, unfinished: bool = False) -> list[Path]:
    """Copies a run into a new folder, makes its report there from the copied events, and verifies the copy.

    Left out: ``suite.json`` (paths and words of the person who asked), ``worker.log`` (what engines print may hold
    paths and names of the machine; a failure's cause is in ``outcome.json``), and what was set aside.

    Args:
        prompts: keep the prompts' token ids. Without them the copy can still be verified, but not that the ids given
            to the engines were those of the workload.
        unfinished: planned cells may be missing that were never reached; the copy's list of digests then tells them
            from cells that somebody takes away.

    Returns:
        All files of the copy.

    Raises:
        BadInput: not a run, or the target is there or cannot be written.
        NotVerified: the run itself or the copy has differences; nothing is left at the target.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInput(f"{target} is there already", "name a folder that does not exist")
    before = verify_run(run_folder, published=False)
    found = tuple(d for d in before.differences if not (unfinished and d.what == NEVER_REACHED))
    if found:
        raise NotVerified(found)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise BadInput(f"{target}: {error.strerror or error}", "name a folder that can be written") from error
    try:
        _copy(run_folder, scratch, prompts)
        write_report(scratch)
        after = verify_run(scratch)
        if after.differences:
            raise NotVerified(after.differences)
        scratch.chmod(0o755)  # mkdtemp's 0700 would hide a published run
        if target.exists():
            target.rmdir()
        scratch.rename(target)
    except OSError as error:
        raise BadInput(f"{target}: {error.strerror or error}", "is there room, and may it be written?") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return sorted(path for path in target.rglob("*") if path.is_file())


def _copy(run_folder: Path, target: Path, prompts: bool) -> None:
    names = [layout.RUN_FILE, layout.BESIDE_FILE, *([layout.WORKLOAD_FILE] if prompts else [])]
    for name in names:
        if (run_folder / name).exists():
            check_inside(run_folder, run_folder / name)
            shutil.copyfile(run_folder / name, target / name)
    record = RunRecord.read(run_folder / layout.RUN_FILE)
    for planned in (*record.cells, *beside_the_plan(record)):
        source = layout.cell_folder(run_folder, planned.cell)
        if not source.exists():
            continue
        folder = layout.cell_folder(target, planned.cell)
        folder.mkdir(parents=True)
        for name in _RECORDS:
            if (source / name).exists():
                check_inside(run_folder, source / name)
                shutil.copyfile(source / name, folder / name)
        log = log_path(source)
        if log is not None:
            check_inside(run_folder, log)
            _pack(log, folder / layout.COMPRESSED_EVENTS_FILE)
    for name in RAW_FOLDERS:
        _copy_records(run_folder, run_folder / name, target)
    lines = [f"{file_sha256(path)}  {path.relative_to(target).as_posix()}\n" for path in raw_files(target)]
    (target / layout.DIGESTS_FILE).write_text("".join(lines), encoding="utf-8")


def _copy_records(run_folder: Path, source: Path, target: Path) -> None:
    """Records and event logs below a folder of the run, to the same places of the copy."""
    for path in sorted(source.rglob("*")):
        if path.is_dir() or path.name in _PRIVATE or path.suffix not in (".json", ".jsonl", ".gz"):
            continue
        check_inside(run_folder, path)
        place = target / path.relative_to(run_folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.name == layout.EVENTS_FILE:
            _pack(path, place.with_name(layout.COMPRESSED_EVENTS_FILE))
        else:
            shutil.copyfile(path, place)


def _pack(log: Path, target: Path) -> None:
    """Compresses without a name and a time, so that the same log gives the same bytes; a packed log stays as it is."""
    if log.suffix == ".gz":
        shutil.copyfile(log, target)
        return
    with (
        log.open("rb") as source,
        target.open("wb") as stream,
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=stream, mtime=0) as packed,
    ):
        shutil.copyfileobj(source, packed, 1 << 20)
