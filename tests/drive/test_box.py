"""What a box may take by default, and what the driver does with what it finds in a box's folder afterwards."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome
from bench_core.drive.launch import box
from bench_core.drive.launch.launcher import Ended
from bench_core.drive.run.collect import judge, read_verdict
from bench_core.system.machine import memory_bytes


@pytest.fixture(autouse=True)
def _no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (box.MEMORY_VARIABLE, box.PIDS_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def test_without_a_word_a_box_has_limits() -> None:
    limits = box.limits()
    assert 0.9 * memory_bytes() < limits.memory_bytes < memory_bytes()
    assert limits.pids == 8192
    assert limits.shm_bytes == min(limits.memory_bytes // 4, 16 << 30)


def test_limits_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(box.MEMORY_VARIABLE, str(1 << 30))
    monkeypatch.setenv(box.PIDS_VARIABLE, "64")
    assert box.limits() == box.Limits(1 << 30, 1 << 28, 64)


@pytest.mark.parametrize("text", ["0", "-1", "1e9", "much", "1" * 40, "\N{DEVANAGARI DIGIT ONE}" * 10, " 1000000000"])
@pytest.mark.parametrize("variable", [box.MEMORY_VARIABLE, box.PIDS_VARIABLE])
def test_a_limit_that_is_none_is_refused(variable: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(BadInput, match=variable):
        box.limits()


def test_a_box_is_never_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert box.box_user() == (box.ROOTS_BOX_ID, box.ROOTS_BOX_ID)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(os, "getgid", lambda: 100)
    assert box.box_user() == (1000, 100)


def test_what_root_alone_may_read_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").write_text("x")
    (tmp_path / "weights").chmod(0o600)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    box.require_readable(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    with pytest.raises(BadInput, match="weights may not be read by others") as refused:
        box.require_readable(tmp_path)
    assert "chmod" in refused.value.hint
    (tmp_path / "weights").chmod(0o644)
    (tmp_path / "link").symlink_to("/etc/shadow")
    box.require_readable(tmp_path)


def test_the_hint_leaves_a_persons_own_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a model is a hard link to the person's: a chmod here would open the original."""
    (tmp_path / "original").write_text("x")
    (tmp_path / "original").chmod(0o600)
    (tmp_path / "model" / "hf").mkdir(parents=True)
    os.link(tmp_path / "original", tmp_path / "model" / "hf" / "weights")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    with pytest.raises(BadInput, match="hf/weights may not be read by others") as refused:
        box.require_readable(tmp_path / "model")
    assert "chmod" not in refused.value.hint
    assert str(tmp_path / "model" / "hf") in refused.value.hint


def test_what_another_conversion_is_writing_is_nobodys_to_read_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".exl2-4.0bpw.1.part" / "job").mkdir(parents=True)
    (tmp_path / ".exl2-4.0bpw.1.part" / "job" / "layer").write_text("x")
    (tmp_path / ".exl2-4.0bpw.1.part" / "job" / "layer").chmod(0o600)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    box.require_readable(tmp_path)
    (tmp_path / ".exl2-4.0bpw.1.part").rename(tmp_path / "exl2-4.0bpw")
    with pytest.raises(BadInput, match=r"exl2-4\.0bpw/job/layer may not be read"):
        box.require_readable(tmp_path)


