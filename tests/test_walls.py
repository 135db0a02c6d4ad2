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
ROOMS = ("contract", "system", "client", "worker", "prepare", "runs", "report", "compare", "verify", "drive")
FRONT = "__main__"  # llm-bench: leads into a room only when it is told which
# What images import that is no engine; `conversion` is llama.cpp's, and too common a word to forbid.
SHARED = {"bench_core", "conversion", "images", "numpy", "safetensors", "tokenizers", "torch"}


def imported_by_images(images: Path) -> set[str]:
    """Packages that the images of a folder import: the engines, and what goes with them."""
    found: set[str] = set()
    for path in images.glob("*/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").split(".")[0])
    own = {path.stem for path in images.glob("*/*.py")}
    return found - own - SHARED - set(sys.stdlib_module_names)


# Engines that may come, and parts of engines that no image imports by name, beside all that images import.
ENGINES = {"exllamav3", "exllama_ext", "sglang", "tensorrt_llm"} | imported_by_images(REPOSITORY / "images")
HEAVY = {"docker", "ray", "torch", "datasets", "altair", "vl_convert", "pynvml", "typer", "click", "rich"}
# What each room must never import, in any of its modules; other rooms are added below.
FORBIDDEN = {
    "contract": ENGINES | HEAVY | {"huggingface_hub", "numpy"},
    "system": ENGINES | (HEAVY - {"pynvml"}) | {"huggingface_hub", "numpy"},
    "client": ENGINES | HEAVY | {"huggingface_hub", "numpy"},
    "worker": ENGINES | {"torch", "docker", "altair", "vl_convert", "datasets", "typer", "click", "rich"},
    "prepare": ENGINES | {"docker", "ray", "torch"},
    "runs": ENGINES | HEAVY,
    "report": ENGINES | {"docker", "ray", "torch"},
    "compare": ENGINES | {"docker", "ray", "torch"},
    "verify": ENGINES | {"docker", "ray", "torch"},
    "drive": ENGINES | {"ray", "torch"},  # Ray: in functions, for who names a cluster
}
MAY_IMPORT = {
    "contract": set[str](), "system": {"contract"}, "client": {"contract", "system"}, "worker": {"contract", "system"},
    "prepare": {"contract", "system"}, "runs": {"contract", "system"}, "report": {"contract", "system", "runs"},
    "compare": {"contract", "system", "runs", "report"}, "verify": {"contract", "system", "runs", "report"},
    "drive": {"contract", "system", "prepare", "runs", "report"},
}  # fmt: skip
# Imports inside functions that go against the order of the rooms, by file: each says why beside it.
LATE = {"report/cli.py": {"verify"}}

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
    assert found == {*ROOMS, FRONT}


def rooms_named(source: str, package: str = "bench_core") -> set[str]:
    """Rooms that a module imports from, inside functions too."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == package:
            names += [f"{package}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return {name.split(".")[1] for name in names if name.startswith(f"{package}.")} & set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_late_imports_keep_to_the_walls(room: str) -> None:
    """What a function imports when it is called is in no ``sys.modules`` above."""
    home = REPOSITORY / "bench_core"
    against = {
        path.relative_to(home).as_posix(): named
        for path in sorted((home / room).rglob("*.py"))
        if (named := rooms_named(path.read_text(encoding="utf-8")) - {room} - MAY_IMPORT[room])
    }
    assert against == {path: named for path, named in LATE.items() if path.startswith(f"{room}/")}


def test_a_late_import_is_found() -> None:
    source = (
        "import bench_core.drive.x\ndef f():\n from bench_core.worker.y import z\n from bench_core import prepare\n"
    )
    assert rooms_named(source) == {"drive", "worker", "prepare"}


PACKAGES = sorted(path.parent.relative_to(REPOSITORY) for path in (REPOSITORY / "bench_core").rglob("__init__.py"))
MOST_MODULES, MOST_LINES, MOST_LINES_OF_A_FUNCTION = 15, 400, 60


def too_large(package: Path) -> list[str]:
    """What of a package nobody can look through or read at once."""
    modules = sorted(package.glob("*.py"))
    found = [f"{len(modules)} modules"] if len(modules) > MOST_MODULES else []
    for path in modules:
        text = path.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        found += [f"{path.name}: {lines} lines"] if lines > MOST_LINES else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                found += [f"{path.name}: {node.name} has {length}"] if length > MOST_LINES_OF_A_FUNCTION else []
    return found


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_a_package_can_be_looked_through_and_a_module_read(package: Path) -> None:
    assert too_large(REPOSITORY / package) == []


def test_what_is_too_large_is_found(tmp_path: Path) -> None:
    for number in range(MOST_MODULES):
        (tmp_path / f"m{number}.py").write_text("")
    function = "async def f():\n" + "    x = 1\n" * (MOST_LINES_OF_A_FUNCTION - 1)
    (tmp_path / "m0.py").write_text(function)
    assert too_large(tmp_path) == []
    (tmp_path / "m0.py").write_text(function + "    x = 1\n")
    (tmp_path / "m1.py").write_text("x = 1\n" * (MOST_LINES + 1))
    (tmp_path / "more.py").write_text("")
    assert too_large(tmp_path) == ["16 modules", "m0.py: f has 61", "m1.py: 401 lines"]


def test_the_front_door_stands_open_to_no_room() -> None:
    """Help and version of `llm-bench` load no room but the words that all speak."""
    loaded = imported_by([f"bench_core.{FRONT}"])
    assert {name.split(".")[1] for name in loaded if name.startswith("bench_core.")} == {FRONT, "contract"}
    assert loaded & (HEAVY | ENGINES) == set()


def test_the_drivers_command_line_starts_without_the_heavy_packages() -> None:
    loaded = imported_by(["bench_core.drive.ask.cli"])
    heavy = {"datasets", "altair", "vl_convert", "docker", "pyarrow", "pandas", "numpy", "tokenizers", "ray"}
    assert heavy & loaded == set()


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


def test_the_engines_are_those_that_the_images_import(tmp_path: Path) -> None:
    """An image that comes is behind the walls without a line here."""
    assert {"vllm", "ctranslate2", "llama_cpp", "transformers", "exllama", "gptqmodel", "gguf"} <= ENGINES
    assert {"torch", "json", "bench_core"} & ENGINES == set()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "adapter.py").write_text("import helper\n\ndef f():\n    from new_engine.core import Engine\n")
    (tmp_path / "new" / "helper.py").write_text("import json, numpy, torch\n")
    assert imported_by_images(tmp_path) == {"new_engine"}


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
