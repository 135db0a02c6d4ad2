"""llama.cpp is told where its libraries for kinds of CPUs are; which one it chose is read from its own words."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from image_module import image_module

from bench_core.contract.records.outcome import Outcome

# As llama.cpp of llama-cpp-python 0.3.36 writes it, in several pieces.
LOADED = "load_backend: loaded CPU backend from {folder}/bin/libggml-cpu-{name}.so\n"
# llama_print_system_info of that release: a build of one library with CUDA, and the one for Zen 4.
WITH_CUDA = (
    "CUDA : ARCHS = 900 | USE_GRAPHS = 1 | CPU : SSE3 = 1 | SSSE3 = 1 | AVX = 1 | AVX2 = 1 | "
    "F16C = 1 | FMA = 1 | BMI2 = 1 | LLAMAFILE = 1 | OPENMP = 1 | REPACK = 1 |"
)
ZEN4 = (
    "CPU : SSE3 = 1 | SSSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | BMI2 = 1 | AVX512 = 1 | AVX512_VBMI = 1 | "
    "AVX512_VNNI = 1 | AVX512_BF16 = 1 | LLAMAFILE = 1 | OPENMP = 1 | REPACK = 1 |"
)


class Ggml:
    """libggml: so many backends are there from the start, and what it says when it loads others."""

    def __init__(self, registered: int, says: str) -> None:
        self.log: Any = None
        self.looked: list[bytes] = []
        self._says = says
        self.ggml_backend_reg_count = _Function(lambda: registered)
        self.ggml_backend_load_all_from_path = _Function(self._load)
        self.opened: list[str] = []
        self.ggml_backend_load = _Function(self._open)

    def _open(self, path: bytes) -> int | None:
        self.opened.append(path.decode())
        return 1 if self._says else None

    def _load(self, folder: bytes) -> None:
        self.looked.append(folder)
        for piece in self._says.partition("from"):
            self.log._take(2, piece.encode(), None)


class _Function:
    restype: Any = None

    def __init__(self, does: Callable[..., Any]) -> None:
        self._does = does

    def __call__(self, *words: Any) -> Any:
        return self._does(*words)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Ggml], Any]:
    """The image's module, with a library of ours for the engine's."""

    def with_library(ggml: Ggml) -> Any:
        engine = SimpleNamespace(
            __file__=str(tmp_path / "__init__.py"),
            llama_log_callback=lambda take: take,
            llama_log_set=lambda callback, data: None,
        )
        monkeypatch.setitem(sys.modules, "llama_cpp", engine)
        monkeypatch.setitem(sys.modules, "engine_log", image_module("llama-cpp-python", "engine_log"))
        found = image_module("llama-cpp-python", "cpu_library")
        ggml.log = found.LOG
        monkeypatch.setattr(ctypes, "CDLL", lambda path: ggml if path == str(tmp_path / "lib/libggml.so") else None)
        return found

    return with_library


def test_the_engine_is_told_the_folder_once_and_says_what_it_chose(
    module: Callable[[Ggml], Any], tmp_path: Path
) -> None:
    ggml = Ggml(0, LOADED.format(folder=tmp_path, name="zen4"))
    loaded = module(ggml)
    assert loaded.load_backends() == "zen4"
    loaded.LOG.clear()  # as a second model does
    assert loaded.load_backends() == "zen4"
    assert ggml.looked == [str(tmp_path / "bin").encode()]


def test_a_build_of_one_library_is_left_as_it_is(module: Callable[[Ggml], Any]) -> None:
    ggml = Ggml(1, "")
    assert module(ggml).load_backends() == "built in"
    assert ggml.looked == []


def test_a_cpu_that_no_library_is_for_is_told(module: Callable[[Ggml], Any]) -> None:
    loaded = module(Ggml(0, ""))
    with pytest.raises(loaded.EngineError, match="no library for this CPU") as refused:
        loaded.load_backends()
    assert refused.value.outcome is Outcome.UNSUPPORTED


def test_instruction_sets_are_in_the_engines_words(module: Callable[[Ggml], Any]) -> None:
    sets = module(Ggml(1, "")).instruction_sets
    assert sets(WITH_CUDA) == "AVX, AVX2"
    assert sets(ZEN4) == "AVX, AVX2, AVX512, AVX512_VBMI, AVX512_VNNI, AVX512_BF16"
    assert sets("CPU : LLAMAFILE = 1 |") == "none"


# Of a llama-server on two cores, shortened.
MAPS = """\
55d0c0a00000-55d0c0b00000 r--p 00000000 00:35 262 /opt/llama-cpp/bin/llama-server
7f1c80000000-7f1c80021000 rw-p 00000000 00:00 0
7f1c84a00000-7f1c84b00000 r-xp 00001000 00:35 301 {cpu}
7f1c84c00000-7f1c84c10000 r-xp 00001000 00:35 300 /opt/llama-cpp/lib/libggml-base.so
7ffd1c9e0000-7ffd1ca01000 rw-p 00000000 00:00 0 [stack]
"""


def test_the_library_of_another_process_is_among_what_it_has_opened(module: Callable[[Ggml], Any]) -> None:
    loaded = module(Ggml(0, ""))
    assert loaded.opened_by(MAPS.format(cpu="/opt/llama-cpp/bin/libggml-cpu-zen4.so")) == Path(
        "/opt/llama-cpp/bin/libggml-cpu-zen4.so"
    )
    assert loaded.opened_by(MAPS.format(cpu="/opt/llama-cpp/lib/libggml-cpu.so")) is None, "built in"
    with pytest.raises(loaded.EngineError, match=r"no library of llama\.cpp"):
        loaded.opened_by("7f1c80000000-7f1c80021000 r-xp 00000000 00:35 12 /usr/bin/python3.12\n")


@pytest.mark.parametrize(
    ("file", "name", "asked"),
    [("bin/libggml-cpu-zen4.so", "zen4", ["bin/libggml-cpu-zen4.so"]), ("lib/libggml-cpu.so", "built in", [])],
)
def test_a_servers_facts_are_those_of_the_library_that_it_has_opened(
    module: Callable[[Ggml], Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    file: str,
    name: str,
    asked: list[str],
) -> None:
    ggml = Ggml(0, LOADED)
    monkeypatch.setitem(sys.modules, "cpu_library", module(ggml))
    monkeypatch.setattr(sys.modules["llama_cpp"], "llama_print_system_info", ZEN4.encode, raising=False)
    told = image_module("llama-cpp-python", "server_facts")
    maps = MAPS.format(cpu=tmp_path / file)
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: maps if str(path) == "/proc/42/maps" else None)
    facts = told.facts(42)
    assert facts["cpu_library"] == name
    assert facts["cpu_instructions"].endswith("AVX512_VNNI, AVX512_BF16")
    assert ggml.opened == [str(tmp_path / path) for path in asked]


def test_a_library_that_cannot_be_opened_is_told(module: Callable[[Ggml], Any], tmp_path: Path) -> None:
    loaded = module(Ggml(0, ""))
    with pytest.raises(loaded.EngineError, match=r"libggml-cpu-zen4.so is not loaded"):
        loaded.load_backend(tmp_path / "bin/libggml-cpu-zen4.so")
