"""OpenVINO's form of a Hugging Face folder: Optimum Intel exports it, NNCF quantises it as the artifact's name says."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nncf
import openvino
import torch
import transformers
from adapter import MODEL_FILE, OpenVinoGenAiAdapter, stored_bytes
from nncf.quantization.advanced_parameters import AdvancedCompressionParameters, GroupSizeFallbackMode
from optimum.exporters.openvino import export_from_model
from optimum.intel import OVConfig

from bench_core.contract.adapter import Conversion, Device, Variant
from bench_core.contract.errors import BadInput
from images._torch.pretrained import attention_of, read_whole
from images._torch.same_function import Engine, require_same_function

_PREFIX = "ov-"
_FLOATS = ("fp32", "fp16")
# What `optimum-cli export openvino --weight-format int8` and `int4` ask NNCF for where no other wish is named;
# embeddings and head are int8 in both. Rows that do not fill a group of 128 are an error there: here they get the
# largest group that fits, and int8 where none does.
_QUANTISED: Mapping[str, Mapping[str, Any]] = {
    "int8": {"mode": nncf.CompressWeightsMode.INT8_ASYM},
    "int4": {
        "mode": nncf.CompressWeightsMode.INT4_ASYM,
        "group_size": 128,
        "ratio": 1.0,
        "advanced_parameters": AdvancedCompressionParameters(group_size_fallback_mode=GroupSizeFallbackMode.ADJUST),
    },
}
_EXACT: Mapping[str, str | int] = {"inference_precision": "f32", "kv_precision": "f32", "max_num_batched_tokens": 256}


def to_openvino(conversion: Conversion) -> Mapping[str, str]:
    """Writes ``openvino_model.xml`` and ``openvino_model.bin``, without a tokenizer: only ids cross the contract.

    Facts: bytes of the constants by their type.

    Raises:
        BadInput: the artifact's name does not tell a type of weights, or the engine computes another function than the
            model's configuration asks for.
        MissingWeights: the checkpoint lacks some.
    """
    kind = conversion.artifact.removeprefix(_PREFIX)
    if not conversion.artifact.startswith(_PREFIX) or kind not in (*_FLOATS, *_QUANTISED):
        raise BadInput(
            f"{conversion.artifact} is no artifact of OpenVINO",
            f"{_PREFIX} followed by {', '.join((*_FLOATS, *_QUANTISED))}",
        )
    torch.set_num_threads(conversion.device.threads)
    transformers.utils.logging.disable_progress_bar()
    nncf.set_log_level(logging.WARNING)
    config = transformers.AutoConfig.from_pretrained(conversion.source, local_files_only=True)
    function = require_same_function(config, _ENGINE)
    if kind in _FLOATS:
        # The exporter leaves a checkpoint of 16 bits as it is, also where it is asked for 32: it is read in 32 then.
        _export(conversion.source, conversion.target, kind, torch.float32 if kind == "fp32" else "auto")
    else:
        with tempfile.TemporaryDirectory(dir=conversion.target) as scratch:
            _export(conversion.source, Path(scratch), "fp32", "auto")
            _quantise(Path(scratch), conversion.target, _QUANTISED[kind])
    return {"stored_bytes": stored_bytes(conversion.target / MODEL_FILE), "function": function}


def _export(source: Path, target: Path, kind: str, read_in: Any) -> None:
    """Of a quantised type it would say nothing and write 32 bits (optimum-intel 2.2.0), so NNCF is called by itself.

    Args:
        kind: fp16 makes 16 bits of 32; fp32 leaves all as they are read.
        read_in: PyTorch's type of the weights, or "auto" for the checkpoint's own.
    """
    model = read_whole(source, dtype=read_in, attn_implementation=attention_of(source))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing, which the exporter is prepared for
        export_from_model(
            model.eval(),
            target,
            task="text-generation-with-past",
            ov_config=OVConfig(dtype=kind),
            # Traces a checkpoint of 16 bits as it is, in half the memory.
            patch_16bit_model=model.dtype != torch.float32,
        )


def _quantise(source: Path, target: Path, settings: Mapping[str, Any]) -> None:
    model = nncf.compress_weights(openvino.Core().read_model(source / MODEL_FILE), **settings)
    openvino.save_model(model, target / MODEL_FILE, compress_to_fp16=False)
    for path in source.glob("*.json"):
        (target / path.name).write_bytes(path.read_bytes())


def _to_float32(source: Path, target: Path) -> None:
    _export(source, target, "fp32", torch.float32)


def _scores(folder: Path, token_ids: list[int]) -> list[float]:
    adapter = OpenVinoGenAiAdapter()
    adapter.load(folder, Variant("fp32", "ov-fp32", _EXACT), Device("cpu"))
    scores = list(adapter.score(token_ids))
    adapter.close()
    return scores


# Both sides compute in float32.
_ENGINE = Engine(
    f"OpenVINO {openvino.get_version().split('-')[0]}", "openvino-genai", _to_float32, _scores, tolerance_nat=1e-3
)