def test_an_artifact_that_nobody_may_read_stops_only_who_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen on a GPU host: one converter's file of mode 600, and no engine was measured on that model any more."""
    for artifact, mode in (("hf", 0o644), ("exl2-4.0bpw", 0o600)):
        (tmp_path / artifact / "sub").mkdir(parents=True)
        (tmp_path / artifact / "sub" / "weights").write_text("x")
        (tmp_path / artifact / "sub" / "weights").chmod(mode)
    (tmp_path / "model.json").write_text("{}")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    box.require_readable(tmp_path, "hf")
    with pytest.raises(BadInput, match=r"exl2-4\.0bpw/sub/weights may not be read"):
        box.require_readable(tmp_path, "exl2-4.0bpw")
    (tmp_path / "model.json").chmod(0o600)
    with pytest.raises(BadInput, match=r"model\.json may not be read"):
        box.require_readable(tmp_path, "hf")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder as a box left it, with everything in it that has no place there."""
    run = tmp_path / "run"
    cell = run / "cells" / "null.scripted.b1"
    cell.mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("theirs")
    (cell / "spec.json").write_text("{}")
    os.mkfifo(cell / layout.OUTCOME_FILE)
    (cell / layout.LOG_FILE).symlink_to(tmp_path / "outside" / "made")
    (run / "figures").symlink_to(tmp_path / "outside")
    (run / "loop").symlink_to("loop")
    program = cell / "program"
    program.write_text("x")
    program.chmod(0o6755)
    return run


def test_what_is_neither_file_nor_folder_is_removed_and_not_followed(run: Path, tmp_path: Path) -> None:
    removed: list[str] = []
    with box.Doors().opened(run, removed):
        pass
    cell = "cells/null.scripted.b1"
    assert sorted(removed) == sorted(
        [f"{cell}/{layout.OUTCOME_FILE}", f"{cell}/{layout.LOG_FILE}", f"{cell}/program (its set-user-id bit)",
         "figures", "loop"]
    )  # fmt: skip
    assert {path.name for path in run.rglob("*") if path.is_file()} == {"spec.json", "program"}
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["file"]
    assert not (run / cell / "program").stat().st_mode & (stat.S_ISUID | stat.S_ISGID)


def test_a_persons_links_in_a_models_folder_stay(tmp_path: Path) -> None:
    """Weights on another disk are a person's way to save room; what a converter plants beside them is not."""
    model, disk = tmp_path / "model", tmp_path / "disk"
    (disk / "hf").mkdir(parents=True)
    model.mkdir()
    (model / layout.MODEL_FILE).write_text("{}")
    (model / layout.HF_ARTIFACT).symlink_to(disk / "hf")
    removed: list[str] = []
    doors = box.Doors()
    for name in ("planted", "again"):
        with doors.opened(model, removed):
            (model / name).symlink_to("/etc/passwd")
    assert removed == ["planted", "again"]
    assert (model / layout.HF_ARTIFACT).is_symlink()
    assert sorted(path.name for path in model.iterdir()) == sorted([layout.HF_ARTIFACT, layout.MODEL_FILE])


def test_a_pipe_in_place_of_a_verdict_is_no_verdict_and_no_wait(run: Path) -> None:
    assert read_verdict(run, "null.scripted.b1") is None


def test_the_drivers_own_log_of_a_dead_box_replaces_a_link(run: Path, tmp_path: Path) -> None:
    """Also where nobody has removed it before."""
    judge(run, ["null.scripted.b1"], Ended(137, False, "words of the box", 0.0, 1.0))
    log = run / "cells" / "null.scripted.b1" / layout.LOG_FILE
    assert (log.is_symlink(), log.read_text()) == (False, "words of the box")
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["file"]


def test_what_was_removed_is_evidence(run: Path) -> None:
    verdict = judge(run, ["null.scripted.b1"], Ended(137, False, "", 0.0, 1.0, removed=("figures",)))
    assert verdict["null.scripted.b1"].evidence["removed"] == "figures"


def test_a_box_that_never_ran_is_not_the_cells_failure(tmp_path: Path) -> None:
    text = "error: the container could not be started: no such device\n"
    (verdict,) = judge(tmp_path, ["null.scripted.b1"], Ended(125, False, text, 0.0, 1.0, never_ran=True)).values()
    assert (verdict.outcome, verdict.outcome.is_of_the_cell) == (Outcome.KILLED, False)
    assert verdict.cause == "the container could not be started: no such device"


def test_folders_without_end_are_not_followed_without_end(tmp_path: Path) -> None:
    deep = tmp_path / "run"
    for _ in range(40):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "link").symlink_to(tmp_path)  # round and round
    removed: list[str] = []
    with box.Doors().opened(tmp_path / "run", removed):
        pass
    assert removed == []


def test_a_folder_is_taken_back_behind_the_last_box_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs: the first box that ends must not take the folder from under the other."""
    told: list[tuple[str, int]] = []
    real = os.chown

    def chown(path: object, uid: int, gid: int, **more: object) -> None:
        told.append((str(path), uid))
        if os.geteuid() == 0:
            real(path, uid, gid, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(os, "getgid", lambda: 0)
    doors, removed = box.Doors(), list[str]()
    with doors.opened(tmp_path, removed):
        with doors.opened(tmp_path, removed):
            pass
        assert {uid for _, uid in told} == {box.ROOTS_BOX_ID}
    assert told[-1] == (str(tmp_path), 0)


def test_a_folder_that_cannot_be_handed_over_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chown(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    with pytest.raises(BadInput, match="cannot be handed to"), box.Doors().opened(tmp_path, []):
        pass
