"""The command that measures a cell once more."""

from __future__ import annotations

import shlex

from bench_core.contract.asked.scenario import Offline, Scenario
from bench_core.contract.records.run import PlannedCell
from bench_core.runs.view import RunView


def repeat_command(view: RunView, cell: PlannedCell) -> str:
    """The driver's command line for one cell. Where a run was of a folder of its maker's, only its name is known."""
    record, workload = view.record, view.record.workload
    made = record.engine_versions.get(cell.image)
    words = [
        *(["--engine-version", f"{made.image}={made.version}"] if made is not None else []),
        "--images", cell.image, "--variants", f"{cell.image}.{cell.variant}",
        "--model", record.model.name, "--dataset", workload.name, "--samples", str(workload.prompts),
        "--sample-order", "dataset" if workload.sample_seed is None else "shuffled",
        *(["--sample-seed", str(workload.sample_seed)] if workload.sample_seed else []),
        *(["--shared-prefix-tokens", str(workload.shared_prefix_tokens)] if workload.shared_prefix_tokens else []),
        "--max-new-tokens", str(record.max_new_tokens), "--length", record.length, "--device", record.device,
        # What a person started by hand, the driver can start in either way.
        *(["--launcher", record.launcher] if record.launcher != "standalone" else []),
        *(["--gpus-per-cell", str(cell.gpus)] if cell.gpus > 1 else []),
        *_of_scenario(cell.scenario),
    ]  # fmt: skip
    return shlex.join(["python", "-m", "bench_core.drive", *words])


def _of_scenario(scenario: Scenario) -> list[str]:
    if isinstance(scenario, Offline):
        return ["--batch-sizes", str(scenario.batch_size)]
    if scenario.concurrency is not None:
        return ["--concurrency", str(scenario.concurrency)]
    if scenario.request_rate is not None:
        return ["--request-rate", f"{scenario.request_rate:.12g}", "--arrivals", scenario.arrivals]
    return ["--trace", "TRACE.jsonl"]
