"""docs/reliability.md promises nothing that no test shows."""

from __future__ import annotations

import re

from conftest import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| fault")]


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)
    assert len(named) > 30
    missing = [f"{path}::{name}" for path, name in named if f"def {name}(" not in (ROOT / path).read_text("utf-8")]
    assert missing == []


def test_every_row_names_one() -> None:
    assert len(ROWS) >= 25
    assert [row for row in ROWS if "tests/" not in row.rsplit("|", 2)[1] and "| the same |" not in row] == []
