"""The driver's command line, called in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench_core.drive import cli


@dataclass
class Called:
    """What a call left."""

    code: int
    out: str
    err: str


Drive = Callable[..., Called]


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Drive:
    """Calls ``python -m bench_core.drive`` with results, data and models in ``tmp_path``."""

    def call(*arguments: str, own_folders: bool = True) -> Called:
        folders = [f"--{name}={tmp_path / name}" for name in ("results", "data", "models")] if own_folders else []
        monkeypatch.setattr(sys, "argv", ["drive", *arguments, *folders])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capfd.readouterr()
        code = ended.value.code
        return Called(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call
