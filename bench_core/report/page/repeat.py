"""The command that measures a cell once more."""

from __future__ import annotations

import shlex

from bench_core.report.decide.option import Option
from bench_core.runs.view import RunView


def repeat_command(view: RunView, option: Option) -> str:
    """The driver's command line for one cell. Where a run was of a folder of its maker's, only its name is known."""
    record = view.record
    made = record.engine_versions.get(option.image)
    words = [
        *(["--engine-version", f"{made.image}={made.version}"] if made is not None else []),
        "--images", option.image, "--variants", f"{option.image}.{option.variant}",
        "--model", record.model.name, "--dataset", record.workload.name, "--samples", str(record.workload.prompts),
        "--sample-order", "dataset" if record.workload.sample_seed is None else "shuffled",
        *(["--sample-seed", str(record.workload.sample_seed)] if record.workload.sample_seed else []),
        "--max-new-tokens", str(record.max_new_tokens), "--length", record.length, "--device", record.device,
        "--launcher", record.launcher,
    ]  # fmt: skip
    if option.batch_size is not None:
        words += ["--batch-sizes", str(option.batch_size)]
    elif option.concurrency is not None:
        words += ["--concurrency", str(option.concurrency)]
    elif option.request_rate is not None:
        words += ["--request-rate", f"{option.request_rate:g}"]
    else:
        words += ["--trace", "TRACE.jsonl"]
    return shlex.join(["python", "-m", "bench_core.drive", *words])
