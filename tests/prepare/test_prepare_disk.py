"""What does not fit on the disk is refused before it is begun; what is written is whole or absent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench_core.contract.errors import BadInput
from bench_core.prepare import staging
from bench_core.prepare.disk import MARGIN_BYTES, free_bytes, readable, require_free
from bench_core.system import files

GB = 1_000_000_000


def disk_of(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))


def test_too_little_room_is_one_line_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk_of(2 * GB, monkeypatch)
    with pytest.raises(BadInput) as caught:
        require_free(tmp_path, 3 * GB, "model x")
    assert "not enough disk for model x: 3.3 GB needed, 2.0 GB free" in caught.value.cause
    assert caught.value.hint


def test_a_margin_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk_of(MARGIN_BYTES + 1000, monkeypatch)
    require_free(tmp_path, 1000, "x")
    with pytest.raises(BadInput):
        require_free(tmp_path, 1001, "x")
    disk_of(100 * GB + GB, monkeypatch)
    require_free(tmp_path, 100 * GB, "x")
    with pytest.raises(BadInput):
        require_free(tmp_path, 100 * GB + GB // 2, "x")


def test_room_is_asked_where_the_folder_will_be(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "there" / "yet") > 0


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (13_476_831_232, "13.5 GB"), (2_000 * GB, "2.0 TB")],
)
def test_sizes_read_in_decimal_units(size: int, text: str) -> None:
    assert readable(size) == text


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    files.write_file(path, b"old")

    def crash(_source: object, _target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        files.write_file(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_bytes() == b"old"


def test_a_written_file_can_be_read_by_others(tmp_path: Path) -> None:
    """Temporary files are private by default; a container may read as another user."""
    mask = os.umask(0o022)
    try:
        files.write_file(tmp_path / "a", b"x")
    finally:
        os.umask(mask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_staging_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    left = tmp_path / ".staging-m"
    left.mkdir()
    (left / "half").write_text("x")
    with staging.staged(tmp_path, "m") as folder:
        assert not list(folder.iterdir())
    assert not folder.exists()


def test_replacing_a_folder_leaves_only_the_new_one(tmp_path: Path) -> None:
    for name in ("new", "target", ".old-target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("x")
    files.replace_folder(tmp_path / "new", tmp_path / "target")
    assert [p.name for p in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target" / "new").exists()


def test_removing_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.remove(tmp_path / "link")
    assert (tmp_path / "real").is_dir()
    assert not (tmp_path / "link").exists()


def test_a_lock_holds_other_processes_back_and_dies_with_its_holder(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, pathlib; from bench_core.prepare.staging import locked\n"
            "with locked(pathlib.Path(sys.argv[1]), 'm'):\n    print('held', flush=True); time.sleep(60)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        said: list[str] = []

        def say(line: str) -> None:
            said.append(line)
            holder.kill()

        started = time.monotonic()
        with staging.locked(tmp_path, "m", say):
            pass
        assert said == ["waiting for another process that prepares m"]
        assert time.monotonic() - started < 30
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()
