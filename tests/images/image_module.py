"""Modules of images, which are no package and whose names repeat, for tests without their engines."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from conftest import ROOT


def image_module(image: str, name: str) -> ModuleType:
    """``images/<image>/<name>.py``, executed anew."""
    unique = f"{image}_{name}_under_test".replace("-", "_")
    specification = importlib.util.spec_from_file_location(unique, ROOT / "images" / image / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
