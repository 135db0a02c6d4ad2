"""Modules of images, for tests without their engines."""

from __future__ import annotations

from types import ModuleType

from conftest import ROOT
from module_file import module_at


def image_module(image: str, name: str) -> ModuleType:
    """``images/<image>/<name>.py``, executed anew."""
    return module_at(ROOT / "images" / image / f"{name}.py")
