"""docs/reliability.md and docs/security.md promise nothing that no test shows."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| fault")]


@pytest.mark.parametrize("name", ["reliability.md", "security.md"])
def test_every_test_that_the_page_names_is_there(name: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", (ROOT / "docs" / name).read_text(encoding="utf-8"))
    assert len(named) > 20
    missing = [f"{path}::{name}" for path, name in named if f"def {name}(" not in (ROOT / path).read_text("utf-8")]
    assert missing == []


def test_every_promise_of_the_security_page_names_one() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) >= 14
    assert [row for row in rows if "tests/" not in row.rsplit("|", 2)[1]] == []


def test_at_least_25_faults_are_tried_against_a_real_engine() -> None:
    assert len([row for row in ROWS if "tests/docker_faults/" in row]) >= 25


def test_every_row_names_one() -> None:
    assert len(ROWS) >= 25
    assert [row for row in ROWS if "tests/" not in row.rsplit("|", 2)[1] and "| the same |" not in row] == []
