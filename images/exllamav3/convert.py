"""EXL3 weights, by the engine's own converter."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping

from bench_core.contract.adapter import Conversion
from bench_core.contract.errors import BadInput
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records import layout

# Calibration text for random weights, which have nothing to calibrate; the converter's default is 250 rows of 2048.
_FEW_ROWS = ("-cr", "16", "-cc", "512")


def to_exl3(conversion: Conversion) -> Mapping[str, str]:
    """Writes the bits per weight that the artifact's name tells (``exl3-4.0bpw``), calibrated on the converter's texts.

    Raises:
        BadInput: the name tells no number of bits, or there is no GPU.
        RuntimeError: the converter failed; its own words are on stderr. It ends with code 0 even where it refuses.
    """
    bits = conversion.artifact.removeprefix("exl3-").removesuffix("bpw")
    try:
        float(bits)
    except ValueError as error:
        raise BadInput(f"{conversion.artifact} tells no bits per weight", "exl3-4.0bpw, for example") from error
    if conversion.device.kind != "cuda":
        raise BadInput("EXL3 weights are made on a GPU", "convert with --device cuda")
    info = ModelInfo.read(conversion.source.parent / layout.MODEL_FILE)
    # Gigabytes of intermediate states: beside the result, not in a container's small temporary folder.
    work = conversion.target / ".work"
    work.mkdir()
    command = [sys.executable, "-m", "exllamav3.conversion.convert_model", "-i", str(conversion.source)]
    command += ["-w", str(work), "-o", str(conversion.target), "-b", bits, *(_FEW_ROWS if info.synthetic else ())]
    done = subprocess.run(command, check=False)
    shutil.rmtree(work)
    if done.returncode or not list(conversion.target.glob("*.safetensors")):
        raise RuntimeError(f"exllamav3's converter ended with code {done.returncode} and left no weights")
    return {
        "bits_per_weight": bits,
        "calibration": "few rows (weights are random)" if info.synthetic else "the engine's own",
    }
