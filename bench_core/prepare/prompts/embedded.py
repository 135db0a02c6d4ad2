"""The embedded default: short English prompts written for this project, so that a first run downloads nothing."""

from __future__ import annotations

from importlib import resources

EMBEDDED = "embedded"
EMBEDDED_FILE = "embedded.jsonl"


def embedded_lines() -> list[bytes]:
    """The lines of ``embedded.jsonl``, each a JSON object with the column ``text``."""
    return resources.files(__package__).joinpath(EMBEDDED_FILE).read_bytes().splitlines(keepends=True)
