"""Where builds take packages from: one build of a user at a time, since they serve the same folder."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

import pytest

from bench_core.drive.launch.processes.wheels import package_source


def test_a_second_build_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    entered = threading.Event()

    def build() -> None:
        with package_source():
            entered.set()

    second = threading.Thread(target=build, daemon=True)
    with package_source():
        second.start()
        assert not entered.wait(0.5)
    assert entered.wait(30)
    second.join()
    assert [path.name for path in tmp_path.iterdir()] == [f"llm-bench-build-{os.getuid()}.lock"]


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary folder is everybody's: another user's link must not choose the file that is opened."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "victim").write_text("kept", encoding="utf-8")
    (tmp_path / f"llm-bench-build-{os.getuid()}.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"), package_source():
        pass
    assert (tmp_path / "victim").read_text(encoding="utf-8") == "kept"
