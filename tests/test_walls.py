"""The walls between the rooms, proved in a fresh interpreter each, and that no room knows an engine by name."""

from __future__ import annotations

import ast
import importlib.util
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = ("contract", "worker", "prepare", "drive", "report")
DOORS = {"verify": "report"}
ENGINES = {
    "vllm", "ctranslate2", "llama_cpp", "transformers", "exllama", "exllamav2", "exllamav3", "exllama_ext", "gptqmodel",
    "auto_gptq", "bitsandbytes", "sglang", "tensorrt_llm", "gguf",
}  # fmt: skip
HEAVY = {"docker", "torch", "datasets", "altair", "vl_convert", "pynvml", "typer", "click", "rich"}
# What each room must never import, in any of its modules; other rooms are added below.
FORBIDDEN = {
    "contract": ENGINES | HEAVY | {"huggingface_hub", "numpy"},
    "worker": ENGINES | {"torch", "docker", "altair", "vl_convert", "datasets", "typer", "click", "rich"},
    "prepare": ENGINES | {"docker", "torch"},
    "report": ENGINES | {"docker", "torch"},
    "drive": ENGINES | {"torch"},
}
MAY_IMPORT = {
    "contract": set[str](), "worker": {"contract"}, "prepare": {"contract"}, "report": {"contract"},
    "drive": {"contract", "prepare", "report"},
}  # fmt: skip

IMPORT_ALL = """
import importlib, json, pkgutil, sys
for name in {modules!r}:
    importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""


def modules_of(package: str, root: Path) -> list[str]:
    """All modules of a package, found without importing any."""
    folder = root.joinpath(*package.split("."))
    found = [package]
    for module in pkgutil.iter_modules([str(folder)]):
        name = f"{package}.{module.name}"
        found.extend(modules_of(name, root) if module.ispkg else [name])
    return found


def imported_by(modules: Iterable[str], root: Path = REPOSITORY) -> set[str]:
    """What is in ``sys.modules`` of a fresh interpreter after these modules have been imported."""
    ran = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL.format(modules=list(modules))],
        cwd=root, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return set(json.loads(ran.stdout.splitlines()[-1]))


def breaches(loaded: set[str], room: str, package: str = "bench_core") -> set[str]:
    """Modules that stand on the wrong side of a room's walls."""
    others = {f"{package}.{other}" for other in ROOMS if other != room and other not in MAY_IMPORT[room]}
    return {name for name in loaded if name.split(".")[0] in FORBIDDEN[room] or ".".join(name.split(".")[:2]) in others}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_nothing_from_behind_its_walls(room: str) -> None:
    modules = modules_of(f"bench_core.{room}", REPOSITORY)
    assert len(modules) > 5
    loaded = imported_by(modules)
    assert set(modules) <= loaded
    assert breaches(loaded, room) == set()


def test_every_package_of_the_suite_is_a_room() -> None:
    found = {module.name for module in pkgutil.iter_modules([str(REPOSITORY / "bench_core")])}
    assert found == {*ROOMS, *DOORS}


@pytest.mark.parametrize("door", DOORS)
def test_a_door_leads_into_its_room_and_nowhere_else(door: str) -> None:
    """A command whose name is no room's is a module of a few lines, behind the walls of the room that does the work."""
    loaded = imported_by([f"bench_core.{door}"])
    assert breaches(loaded, DOORS[door]) - {f"bench_core.{door}"} == set()
    assert f"bench_core.{DOORS[door]}" in loaded
    assert len((REPOSITORY / "bench_core" / f"{door}.py").read_text(encoding="utf-8").splitlines()) < 15


def test_the_drivers_command_line_starts_without_the_heavy_packages() -> None:
    loaded = imported_by(["bench_core.drive.cli"])
    assert {"datasets", "altair", "vl_convert", "docker", "pyarrow", "pandas", "numpy", "tokenizers"} & loaded == set()


