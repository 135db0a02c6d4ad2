"""One load generator: starting it, its control words, what it said where it died, its end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench_core.client.load.wire import Facts, Frames
from bench_core.contract.errors import MachineFailure, shortened

_MODULE = "bench_core.client.load.generator"
_ROOT = Path(__file__).resolve().parents[2]
_LAST_BYTES = 4096
_LONGEST_WORDS = 300
_LEAVES_WITHIN_S = 1.0  # once it has said that it has ended


@dataclass(slots=True, eq=False)
class Process:
    """One load generator, seen from its supervisor.

    Attributes:
        control: the writing end of its control pipe.
        results: the reading end of its results' pipe.
        said: its standard error.
        tokens: that it took in, as far as its responses have been read.
        facts: what it says of itself; ``None`` until it has ended.
    """

    number: int
    process: subprocess.Popen[bytes]
    control: int
    results: int
    said: IO[bytes]
    frames: Frames
    ready: bool = False
    tokens: int = 0
    facts: Facts | None = None

    def tell(self, word: bytes) -> None:
        """Writes a control word, which ends in a line feed."""
        with contextlib.suppress(BrokenPipeError):  # it has ended, or its death is told by its results
            os.write(self.control, word)

    def end(self) -> None:
        """Ends it where it still runs, and closes its pipes. To be called once."""
        if self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_LEAVES_WITHIN_S if self.facts is not None else 0.0)
            self.process.kill()
        self.process.wait()
        os.close(self.control)
        os.close(self.results)
        self.said.close()

    def last_words(self) -> str:
        """Why it died, one line."""
        code = self.process.wait()
        self.said.seek(0, os.SEEK_END)
        self.said.seek(max(self.said.tell() - _LAST_BYTES, 0))
        lines = self.said.read().decode("utf-8", "replace").strip().splitlines()
        words = f": {shortened(lines[-1].strip(), _LONGEST_WORDS)}" if lines else ""
        return (f"signal {-code}" if code < 0 else f"exit code {code}") + words


@contextlib.contextmanager
def memory_file(content: bytes | memoryview) -> Iterator[int]:
    """The descriptor of a file in memory that holds the jobs of load generators, for as long as they are started."""
    memory = os.memfd_create("load")
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(content)
        yield memory
    finally:
        os.close(memory)


def start_process(number: int, memory: int) -> Process:
    """Starts the load generator of this number; ``memory`` is the descriptor of the jobs' memory file.

    It ends with the thread that calls this (``PR_SET_PDEATHSIG`` is of threads).

    Raises:
        MachineFailure: this machine does not start it.
    """
    control_in, control = os.pipe2(os.O_CLOEXEC)
    results, results_out = os.pipe2(os.O_CLOEXEC)
    said = tempfile.TemporaryFile()  # noqa: SIM115  # closed by Process.end
    given = {"job": memory, "control": control_in, "results": results_out, "process": number, "parent": os.getpid()}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, *words],
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            pass_fds=(memory, control_in, results_out),
        )
    except OSError as error:
        os.close(control)
        os.close(results)
        said.close()
        raise MachineFailure(f"no load generator can be started: {error}") from error
    finally:
        os.close(control_in)
        os.close(results_out)
    return Process(number, process, control, results, said, Frames())
