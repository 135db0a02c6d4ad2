"""EXL2 weights, by the engine's own converter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exllamav2.conversion.qparams import qparams_attn, qparams_mlp

from bench_core.contract.adapter import Conversion
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records import layout
from images._torch.exl_converter import bits_of, run_converter

# Rows of calibration text for random weights, which have nothing to calibrate; the converter's default is 2048 tokens.
_SHORT_ROWS = ("-l", "512")


def to_exl2(conversion: Conversion) -> Mapping[str, str]:
    """Writes the bits per weight that the artifact's name tells (``exl2-4.0bpw``), calibrated on the converter's texts.

    The converter first measures what each layer loses at each number of bits, which takes longer than the rest. In
    random weights all layers are alike: it is given such a measurement and spends its bits evenly.

    Raises:
        BadInput: the name tells no number of bits, or there is no GPU.
        RuntimeError: the converter failed; its own words are on stderr.
    """
    bits = bits_of(conversion, "exl2")
    info = ModelInfo.read(conversion.source.parent / layout.MODEL_FILE)

    def arguments(work: Path) -> list[str]:
        told = ["-o", str(work / "job"), "-cf", str(conversion.target), "-b", bits]
        if info.synthetic:
            (work / "even.json").write_text(json.dumps(even_measurement(info)), encoding="utf-8")
            told += ["-m", str(work / "even.json"), *_SHORT_ROWS]
        return told

    run_converter(conversion, "exllamav2", "exllamav2.conversion.convert_exl2", arguments)
    return {
        "bits_per_weight": bits,
        "calibration": "few rows, bits spread evenly (weights are random)" if info.synthetic else "the engine's own",
    }


def even_measurement(info: ModelInfo) -> dict[str, Any]:
    """What the converter would find if every layer lost the same at the same number of bits."""
    queries, keys = info.attention_heads * info.head_dim, info.kv_heads * info.head_dim
    attention = {
        "q_proj": (info.hidden_size, queries),
        "k_proj": (info.hidden_size, keys),
        "v_proj": (info.hidden_size, keys),
        "o_proj": (queries, info.hidden_size),
    }
    mlp = {
        "gate_proj": (info.hidden_size, info.intermediate_size),
        "up_proj": (info.hidden_size, info.intermediate_size),
        "down_proj": (info.intermediate_size, info.hidden_size),
    }
    measured = {}
    for layer in range(info.layers):
        measured[f"model.layers.{layer}.self_attn"] = list(_options(qparams_attn, attention))
        measured[f"model.layers.{layer}.mlp"] = list(_options(qparams_mlp, mlp))
    return {"measurement": measured, "last_module_idx": 2 * info.layers}


def _options(combinations: Any, shapes: Mapping[str, tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """Each combination of settings that the converter would try, with an error that halves with every bit."""
    weights = sum(inputs * outputs for inputs, outputs in shapes.values())
    for settings in combinations:
        chosen = dict(zip(shapes, settings, strict=True))
        total_bits = sum(chosen[name].total_bits(shape) for name, shape in shapes.items())
        yield {
            "accuracy": 1 - 2.0 ** (-total_bits / weights),
            "total_bits": total_bits,
            **{name: setting.get_dict() for name, setting in chosen.items()},
        }
