"""Text that engines, tools and users wrote, made fit for one printable line."""

from __future__ import annotations

from bench_core.contract.errors import shortened

# Of what engines, tools and users write; no text of the suite's own has a limit.
LONGEST_FOREIGN = 500


def one_line(text: str) -> str:
    """Any text in one printable line, whole."""
    if text.isprintable() and "  " not in text and text.strip(" ") == text:
        return text  # as nearly all are
    plain = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(plain.split())


def foreign(text: str, longest: int = LONGEST_FOREIGN) -> str:
    """What an engine, a tool or a user wrote, in one printable line of at most ``longest`` characters; the end says how
    much is left out."""
    return shortened(one_line(text), longest)
