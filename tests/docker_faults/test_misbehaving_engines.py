"""An engine that misbehaves, in a container of a real Docker engine: its cell says how, all others are measured.

One run has all of them, each in its own box, so that what one leaves behind would show in those after it.
"""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest
from private_engine import WORK, Done, Driver, PrivateEngine

from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome

pytestmark = pytest.mark.docker

ACTS = (
    "none", "garbles", "bursts", "long-line", "not-utf8", "forges", "forks", "bombs", "ignores-term", "exits-0",
    "kills-supervisor", "eats", "eats-loading", "writes-outside", "plants-links", "plants-pipes", "deletes",
)  # fmt: skip
MEMORY_BYTES = 400 << 20
PIDS = 200


class Night:
    """One run of all acts."""

    def __init__(self, driver: Driver, done: Done, seconds: float, victims: Path) -> None:
        self.driver = driver
        self.done = done
        self.seconds = seconds
        self.victims = victims

    def cell(self, act: str) -> Path:
        return self.driver.cell(f"hostile.{act}.b1")

    def log(self, act: str) -> str:
        return (self.cell(act) / layout.LOG_FILE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def night(
    engine_home: PrivateEngine, fault_repository: Path, shared_material: Path, tmp_path_factory: pytest.TempPathFactory
) -> Night:
    engine_home.heal()
    folder = tmp_path_factory.mktemp("night")
    victims = folder / "victims"
    victims.mkdir()
    driver = Driver(engine_home, fault_repository, shared_material, folder)
    started = time.monotonic()
    done = driver(
        "--images", "hostile", "--variants", ",".join(f"hostile.{act}" for act in ACTS), "--batch-sizes", "1", *WORK,
        "--option", f"hostile.victim={victims}/victim", "--batch-timeout-s", "20", "--run-id", "mine",
        limit_s=240, environment={"BENCH_BOX_MEMORY_BYTES": str(MEMORY_BYTES), "BENCH_BOX_PIDS": str(PIDS)},
    )  # fmt: skip
    return Night(driver, done, time.monotonic() - started, victims)


@pytest.mark.parametrize(
    ("act", "outcome", "judge", "cause"),
    [
        ("none", Outcome.OK, "worker", ""),
        ("garbles", Outcome.CRASHED, "worker", "the engine's process wrote something else than events to their pipe"),
        ("bursts", Outcome.OK, "worker", ""),
        ("long-line", Outcome.OK, "worker", ""),
        ("not-utf8", Outcome.OK, "worker", ""),
        ("forges", Outcome.OK, "worker", ""),
        ("forks", Outcome.OK, "worker", ""),
        ("bombs", Outcome.OK, "worker", ""),
        ("ignores-term", Outcome.TIMEOUT, "worker", "within 20 s (--batch-timeout-s)"),
        ("exits-0", Outcome.CRASHED, "worker", "the engine ended with code 0 before its work was done"),
        ("kills-supervisor", Outcome.KILLED, "driver", "the container was ended from outside (code 137)"),
        ("eats", Outcome.OOM_KV, "worker", "the kernel ended the engine: the container's memory limit was reached"),
        ("eats-loading", Outcome.OOM_LOAD, "worker", "the kernel ended the engine"),
        ("writes-outside", Outcome.OK, "worker", ""),
        ("plants-links", Outcome.KILLED, "driver", "the container was ended from outside (code 137)"),
        ("plants-pipes", Outcome.KILLED, "driver", "the container was ended from outside (code 137)"),
        ("deletes", Outcome.KILLED, "driver", "this machine did not let the worker go on"),
    ],
)
def test_every_fault_has_its_outcome_and_its_cause(
    night: Night, act: str, outcome: Outcome, judge: str, cause: str
) -> None:
    verdict = night.driver.verdict(f"hostile.{act}.b1")
    assert (verdict.outcome, verdict.judged_by) == (outcome, judge)
    assert cause in verdict.cause
    assert bool(verdict.cause) == (outcome is not Outcome.OK)


def test_the_run_goes_on_to_its_end_and_says_what_failed(night: Night) -> None:
    assert night.done.code == 1
    assert "Traceback" not in night.done.err
    rows = {row.planned.variant: row for row in night.driver.view().rows}
    assert set(rows) == set(ACTS)
    good = {act for act, row in rows.items() if row.result is not None}
    assert good == {"none", "bursts", "long-line", "not-utf8", "forges", "forks", "bombs", "writes-outside"}
    assert all(row.problem for act, row in rows.items() if act not in good)
    assert night.driver.engine.containers() == []


def test_a_good_cell_beside_them_is_whole(night: Night) -> None:
    batches = night.driver.batches("hostile.none.b1")
    assert [batch.outputs for batch in batches] == [(tuple(range(3, 11)),)] * 5


def test_ten_thousand_lines_of_chatter_are_kept_to_the_last(night: Night) -> None:
    lines = night.log("bursts").splitlines()
    assert [line for line in lines if line.startswith("burst")] == [f"burst, line {n}" for n in range(10_000)]


def test_a_line_of_50_mb_is_kept_within_bounds_and_says_what_was_lost(night: Night) -> None:
    size = (night.cell("long-line") / layout.LOG_FILE).stat().st_size
    assert 4 << 20 <= size < (4 << 20) + 1000
    kept, _, rest = night.log("long-line").partition("\n[")
    assert (set(kept), rest) == ({"x"}, f"{50_000_000 - (4 << 20)} more bytes were printed and not kept]\n")
    assert len(night.done.err) < 20_000, "none of it is on the driver's own terminal"


def test_bytes_that_are_no_text_stand_as_escapes(night: Night) -> None:
    assert "\\xff\\xfe\x00\\x80" in night.log("not-utf8")
    assert "\x1b]0;" not in night.done.err, "no escape reaches the terminal"


def test_news_that_an_engine_forges_is_not_believed(night: Night) -> None:
    assert "forged" not in night.done.err
    assert "never-planned" not in night.done.err + night.done.out
    assert "passwd" not in night.done.err + night.done.out


def test_helpers_that_outlive_their_engine_hold_up_nothing(night: Night) -> None:
    """They hold the pipe of events open, in a session where ending the engine's does not reach them."""
    start, *_, end = (path.stat().st_mtime for path in sorted(night.cell("forks").iterdir(), key=_written))
    assert end - start < 5.0


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


def test_a_fork_bomb_is_bounded(night: Night) -> None:
    words = night.log("bombs").split()
    assert words[0] == "forked"
    assert 20 < int(words[1]) < PIDS
    assert "temporarily unavailable" in night.log("bombs")


def test_an_engine_that_ignores_the_request_is_killed_and_keeps_its_events(night: Night) -> None:
    verdict = night.driver.verdict("hostile.ignores-term.b1")
    assert verdict.evidence["stopped_by"] == "SIGKILL"
    assert [batch.phase for batch in night.driver.batches("hostile.ignores-term.b1")] == ["warmup"]


def test_memory_that_ran_out_has_the_kernel_as_witness(night: Night) -> None:
    for act in ("eats", "eats-loading"):
        assert int(night.driver.verdict(f"hostile.{act}.b1").evidence["oom_kills"]) >= 1
    assert night.driver.verdict("hostile.eats-loading.b1").phase == "load"


def test_writing_outside_is_refused_everywhere(night: Night, shared_material: Path) -> None:
    """Root of the file system, image, models (also a file that is there), workload, other runs, kernel settings."""
    line = next(line for line in night.log("writes-outside").splitlines() if line.startswith("writes: "))
    told = json.loads(line.removeprefix("writes: "))
    assert len(told) >= 16
    allowed = {place: how for place, how in told.items() if how == "done"}
    assert set(allowed) <= {"/dev"}, "a container's own /dev is a file system in memory, and is nobody's to fill"
    refusals = (
        "OSError Read-only file system",
        "PermissionError Permission denied",
        "FileNotFoundError",
        "PermissionError",
    )
    assert all(how.startswith(refusals) for place, how in told.items() if place not in allowed), told
    assert list(night.victims.iterdir()) == []
    assert not list(shared_material.rglob("planted"))


def test_links_that_a_box_plants_are_removed_and_never_followed(night: Night) -> None:
    """Followed, the first would put words of the box's choice into a file of the host's, as the driver's user."""
    assert list(night.victims.iterdir()) == []
    run = night.cell("none").parent.parent
    assert [path for path in run.rglob("*") if path.is_symlink()] == []
    removed = night.driver.verdict("hostile.plants-links.b1").evidence["removed"]
    for name in ("worker.log", "outcome.json", "figures", "set-aside", "report.md"):
        assert name in removed
    assert night.log("plants-links").endswith("which a driver would write through a link\n")


def test_pipes_that_a_box_plants_hold_up_nobody(night: Night) -> None:
    removed = night.driver.verdict("hostile.plants-pipes.b1").evidence["removed"]
    for name in ("outcome.json", "result.json", "ear", "program (its set-user-id bit)"):
        assert name in removed
    kinds = {stat.S_IFMT(path.lstat().st_mode) for path in night.cell("none").parent.rglob("*")}
    assert kinds == {stat.S_IFREG, stat.S_IFDIR}


def test_what_a_box_leaves_is_the_callers_and_lends_nobodys_rights(night: Night) -> None:
    run = night.cell("none").parent.parent
    everything = [run, *run.rglob("*")]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in everything} == {(os.getuid(), os.getgid())}
    assert [path for path in everything if path.lstat().st_mode & (stat.S_ISUID | stat.S_ISGID)] == []
    assert (night.cell("plants-pipes") / "program").exists(), "the bit was there to be stripped"


def test_a_resumed_run_measures_again_what_was_killed_and_nothing_else(night: Night) -> None:
    """Killed is not of the cell; crashed, timed out and out of memory are, and stay as they are."""
    done = night.driver("--resume", "mine", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out.splitlines()[0])["cells"] == [
        f"hostile.{act}.b1" for act in ("kills-supervisor", "plants-links", "plants-pipes", "deletes")
    ]
