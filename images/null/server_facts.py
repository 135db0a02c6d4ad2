"""What the scripted server is told to do, by the command line of its process: ``server_facts.py PID`` prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def facts(pid: int) -> dict[str, str]:
    """The options of the server with this process id.

    Raises:
        OSError: there is no such process.
    """
    words = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    options = ("--slots", "--ttft-s", "--tpot-s")
    return {name.strip("-").replace("-", "_"): words[words.index(name) + 1] for name in options if name in words}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(facts(int(sys.argv[1]))))
