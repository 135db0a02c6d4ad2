"""The artifacts ``gptq-int4-g128`` and ``awq-int4-g128``: 4-bit weights in GPTQ's first format and in AWQ's layout
``gemm``, for every engine that reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from convert_calibrated import quantise_on_texts
from convert_layout import awq_settings, finish, gptq_settings, in_features_of
from convert_rounded import AWQ, GPTQ, quantise_by_rounding

from bench_core.contract.adapter import Conversion
from bench_core.contract.errors import BadInput
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records import layout

_GROUP_SIZES = (128, 64, 32)
_ROUNDED = "round-to-nearest (weights are random)"


def to_gptq(conversion: Conversion) -> Mapping[str, str]:
    """Quantises the linear layers of all blocks: a real model by GPTQ on the workload, random weights by rounding.

    The folder holds one ``model.safetensors``, ``config.json`` with ``quantization_config``, ``quantize_config.json``
    and the tokenizer.

    Raises:
        BadInput: a real model without texts to calibrate on, or no linear layers under the names that are known.
    """
    info, widths = _model_of(conversion, "GPTQ")
    group_size = fitting_group_size(widths)
    facts = {"bits": "4", "group_size": str(group_size), "sym": "true", "desc_act": "false"}
    if info.synthetic:
        facts["quantisation"] = _ROUNDED
        quantise_by_rounding(conversion, group_size, GPTQ)
    else:
        facts["quantisation"] = "gptq, calibrated on the workload"
        facts |= quantise_on_texts(conversion, group_size, "gptq")
    finish(conversion, gptq_settings(group_size))
    return facts


def to_awq(conversion: Conversion) -> Mapping[str, str]:
    """The same by AWQ, which moves part of each input's scale from the weights into what is before them; the folder
    holds the same files.

    Raises:
        BadInput: as of ``to_gptq``, or no size of groups that divides every layer's input.
    """
    info, widths = _model_of(conversion, "AWQ")
    group_size = fitting_group_size(widths)
    if any(width % group_size for width in widths):
        raise BadInput(f"{info.name} has layers whose inputs are no multiple of 32", "AWQ has whole groups only")
    facts = {"bits": "4", "group_size": str(group_size), "zero_point": "true"}
    if info.synthetic:
        facts["quantisation"] = _ROUNDED
        quantise_by_rounding(conversion, group_size, AWQ)
    else:
        facts["quantisation"] = "awq, calibrated on the workload"
        facts |= quantise_on_texts(conversion, group_size, "awq")
    finish(conversion, awq_settings(group_size))
    return facts


def _model_of(conversion: Conversion, method: str) -> tuple[ModelInfo, list[int]]:
    """The model and the input widths of its layers, if it can be quantised."""
    info = ModelInfo.read(conversion.source.parent / layout.MODEL_FILE)
    widths = in_features_of(conversion.source)
    if not widths:
        raise BadInput(f"{info.name} has no linear layers that this quantiser knows", "a Llama-like model is needed")
    if not info.synthetic and not conversion.calibration:
        raise BadInput(f"{info.name} has real weights: {method} needs texts to calibrate on", "name --workload")
    return info, widths


def fitting_group_size(widths: Sequence[int]) -> int:
    """The largest of 128, 64 and 32 that divides every layer's input, since most engines read whole groups only.

    128 where none does: GPTQModel reads a last group that is not full, other engines refuse it.
    """
    return next((size for size in _GROUP_SIZES if all(width % size == 0 for width in widths)), _GROUP_SIZES[0])
