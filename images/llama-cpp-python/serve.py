"""llama.cpp's own server, ``llama-server``: the wheel has it beside the libraries that the binding opens."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path


def server() -> Path:
    """Where it is; the binding is not imported for that, which would open its libraries."""
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        raise SystemExit("llama_cpp is not installed")
    program = Path(found.origin).parent / "bin" / "llama-server"
    if not program.is_file():
        raise SystemExit(f"{program} is missing: images/llama-cpp-python/compile.sh makes wheels that have it")
    return program


if __name__ == "__main__":
    program = server()
    os.execv(program, [str(program), *sys.argv[1:]])  # noqa: S606 - no shell is wanted
