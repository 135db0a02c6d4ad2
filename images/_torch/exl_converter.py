"""What the converters of ExLlamaV2 and ExLlamaV3 have in common: bits in the name, a GPU, a program of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench_core.contract.adapter import Conversion
from bench_core.contract.errors import BadInput


def bits_of(conversion: Conversion, kind: str) -> str:
    """The bits per weight that the artifact's name tells (``exl2-4.0bpw``), as it has them.

    Args:
        kind: with which the name begins, ``exl2`` for example.

    Raises:
        BadInput: the name tells no number of bits, or there is no GPU.
    """
    bits = conversion.artifact.removeprefix(f"{kind}-").removesuffix("bpw")
    try:
        float(bits)
    except ValueError as error:
        raise BadInput(f"{conversion.artifact} tells no bits per weight", f"{kind}-4.0bpw, for example") from error
    if conversion.device.kind != "cuda":
        raise BadInput(f"{kind.upper()} weights are made on a GPU", "convert with --device cuda")
    return bits


def run_converter(conversion: Conversion, engine: str, module: str, arguments: Callable[[Path], Sequence[str]]) -> None:
    """Runs the engine's program. Gigabytes of intermediate states lie beside the result, not in a container's /tmp.

    Args:
        arguments: of the folder for these: what the program is told beside the model's folder.

    Raises:
        RuntimeError: it failed, or left no weights; its own words are on stderr.
    """
    work = conversion.target / ".work"
    work.mkdir()
    command = [sys.executable, "-m", module, "-i", str(conversion.source), *arguments(work)]
    done = subprocess.run(command, check=False)
    shutil.rmtree(work)
    if done.returncode or not list(conversion.target.glob("*.safetensors")):
        raise RuntimeError(f"{engine}'s converter ended with code {done.returncode} and left no weights")
