"""Which library for CPUs a running ``llama-server`` has opened, and the instruction sets that this library tells.

``server_facts.py PID`` prints a JSON object. The server does not say it, so the kernel is asked for what its process
has opened, and that very library is opened here and asked for the rest.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import llama_cpp as lib
from cpu_library import BUILT_IN, instruction_sets, load_backend, opened_by


def facts(pid: int) -> dict[str, str]:
    """Of the server with this process id; the names are the adapter's.

    Raises:
        EngineError: it is no such server, or its library cannot be opened.
        OSError: there is no such process.
    """
    library = opened_by(Path(f"/proc/{pid}/maps").read_text(encoding="utf-8"))
    if library is not None:
        load_backend(library)
    system_info = " ".join(lib.llama_print_system_info().decode().split())
    return {
        "cpu_library": BUILT_IN if library is None else library.stem.removeprefix("libggml-cpu-"),
        "cpu_instructions": instruction_sets(system_info),
        "system_info": system_info,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(facts(int(sys.argv[1]))))
