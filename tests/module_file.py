"""Modules that are in no package and whose names may repeat, for tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from conftest import ROOT


def module_at(path: Path) -> ModuleType:
    """The module of a file of the repository, executed anew."""
    unique = "_".join(path.relative_to(ROOT).with_suffix("").parts).replace("-", "_") + "_under_test"
    specification = importlib.util.spec_from_file_location(unique, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[unique] = module  # dataclasses look there for the names in annotations
    specification.loader.exec_module(module)
    return module
