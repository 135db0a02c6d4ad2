"""Starts a server where a check has let the model pass.

``python -m bench_core.worker.serve.checked CHECK... -- SERVER...``
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

_BETWEEN = "--"


def checked(check: Sequence[str], server: Sequence[str]) -> list[str]:
    """The command that runs a check and then, in the same process, the server; the server's alone without a check."""
    return [sys.executable, "-m", __name__, *check, _BETWEEN, *server] if check else list(server)


def main(words: list[str]) -> int:
    """Becomes the server, or returns the check's exit code; what it has printed last is why.

    Raises:
        OSError: one of the two cannot be run.
    """
    place = words.index(_BETWEEN)
    done = subprocess.run(words[:place], stdin=subprocess.DEVNULL, check=False)
    if done.returncode == 0:
        os.execvp(words[place + 1], words[place + 1 :])  # noqa: S606  # the server takes this process's place
    return 1 if done.returncode < 0 else done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