@pytest.mark.parametrize(
    ("room", "line", "breach"),
    [
        ("contract", "import docker", "docker"),
        ("contract", "import pynvml", "pynvml"),
        ("worker", "import bench_core.prepare", "bench_core.prepare"),
        ("worker", "from bench_core.report import x", "bench_core.report"),
        ("report", "import torch", "torch"),
        ("drive", "import vllm", "vllm"),
        ("drive", "from bench_core.worker import x", "bench_core.worker"),
        ("prepare", "import docker", "docker"),
    ],
)
def test_a_hole_in_a_wall_is_found(tmp_path: Path, room: str, line: str, breach: str) -> None:
    for name in ROOMS:
        (tmp_path / "bench_core" / name).mkdir(parents=True)
        (tmp_path / "bench_core" / name / "__init__.py").write_text("x = 1\n")
    (tmp_path / "bench_core" / "__init__.py").write_text("")
    for stand_in in ("docker", "torch", "vllm", "pynvml"):
        (tmp_path / f"{stand_in}.py").write_text("")
    modules = modules_of(f"bench_core.{room}", tmp_path)
    assert breaches(imported_by(modules, tmp_path), room) == set()
    (tmp_path / "bench_core" / room / "deep.py").write_text(f"{line}\n")
    found = breaches(imported_by(modules_of(f"bench_core.{room}", tmp_path), tmp_path), room)
    assert found == {breach}


# No engine's name in the suite's own code.


def image_names() -> set[str]:
    names = {path.parent.name for path in (REPOSITORY / "images").glob("*/image.yaml")}
    assert "null" in names
    return names - {"null"}


def _docstrings(tree: ast.AST) -> set[int]:
    """Identities of the nodes that are docstrings (attribute docstrings too: any string that stands alone)."""
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


def engines_named(source: str, names: set[str]) -> list[tuple[int, str]]:
    """(line, name) of every string constant or identifier of a module that is an engine's name."""
    tree = ast.parse(source)
    documentation = _docstrings(tree)
    found = []
    for node in ast.walk(tree):
        text: object = None
        if isinstance(node, ast.Constant) and id(node) not in documentation:
            text = node.value
        elif isinstance(node, ast.Name):
            text = node.id
        elif isinstance(node, ast.Attribute):
            text = node.attr
        elif isinstance(node, ast.arg | ast.keyword):
            text = node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            text = node.name
        elif isinstance(node, ast.alias):
            text = node.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            text = (node.module or "").split(".")[0]
        if isinstance(text, str) and text.lower() in names:
            found.append((getattr(node, "lineno", 0), text))
    return sorted(found)


def all_names() -> set[str]:
    names = image_names() | ENGINES
    return names | {name.replace("_", "-") for name in names} | {name.replace("-", "_") for name in names}


def test_no_engine_is_known_by_name_in_any_room() -> None:
    names = all_names()
    found = {
        f"{path.relative_to(REPOSITORY)}:{line}": name
        for path in sorted((REPOSITORY / "bench_core").rglob("*.py"))
        for line, name in engines_named(path.read_text(encoding="utf-8"), names)
    }
    assert found == {}


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ('if name == "vllm":\n    pass\n', 1),
        ('x = 1\nslow = {"llama-cpp-python": 3}\n', 2),
        ("import ctranslate2\n", 1),
        ("def f():\n    from transformers.models import x\n", 2),
        ("match name:\n    case 'vLLM':\n        pass\n", 2),
        ("f(exllama=1)\n", 1),
        ("manifest.vllm = 1\n", 1),
    ],
)
def test_an_engine_known_by_name_is_found(source: str, line: int) -> None:
    assert [at for at, _ in engines_named(source, all_names() | {"llama-cpp-python"})] == [line]


def test_an_engine_named_in_words_is_no_defect() -> None:
    source = '"""An engine such as vllm."""\n\nclass A:\n    "vllm"\n\n# vllm\nx = "engines such as vllm"\n'
    assert engines_named(source, {"vllm"}) == []


def test_the_packages_behind_the_walls_exist_so_that_the_walls_are_tested() -> None:
    """A misspelt name in the lists above would forbid nothing."""
    for name in HEAVY - {"torch"}:
        assert importlib.util.find_spec(name) is not None, name
