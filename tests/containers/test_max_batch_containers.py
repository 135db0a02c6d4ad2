"""``--find-max-batch`` in real containers: each trial in one of its own, none left."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import docker
import pytest
from conftest import Run

from bench_core.contract.measures.max_batch import MaxBatch
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import MemoryEvidence
from bench_core.verify.run import verify_run

pytestmark = pytest.mark.docker


def test_the_largest_batch_size_is_found_in_containers(
    run: Run, tmp_path: Path, docker_client: docker.DockerClient
) -> None:
    """Three rows fit the script's budget, and the fourth does not; what it held when it died is told."""
    script = ("--option", "null.needs_bytes_per_row=1000", "--option", "null.budget_bytes=3999")
    held = ("--option", "null.load_bytes=67108864", "--option", "null.load_s=0")
    quick = ("--samples", "8", "--max-new-tokens", "4", "--max-batches", "2")
    alone = ("--no-harness-check", "--no-device-rates")  # both have containers of their own
    since = int(time.time())
    done = run("--find-max-batch", "null.scripted", *quick, *alone, *script, *held, "--run-id", "mine")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / "mine"
    found = MaxBatch.read(folder / layout.MAX_BATCH_FOLDER / "null.scripted.json")
    assert (found.largest, found.smallest_failing, found.problem) == (3, 4, "")
    dead = found.trial_of(4)
    assert dead is not None
    memory = MemoryEvidence.of(dead.evidence)
    assert memory.host_at_death is not None
    assert memory.host_at_death > 67108864
    assert memory.host_limit is not None, "the container's own limit"
    assert memory.host_limit > memory.host_at_death
    assert verify_run(folder).differences == ()
    wanted = {"type": "container", "event": ["create", "destroy"], "label": "llm-bench.run=mine"}
    events = list(docker_client.events(since=since, until=int(time.time()) + 1, filters=cast(Any, wanted), decode=True))
    made = [event["id"] for event in events if event["Action"] == "create"]
    assert len(made) == len(set(made)) == 1 + len(found.trials), "the cell's container, and one for each trial"
    assert sorted(made) == sorted(event["id"] for event in events if event["Action"] == "destroy")
