"""What decides whether numbers of two runs, or of one cell in two runs, may be compared; and what may differ.

The one rule of ``bench_core.compare`` and of pages of several runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench_core.contract.records.events import NOT_INSTALLED
from bench_core.report.format import NO_GPU
from bench_core.runs.view import Row, RunView, ServedRow
from bench_core.system.text import foreign, one_line

# Of runs first, then of single cells.
OF_RUNS = ("gpu", "cpu", "model", "workload", "lengths")
_DIGESTED = ("model", "workload")  # their words end with it
OF_CELLS = ("threads", "schedule", "prefix-cache")


def run_names(folders: Sequence[Path]) -> list[str]:
    """What each run is called: by its folder's name, or where two have the same by the folder as it was given."""
    names = [one_line(folder.resolve().name) for folder in folders]
    return [
        one_line(folder.as_posix()) if names.count(name) > 1 else name
        for name, folder in zip(names, folders, strict=True)
    ]


def run_conditions(view: RunView) -> dict[str, str]:
    """By the names of ``OF_RUNS``: what must be alike for any number of the run to be compared with another run's. A
    name that does not apply is left out."""
    record = view.record
    gpus = sorted({foreign(gpu.name) for gpu in record.gpus})
    model = record.model
    split = f", {view.gpus_per_cell} for each cell" if view.gpus_per_cell > 1 else ""
    found = {
        "gpu": ", ".join(gpus) + split if gpus else NO_GPU if record.device == "cpu" else "not recorded",
        "model": f"{foreign(model.name)}, digest {model.digest[:12]}",
        "workload": f"{foreign(record.workload.name)}, {record.workload.prompts} prompts, "
        f"digest {record.workload.digest[:12]}",
        "lengths": f"{record.length}, {record.max_new_tokens} new tokens",
    }
    if record.device == "cpu":
        found["cpu"] = foreign(record.host.cpu)
    return found


def decisive(name: str, words: str) -> str:
    """What of a condition of a run has to be alike: of model and prompts the digest, whatever their file was called."""
    return words.rpartition("digest ")[2] if name in _DIGESTED else words


def run_facts(view: RunView) -> dict[str, str]:
    """By name, what may differ and is told: driver, host, suite."""
    record, visits = view.record, view.record.all_visits
    drivers = sorted({gpu.driver_version for visit in visits for gpu in visit.gpus})
    cards = {gpu.uuid for visit in visits for gpu in visit.gpus}
    hosts = {(visit.host.cpu, visit.host.cores, visit.host.system) for visit in visits}
    return {
        "date": foreign(record.created_utc),
        "suite": f"{foreign(record.bench_version)}, commit {foreign(record.git_commit or 'not known')[:12]}",
        "host": "; ".join(sorted(foreign(f"{cpu}, {cores} cores, {system}") for cpu, cores, system in hosts)),
        "driver": ", ".join(map(foreign, drivers)) or "none",
        "cards": str(len(cards)),
        "visits": str(len(visits)),
        "repeats": str(record.repeats),
    }


def cell_conditions(row: Row | ServedRow) -> dict[str, str]:
    """By the names of ``OF_CELLS``: what else must be alike for a cell's numbers; empty for one that was not
    reached."""
    spec = row.spec
    if spec is None:
        return {}
    found = {"threads": str(spec.threads)} if spec.device == "cpu" else {}
    if spec.serve is not None:
        prefix = "on" if spec.serve.prefix_cache else "off"
        # The digest of a schedule holds its length, which decides nothing; of a trace there is no seed.
        sent = (
            spec.serve.schedule[:12]
            if row.planned.scenario.word == "trace"
            else f"seed {spec.serve.protocol.arrival_seed}"
        )
        found |= {"schedule": sent, "prefix-cache": prefix}
    return found


def engine_version(versions: Mapping[str, str]) -> str:
    """Name and version of the engine among what a cell tells of its image, as ``vllm 0.26.0``: the first package that
    is installed. Empty for an image that names none."""
    packages = ((name, version) for name, version in versions.items() if name != "python")
    found = next(((name, version) for name, version in packages if version != NOT_INSTALLED), None)
    return foreign(" ".join(found)) if found else ""
