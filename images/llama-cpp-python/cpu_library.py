"""llama.cpp's libraries for kinds of CPUs: of those in the wheel, the engine takes the best that this CPU runs."""

from __future__ import annotations

import ctypes
import functools
import re
from pathlib import Path

import llama_cpp as lib
from engine_log import LOG, EngineError

from bench_core.contract.records.outcome import Outcome

BUILT_IN = "built in"  # the wheel has one

_HOME = Path(lib.__file__).parent
_CHOSEN = re.compile(r"loaded CPU backend from .*/libggml-cpu-(\w+)\.so")
_OF_CPU = re.compile(r"libggml-cpu-(\w+)\.so")
_SETS = re.compile(r"\b((?:AVX|AMX|NEON|SVE|SME)\w*) = 1\b")


@functools.cache
def load_backends() -> str:
    """Loads what the engine computes with, once in a process; the name of the library for CPUs that it chose.

    By itself the engine looks beside the program and in the working folder. That suits llama-server; here the program
    is Python, so the engine is told where.

    Raises:
        EngineError: there is none that this CPU runs.
    """
    ggml = ctypes.CDLL(str(_HOME / "lib" / "libggml.so"))
    ggml.ggml_backend_reg_count.restype = ctypes.c_size_t
    if ggml.ggml_backend_reg_count():
        return BUILT_IN
    ggml.ggml_backend_load_all_from_path(str(_HOME / "bin").encode())
    chosen = _CHOSEN.search(LOG.text())
    if chosen is None:
        raise EngineError("llama.cpp has no library for this CPU: the least is AVX2", Outcome.UNSUPPORTED, LOG.errors())
    return chosen[1]


def load_backend(library: Path) -> None:
    """Loads one library for CPUs, of those in the wheel.

    Raises:
        EngineError: it cannot be loaded.
    """
    ggml = ctypes.CDLL(str(_HOME / "lib" / "libggml.so"))
    ggml.ggml_backend_load.restype = ctypes.c_void_p
    if not ggml.ggml_backend_load(str(library).encode()):
        raise EngineError(f"{library.name} is not loaded", Outcome.UNSUPPORTED, LOG.errors())


def opened_by(maps: str) -> Path | None:
    """The library for CPUs among the files that a process has in its memory (``/proc/<pid>/maps``); ``None``: none of
    the kind, so that it is built in.

    Raises:
        EngineError: no library of the engine is among them.
    """
    files = {Path(line.split(maxsplit=5)[5]) for line in maps.splitlines() if line.count("/")}
    found = [file for file in sorted(files) if _OF_CPU.fullmatch(file.name)]
    if not found and not any(file.name.startswith("libggml") for file in files):
        raise EngineError("that process has opened no library of llama.cpp", Outcome.UNSUPPORTED)
    return found[0] if found else None


def instruction_sets(system_info: str) -> str:
    """The CPU's vector instructions that the engine says it was compiled for, in its own names."""
    return ", ".join(_SETS.findall(system_info)) or "none"
