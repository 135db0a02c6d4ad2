"""``llm-bench``: the installed command, beside the forms with ``python -m``, which stay."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from bench_core import __version__
from bench_core.__main__ import COMMANDS
from bench_core.contract.errors import BadInput
from bench_core.drive.plan.catalogue import Catalogue


def llm_bench(*words: str) -> subprocess.CompletedProcess[str]:
    """Calls the command as ``python -m bench_core``, which is the same function."""
    return subprocess.run(
        [sys.executable, "-m", "bench_core", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_without_a_command_it_lists_its_commands_and_does_nothing(words: tuple[str, ...]) -> None:
    done = llm_bench(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n  {name}" in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_the_rooms_own_under_its_new_name(name: str) -> None:
    room = {"run": "drive", "resume": "drive"}.get(name, name)
    room = f"drive.{name}" if name in ("images", "doctor", "prune") else room
    short = llm_bench(name, "--help")
    long = subprocess.run(
        [sys.executable, "-m", f"bench_core.{room}", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert short.returncode == 0, short.stderr
    assert f"llm-bench {name}" in short.stdout
    usage = short.stdout.replace(f"llm-bench {name}", f"python -m bench_core.{room}")
    assert "".join(usage.split()) == "".join(long.stdout.split())


@pytest.mark.parametrize("name", ["run", "resume"])
def test_run_alone_shows_help_and_builds_nothing(name: str) -> None:
    assert llm_bench(name).stdout == llm_bench(name, "--help").stdout


def test_resume_takes_the_run_as_its_first_word() -> None:
    done = llm_bench("resume", "no-such-run", "--dry-run")
    assert done.returncode == 2
    assert "no-such-run" in done.stderr


def test_an_unknown_command_is_refused_with_those_there_are() -> None:
    done = llm_bench("measure")
    assert done.returncode == 2
    assert done.stderr == f"error: there is no command 'measure'\nhint: {', '.join(COMMANDS)}\n"


def test_a_wrong_option_is_refused_by_the_room() -> None:
    done = llm_bench("prepare", "--nope")
    assert done.returncode == 2
    assert "hint: llm-bench prepare --help lists the options" in done.stderr


def test_the_exit_code_is_the_rooms_own(tmp_path: Path) -> None:
    assert llm_bench("verify", str(tmp_path / "none")).returncode == 2
    assert llm_bench("run", "--version").stdout == llm_bench("--version").stdout == f"{__version__}\n"


def test_the_package_installs_the_command_and_what_it_needs() -> None:
    """One `pip install .` is enough to run, report and verify: nothing of it is an extra. A cluster is."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.scripts]\nllm-bench = "bench_core.__main__:main"\n' in project
    extras = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    assert re.findall(r"^(\w+) = ", extras, re.MULTILINE) == ["cluster", "dev"]


def test_without_the_clone_the_images_are_asked_for_by_name(tmp_path: Path) -> None:
    """An installed package has no images/; the hint says where they are."""
    with pytest.raises(BadInput, match="the images of the engines are not here") as refused:
        Catalogue(tmp_path / "images")
    assert "clone" in refused.value.hint


def test_the_changelog_is_of_releases_with_what_comes_on_top() -> None:
    """The code's version is the newest release's, or the next one's until that is made."""
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    first, *releases = [line for line in lines if line.startswith("## ")]
    assert first == "## Unreleased"
    found = [re.fullmatch(r"## (\d+)\.(\d+)\.(\d+) · \d{4}-\d{2}-\d{2}", line) for line in releases]
    numbers = [tuple(map(int, release.groups())) if release else () for release in found]
    assert all(numbers), "a release is `## NUMBER · DATE`"
    assert numbers == sorted(numbers, reverse=True)
    assert all(number <= tuple(map(int, re.findall(r"\d+", __version__))) for number in numbers)
