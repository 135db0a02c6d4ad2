"""A launcher of several cards, and a run's folder with two prompts, for tests of the core that measure nothing."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from bench_core.contract.records import layout
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.contract.records.workload import Workload
from bench_core.drive.launch.launcher import Ended, Launch
from bench_core.drive.material.prepared import Prepared
from bench_core.drive.run.collect import write_record
from bench_core.prepare.models.model import ModelRequest, prepare_model


class Together:
    """A launcher whose launches wait until one runs on every worker."""

    name = "docker"

    def __init__(self, workers: int) -> None:
        self._meet = threading.Barrier(workers, timeout=30.0)
        self.launched: list[Launch] = []

    def run(self, launch: Launch, _take: Any) -> Ended:
        self.launched.append(launch)
        self._meet.wait()
        assert launch.folders.run is not None
        for cell in launch.labels["cells"].split(","):
            folder = layout.cell_folder(launch.folders.run, cell)
            folder.mkdir(parents=True)
            write_record(folder / layout.OUTCOME_FILE, Verdict(outcome=Outcome.UNSUPPORTED, judged_by="worker"))
        now = time.monotonic()
        return Ended(13, False, "", now, now)


def two_prompts(tmp_path: Path) -> tuple[Prepared, Path]:
    """A tiny model with two prompts, and the folder of a run that has begun."""
    model = prepare_model(ModelRequest(name="synthetic/tiny"), tmp_path / "models")
    prompts = ((5, 6, 7), (8, 9))
    workload = Workload(
        name="two", tokenizer="byte-level", max_prompt_tokens=3, truncated=0, dropped_empty=0, duplicates=0,
        digest=prompts_sha256(prompts), prompts=prompts,
    )  # fmt: skip
    run = tmp_path / "run"
    run.mkdir()
    (run / layout.RUN_FILE).write_text("{}", encoding="utf-8")
    return Prepared(model, tmp_path, workload, tmp_path / "w.json"), run
