"""A run of many cells in containers costs its driver nothing that grows; `make soak` does so with 500."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import docker
import pytest
from soak import Sample, Watched, faults, watch, words

CELLS = 30


@pytest.mark.docker
def test_thirty_cells_leak_nothing(tmp_path: Path, docker_client: docker.DockerClient) -> None:
    seen = watch(tmp_path, CELLS, docker_client)
    sys.stdout.write("\n".join(words(seen)) + "\n")
    assert faults(seen) == []


def steady(cells: int = 100) -> Watched:
    """A run without fault: descriptors and threads come and go, memory grows by what cells leave."""
    samples = [Sample(n, 0.5 * n, 10 + n % 3, 4 + n % 2, (90 << 20) + 3000 * n) for n in range(1, cells + 1)]
    ids = {f"c{n}" for n in range(cells // 2)}
    return Watched(cells, 0, 0.5 * cells, samples, set(ids), set(ids), 1)


def test_a_steady_run_has_no_fault() -> None:
    assert faults(steady()) == []


LEAKS: list[tuple[Callable[[Sample], Sample], str]] = [
    (lambda s: replace(s, descriptors=s.descriptors + s.cells // 20), "descriptors: "),
    (lambda s: replace(s, threads=s.threads + s.cells // 20), "threads: "),
    (lambda s: replace(s, rss_bytes=s.rss_bytes + 300_000 * s.cells), "resident memory: "),
    (lambda s: replace(s, at_s=s.at_s + 0.005 * s.cells**2), "a cell took "),
]


@pytest.mark.parametrize(("leak", "fault"), LEAKS)
def test_what_grows_with_the_cells_is_found(leak: Callable[[Sample], Sample], fault: str) -> None:
    """One descriptor or thread more in twenty cells, 300 kB a cell, 10 ms more from each cell to the next."""
    seen = steady()
    seen.samples = [leak(sample) for sample in seen.samples]
    assert [line.startswith(fault) for line in faults(seen)] == [True]


def test_containers_are_counted() -> None:
    left = steady()
    left.left = ["llm-bench-null-1"]
    left.removed.pop()
    assert faults(left) == ["left over: container llm-bench-null-1", "50 containers were made, 49 removed"]
    together = steady()
    together.most_at_once = 2
    assert faults(together) == ["2 containers at once on one device"]
    few = steady()
    few.made = few.removed = {"c1"}
    assert faults(few) == ["1 containers for 100 cells"]


def test_a_run_that_was_not_seen_has_no_good_word() -> None:
    blind = steady()
    blind.samples = blind.samples[:50]
    blind.problems = ["null.scripted.b1: killed"]
    assert faults(blind) == ["null.scripted.b1: killed", "50 samples of 100 cells"]
