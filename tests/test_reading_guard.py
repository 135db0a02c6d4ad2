"""The guard that is active in every test of this session: it sees what it says it sees, see reading_guard.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, read_outside
from reading_guard import Places, places_here

READ = "open({!r}).close()"


@pytest.fixture
def outside() -> Path:
    """A path beside the clone; nothing needs to be there."""
    return ROOT.parent / "beside-the-clone" / "model.safetensors"


def test_a_file_beside_the_clone_is_seen_in_this_process(outside: Path) -> None:
    with pytest.raises(FileNotFoundError):
        outside.open()
    (line,) = read_outside()
    assert line.startswith(f"open {outside} (tests/test_reading_guard.py:")
    with pytest.raises(FileNotFoundError):
        list(outside.parent.iterdir())
    with pytest.raises(FileNotFoundError):
        os.open(os.path.relpath(outside), os.O_RDONLY)
    assert len(read_outside()) == 2


def test_it_is_seen_through_a_link(outside: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(outside)
    (line,) = read_outside()
    assert line.startswith("os.symlink")
    with pytest.raises(FileNotFoundError):
        (tmp_path / "link").open()
    assert len(read_outside()) == 1


@pytest.mark.parametrize("environment", [None, {}, {"PYTHONPATH": str(ROOT)}], ids=["mine", "empty", "own"])
def test_it_is_seen_in_a_child_and_in_its_child(environment: dict[str, str] | None, outside: Path) -> None:
    inner = READ.format(str(outside))
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], env={{}}, stderr=-3)"
    for code in (inner, middle):
        subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True)
        (line,) = read_outside()
        assert line.startswith(f"open {outside} by -c")


def test_it_is_seen_however_a_child_is_started(outside: Path) -> None:
    """``subprocess`` spawns a child that keeps descriptors, and from Python 3.13 on any that is named by its path."""
    code = READ.format(str(outside))
    subprocess.run([sys.executable, "-c", code], close_fds=False, check=False, capture_output=True)
    os.waitpid(os.posix_spawn(sys.executable, [sys.executable, "-c", f"import os; os.close(2); {code}"], {}), 0)
    assert [line.startswith(f"open {outside} by -c") for line in read_outside()] == [True, True]


def test_a_path_that_is_handed_to_a_program_is_seen(tmp_path: Path) -> None:
    beside = str(ROOT.parent)
    subprocess.run(["true", f"--dataset={beside}"], check=True)
    subprocess.run(["true", f"{tmp_path}:/data", f"{beside}:/models"], check=True)
    subprocess.run(["true"], cwd=beside, check=True)
    assert [line.rsplit(" (", 1)[0] for line in read_outside()] == [f"subprocess.Popen {beside}"] * 3


def test_what_a_clone_has_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").read_text()
    (ROOT / "README.md").read_bytes()
    sorted(ROOT.glob("*.md"))
    Path("/proc/self/status").read_bytes()
    subprocess.run([sys.executable, "-c", "import json, docker, numpy; open('/etc/passwd')"], check=True, cwd=tmp_path)
    assert read_outside() == []


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        ("/w/clone/README.md", False),
        ("/w/clone", False),
        ("/w", True),
        ("/w/shared/data", True),
        ("/w/clone-2/README.md", True),
        ("/w/clone/../shared/data", True),
        ("/t/pytest/a", False),
        ("/usr/lib/os-release", False),
        ("/w/venv/lib/x.py", False),
        ("/w/venv-2/lib/x.py", True),
        (f"{Path.home()}/.cache/pip/x", False),
        ("/", True),
        ("/no-such-folder/x", False),
    ],
)
def test_places(path: str, refused: bool) -> None:
    """Beside the clone nothing is allowed, whether it is there or not; elsewhere only what is there can be read."""
    places = Places("/w/clone", ["/t"], ["/w/venv"])
    assert places.refused(path) is refused
    assert Places.of(places.lines()).refused(path) is refused


def test_what_is_beside_a_clone_in_the_folder_for_temporary_files_is_refused_too() -> None:
    places = Places("/t/x/clone", ["/t"], [])
    assert places.refused("/t/x/shared/data")
    assert not places.refused("/t/y/a")
    assert not Places("/t/clone", ["/t"], []).refused("/t/y/a"), "it is the folder for temporary files itself"


def test_a_worktrees_repository_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / ".git").write_text(f"gitdir: {tmp_path}/main/.git/worktrees/tree\n")
    places = places_here(str(tmp_path / "tree"), [])
    assert not places.refused(f"{tmp_path}/main/.git/HEAD")
    assert places.refused(f"{tmp_path}/main/README.md")


def test_a_test_that_reads_beside_its_clone_fails(tmp_path: Path) -> None:
    """The whole of it, in a clone of the tests' own: the guard as this session has it, and a test that is wrong."""
    clone = tmp_path / "clone"
    (clone / "tests").mkdir(parents=True)
    for name in ("conftest.py", "reading_guard.py", "private_engine.py"):
        shutil.copy(ROOT / "tests" / name, clone / "tests")
    (tmp_path / "story.txt").write_text("Once")
    (clone / "tests" / "test_it.py").write_text(
        "import pathlib, subprocess, sys\n"
        "BESIDE = pathlib.Path(__file__).parents[2] / 'story.txt'\n"
        "def test_own(): assert pathlib.Path(__file__).read_text()\n"
        "def test_reads(): assert BESIDE.read_text() == 'Once'\n"
        "def test_child_reads(): subprocess.run([sys.executable, '-c', 'open(\"../story.txt\")'], check=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=clone, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "3 passed, 2 errors" in done.stdout, done.stdout + done.stderr
    for test in ("test_reads", "test_child_reads"):
        assert f"ERROR tests/test_it.py::{test} " in done.stdout
    assert f"open {tmp_path / 'story.txt'} (tests/test_it.py:4)" in done.stdout
    assert "open ../story.txt by -c" in done.stdout
