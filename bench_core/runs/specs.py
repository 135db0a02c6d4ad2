"""A cell's spec against the record of its run."""

from __future__ import annotations

from bench_core.contract.records import layout
from bench_core.contract.records.run import PlannedCell, RunRecord
from bench_core.contract.records.spec import CellSpec
from bench_core.runs.files import Unreadable


def check_spec(spec: CellSpec, record: RunRecord, planned: PlannedCell) -> None:
    """Rows of one table did equal work: a cell of another model, workload or length has no place in it."""
    pairs = {
        "cell": (spec.cell_id, planned.cell),
        "gpus": (spec.gpus, planned.gpus),
        "device": (spec.device, record.device),
        "model": (spec.model.digest, record.model.digest),
        "workload": (spec.workload.digest, record.workload.digest),
        "max_new_tokens": (spec.max_new_tokens, record.max_new_tokens),
        "length": (spec.length, record.length),
    }
    for name, (has, expected) in pairs.items():
        if has != expected:
            raise Unreadable(layout.SPEC_FILE, f"{name} is {has}, and {expected} in {layout.RUN_FILE}")
