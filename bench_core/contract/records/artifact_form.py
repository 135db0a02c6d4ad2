"""Whether a folder holds what its artifact's name says: an engine given other weights may run them without a word."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from bench_core.contract.records import layout
from bench_core.contract.records.record import LARGEST_FLOAT

# Names of artifacts by the settings of Transformers' ``quantization_config``: gptq-int4-g128, awq-int4-g128,
# exl2-4.0bpw, exl3-4.0bpw.
_NAMES = (re.compile(r"(gptq|awq)-int(\d+)(?:-|$)"), re.compile(r"(exl[23])-(\d+(?:\.\d+)?)bpw$"))
_UNQUANTISED = "unquantised"


def other_form(folder: Path, artifact: str) -> str | None:
    """What the folder holds by its ``config.json``, in a few words, where the artifact's name says something else.

    ``None`` where they agree, and for names that say nothing that stands in that file: formats of one file (GGUF,
    CTranslate2's) carry their own, which their engines read.
    """
    said = next((found.groups() for name in _NAMES if (found := name.match(artifact))), None)
    if said is None and artifact != layout.HF_ARTIFACT:
        return None
    wanted, bits = said or (_UNQUANTISED, None)
    settings = _quantisation(folder)
    method = str(settings.get("quant_method", _UNQUANTISED))
    if method != wanted:
        return method[:40]
    found_bits = settings.get("bits")
    if bits is not None and not _is_number(found_bits, float(bits)):
        return f"{method} of {str(found_bits)[:40]} bits"
    return None


def _is_number(found: object, wanted: float) -> bool:
    """Of what JSON may hold: a whole number of any length too, which no fraction can be."""
    return isinstance(found, int | float) and abs(found) <= LARGEST_FLOAT and math.isclose(found, wanted)


def _quantisation(folder: Path) -> dict[str, Any]:
    import json  # noqa: PLC0415  # of an artifact of that form alone

    try:
        settings = json.loads((folder / "config.json").read_bytes()).get("quantization_config")
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}
