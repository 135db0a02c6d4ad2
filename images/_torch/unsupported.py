"""What an adapter refuses by itself. Needs no torch, for what is asked of a folder before an engine is imported."""

from __future__ import annotations


class Unsupported(RuntimeError):
    """A model, kernel or device that the engine would refuse, or compute wrongly or otherwise without saying so."""
