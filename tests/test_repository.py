"""What the repository promises of itself: files that must agree with each other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench_core.drive import schema
from bench_core.drive.images import embedded
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.report.write.embed import blocks, sheet_of

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILES = sorted(
    [*ROOT.glob("docker/*.Dockerfile"), *ROOT.glob("images/*/Dockerfile"), *ROOT.glob("docker/template/Dockerfile")]
)
REQUIREMENTS = sorted(
    path
    for pattern in ("docker/**/*.txt", "images/*/requirements*.txt", "images/*/constraints.txt")
    for path in ROOT.glob(pattern)
)
PUBLISHED = sorted((ROOT / "results" / "published").glob("*/run.json"))


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("path", schema.SCHEMAS, ids=lambda path: path.name)
def test_schemas_are_those_of_the_code(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == schema.schema_text(path), "run `make schema`"


def test_make_alone_lists_every_target_that_is_meant_for_people() -> None:
    listed = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^([a-z-]+) ", listed, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony is not None
    assert targets == set(phony[1].split())


def test_what_names_its_interpreter_can_be_run() -> None:
    programs = [path for path in _tracked() if path.read_bytes()[:2] == b"#!"]
    assert any(path.parent.name == "findings" for path in programs)
    assert [path.relative_to(ROOT).as_posix() for path in programs if not os.access(path, os.X_OK)] == []


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Records of what was decided and of what was measured elsewhere: they name other tools' options too.
_OTHERS_WORDS = {"decisions.md", "airgap.md", "security.md", "reliability.md"}


def test_commands_of_the_pages_exist() -> None:
    """Every `make TARGET`, module and option that README and the pages by task show is there."""
    shown = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.name not in _OTHERS_WORDS)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", shown, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    modules = {"bench_core.drive", "bench_core.worker", "bench_core.report", "bench_core.prepare", "bench_core.verify"}
    modules |= set(re.findall(r"-m (bench_core(?:\.\w+)+)", shown))
    helps = {
        module: subprocess.run(
            [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for module in sorted(modules)
    }
    for command in ("start", "get-auth-token"):  # Ray's, as docs/fleet.md calls them
        asked = [sys.executable, "-m", "ray.scripts.scripts", command, "--help"]
        helps[command] = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    others = {"--rm", "--profile", "--labels"}  # of docker itself; of Ray, whose help does not name it
    for option in set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", shown)) - others:
        assert any(option in text for text in helps.values()), option


def test_the_readme_is_short_and_every_page_is_listed() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 120
    listed = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert page.name == "README.md" or f"({page.name})" in listed, f"docs/README.md does not list {page.name}"
    assert embedded(readme, Catalogue()) == readme, "run python -m bench_core.drive.images --embed README.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert "://" in link or (page.parent / link).exists(), link


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dockerfiles_build_with_every_builder_and_from_any_source(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "--mount" not in text
    assert "# syntax=" not in text
    assert "<<" not in text
    first = next(line for line in text.splitlines() if line and not line.startswith("#"))
    assert first.startswith(("ARG BASE_IMAGE=", "ARG BUILD_IMAGE="))
    assert "ARG BASE_IMAGE=" in text
    assert not re.search(r"^FROM (?!\$\{)", text, re.MULTILINE), "every base is an argument"
    for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]:
        if "pip install" in stage:
            declared = set(re.findall(r"^ARG (\w+)$", stage, re.MULTILINE))
            assert {"PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"} <= declared


@pytest.mark.parametrize("image", list(Catalogue().names))
def test_images_end_by_importing_what_they_installed(image: str) -> None:
    """Each target's last step runs Python on the image's own modules; the entry point is the worker, without CMD."""
    text = (ROOT / "images" / image / "Dockerfile").read_text(encoding="utf-8")
    targets = [
        stage for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:] if " AS build" not in stage.splitlines()[0]
    ]
    assert targets
    for stage in targets:
        steps = re.findall(r"^(RUN|COPY|ENV|ARG|ENTRYPOINT|CMD)\b((?:.*\\\n)*.*)", stage, re.MULTILINE)
        assert steps[-1] == ("ENTRYPOINT", ' ["python", "-m", "bench_core.worker"]')
        assert steps[-2][0] == "RUN"
        assert re.search(r"import .*\b(adapter|convert)\b", steps[-2][1])
        assert "CMD" not in {step[0] for step in steps}


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_requirements_are_exact_pins(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            assert re.fullmatch(r"[A-Za-z0-9_.-]+(\[[a-z,]+\])?==[^\s;]+( ; .+)?", line.strip()), line


def test_no_file_names_a_registry_or_this_machine() -> None:
    """Packages come from wherever pip and apt are told; paths are relative. (The words are put together here, so that
    this file does not hold them.)"""
    words = ["py" + "pi.org", "python" + "hosted.org", "download." + "pytorch.org", "deb." + "debian.org"]
    words += ["registry." + "npmjs", "/" + "work/", "/opt/" + "wheels", "/" + "root/"]
    for path in _tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for word in words:
            assert word not in text, f"{path.relative_to(ROOT)} holds {word}"


def test_every_page_that_is_cited_is_here() -> None:
    """What a comment or a page sends a reader to is in a clone, below docs/ or at the top."""
    history = {ROOT / "docs" / "decisions.md", ROOT / "CHANGELOG.md"}  # they tell of pages of their time
    elsewhere = {"PAGE.md", "docs/gguf.md"}  # a placeholder, and a page of the format's own repository
    missing = set()
    for path in _tracked():
        if path in history or path.suffix not in {".py", ".md", ".sh", ".yaml", ".toml"} or "results" in path.parts:
            continue
        for cited in re.findall(r"\b(docs/[a-z][a-z-]*\.md|[A-Z]{4,}\.md)\b", path.read_text(encoding="utf-8")):
            if cited not in elsewhere and not (ROOT / cited).is_file():
                missing.add(f"{path.relative_to(ROOT)} cites {cited}")
    assert missing == set()


def test_a_prompts_way_names_what_there_is() -> None:
    """The walk in docs/architecture.md has twelve steps, and each class and function that it names is in the code."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    walk = page.split("## One prompt, from the dataset to the table\n")[1].split("\n## ")[0]
    steps = re.findall(r"^\d+\. (.+)$", walk, re.MULTILINE)
    assert len(steps) == 12
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "bench_core").rglob("*.py"))
    named = {name for step in steps for name in re.findall(r"`([A-Za-z_]+)`", step)}
    assert len(named) > 12
    for name in named:
        assert re.search(rf"^(?:def|class) {name}\b", code, re.MULTILINE), name


