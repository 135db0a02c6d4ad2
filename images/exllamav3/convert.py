"""EXL3 weights, by the engine's own converter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench_core.contract.adapter import Conversion
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records import layout
from images._torch.exl_converter import bits_of, run_converter

# Calibration text for random weights, which have nothing to calibrate; the converter's default is 250 rows of 2048.
_FEW_ROWS = ("-cr", "16", "-cc", "512")


def to_exl3(conversion: Conversion) -> Mapping[str, str]:
    """Writes the bits per weight that the artifact's name tells (``exl3-4.0bpw``), calibrated on the converter's texts.

    Raises:
        BadInput: the name tells no number of bits, or there is no GPU.
        RuntimeError: the converter failed; its own words are on stderr. It ends with code 0 even where it refuses.
    """
    bits = bits_of(conversion, "exl3")
    info = ModelInfo.read(conversion.source.parent / layout.MODEL_FILE)

    def arguments(work: Path) -> list[str]:
        told = ["-w", str(work), "-o", str(conversion.target), "-b", bits]
        return [*told, *(_FEW_ROWS if info.synthetic else ())]

    run_converter(conversion, "exllamav3", "exllamav3.conversion.convert_model", arguments)
    return {
        "bits_per_weight": bits,
        "calibration": "few rows (weights are random)" if info.synthetic else "the engine's own",
    }
