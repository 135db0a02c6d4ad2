"""The artifact ``gptq-int4-g128``: 4-bit weights in GPTQ's first format, for every engine that reads GPTQ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from convert_calibrated import quantise_on_texts
from convert_layout import finish, in_features_of
from convert_rounded import quantise_by_rounding

from bench_core.contract.adapter import Conversion
from bench_core.contract.errors import BadInput
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records import layout

_GROUP_SIZES = (128, 64, 32)


def to_gptq(conversion: Conversion) -> Mapping[str, str]:
    """Quantises the linear layers of all blocks: a real model by GPTQ on the workload, random weights by rounding.

    The folder holds one ``model.safetensors``, ``config.json`` with ``quantization_config``, ``quantize_config.json``
    and the tokenizer.

    Raises:
        BadInput: a real model without texts to calibrate on, or no linear layers under the names that are known.
    """
    info = ModelInfo.read(conversion.source.parent / layout.MODEL_FILE)
    widths = in_features_of(conversion.source)
    if not widths:
        raise BadInput(f"{info.name} has no linear layers that this quantiser knows", "a Llama-like model is needed")
    group_size = fitting_group_size(widths)
    facts = {"bits": "4", "group_size": str(group_size), "sym": "true", "desc_act": "false"}
    if info.synthetic:
        facts["quantisation"] = "round-to-nearest (weights are random)"
        quantise_by_rounding(conversion, group_size)
    elif conversion.calibration:
        facts["quantisation"] = "gptq, calibrated on the workload"
        facts |= quantise_on_texts(conversion, group_size)
    else:
        raise BadInput(f"{info.name} has real weights: GPTQ needs texts to calibrate on", "name --workload")
    finish(conversion, group_size)
    return facts


def fitting_group_size(widths: Sequence[int]) -> int:
    """The largest of 128, 64 and 32 that divides every layer's input, since most engines read whole groups only.

    128 where none does: GPTQModel reads a last group that is not full, other engines refuse it.
    """
    return next((size for size in _GROUP_SIZES if all(width % size == 0 for width in widths)), _GROUP_SIZES[0])