def test_nothing_large_is_tracked() -> None:
    """No weights, wheels or libraries; a published run's files are small."""
    for path in _tracked():
        assert path.suffix not in {".whl", ".safetensors", ".gguf", ".bin", ".so", ".pt"}, path
        assert path.stat().st_size < 5_000_000, path


@pytest.mark.parametrize("record", PUBLISHED, ids=lambda path: path.parent.name)
def test_published_reports_follow_from_their_raw_events(record: Path) -> None:
    command = [sys.executable, "-m", "bench_core.report", str(record.parent), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("record", PUBLISHED, ids=lambda path: path.parent.name)
def test_published_runs_verify(record: Path) -> None:
    """Digests, records and raw events of a published run agree with each other and with what is printed of them."""
    command = [sys.executable, "-m", "bench_core.verify", str(record.parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_tables_in_the_documentation_follow_from_published_runs() -> None:
    """A marked block holds what the run that it names gives now; until a run is published it says so, without one
    number."""
    found = [block for page in PAGES for block in blocks(page.read_text(encoding="utf-8"))]
    assert found
    for block in found:
        if block.run == "none":
            assert block.body == "No run is published yet.\n"
        else:
            assert block.run.startswith("results/published/")
            assert block.body == sheet_of(ROOT / block.run, block.heading) + "\n"


def test_make_published_writes_every_report_and_every_block(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n', encoding="utf-8")
    python.chmod(0o755)
    command = ["make", "-s", "-o", "setup", "published", f"PY={python}"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    called = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    reports = {f"-m bench_core.report results/published/{record.parent.name}" for record in PUBLISHED}
    embedded = {
        f"-m bench_core.report {block.run} --embed {page.relative_to(ROOT).as_posix()}"
        for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        for block in blocks(page.read_text(encoding="utf-8"))
        if block.run != "none"
    }
    assert set(called) == reports | embedded
    assert len(called) == len(set(called))
    assert max(map(called.index, reports)) < min(map(called.index, embedded))


def test_a_quick_test_keeps_most_of_its_rooms() -> None:
    """`make test-quick` leaves out what is slow, and no more than a quarter of the walls', contract's and report's."""
    folders = ["tests/test_walls.py", "tests/contract", "tests/report"]
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "not slow", *folders]
    last = subprocess.run(collect, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    kept, all_of_them = map(int, re.findall(r"(\d+)/(\d+) tests collected", last)[0])
    assert kept > 0.75 * all_of_them


def test_the_result_page_shows_a_published_run_and_its_figures() -> None:
    """Not one number of the result was typed by hand."""
    readme, page = (path.read_text(encoding="utf-8") for path in (ROOT / "README.md", ROOT / "docs" / "result.md"))
    found = [*blocks(readme), *blocks(page)]
    assert {block.heading for block in found} >= {"At a glance", "Batch size 1", "Beside the study"}
    (run,) = {block.run for block in found if block.heading == "Beside the study"}
    assert "(docs/page.png)" in readme
    assert "(page.png)" in page
    for figure in ("throughput", "memory"):
        assert f"(../{run}/figures/{figure}.svg)" in page
        assert (ROOT / run / "figures" / f"{figure}.svg").is_file()
    report = (ROOT / run / "report.md").read_text(encoding="utf-8")
    spent = re.search(r"Device time\*\*: (\d+ min) for .* would have taken (\d+ h) .*: (1/\d+) of that", report)
    assert spent is not None
    paragraph = next(part for part in page.split("\n\n") if "prompts a cell, would have taken" in part)
    assert all(words in paragraph for words in spent.groups())
    for block in found:
        rows = [line for line in block.body.splitlines() if line.startswith("|")]
        assert len(rows) > 4
        told = (ROOT / block.run / "report.md").read_text(encoding="utf-8")
        assert all(row in told for row in rows), "what the page shows is not what the run's report says"


def test_the_index_of_decisions_is_complete() -> None:
    text = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
    for heading in re.findall(r"^## .* · (.*)$", text, re.MULTILINE):
        assert f"[{heading}](#" in text, f"the index lacks {heading}"
