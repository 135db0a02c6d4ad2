"""docs/models-and-data.md says what is taken and what is refused: no line of it stands without a test."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from page_lines import Line, all_lines

ROOT = Path(__file__).resolve().parents[1]


@cache
def _collected() -> frozenset[str]:
    """Ids of the tests in the files that the page names, with their parameters and without."""
    files = sorted({f"tests/{line.test.split('::')[0]}" for line in all_lines() if line.test})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    ids = {line.removeprefix("tests/") for line in done.stdout.splitlines() if "::" in line}
    return frozenset(ids | {name.split("[")[0] for name in ids})


@pytest.mark.parametrize("line", all_lines(), ids=lambda line: f"{line.section}-{line.name}")
def test_a_line_of_the_page_names_a_test_that_exists(line: Line) -> None:
    assert line.test, f"{line.section}: no test for {next(iter(line.cells.values()))}"
    assert line.test in _collected()


def test_a_line_whose_test_is_not_there_is_noticed() -> None:
    assert "prepare/test_prepare_workload.py::test_of_nothing" not in _collected()
    assert len(all_lines()) > 3
