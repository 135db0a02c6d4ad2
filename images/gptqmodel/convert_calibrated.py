"""GPTQ and AWQ proper, by GPTQModel, on the prompts of the workload."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

import torch
from convert_layout import WEIGHTS

from bench_core.contract.adapter import Conversion
from bench_core.contract.records.digest import prompts_sha256

_SAMPLES = 128  # as in GPTQ's paper
_ROWS_AT_ONCE = 4
_FEWEST_WORKERS = 2  # its pool for reading a model refuses to start with one


def quantise_on_texts(conversion: Conversion, group_size: int, method: Literal["gptq", "awq"]) -> Mapping[str, str]:
    """Writes the target's ``model.safetensors``; returns what it was calibrated on.

    Raises:
        RuntimeError: GPTQModel left more than one file of weights.
    """
    # Its own guess of threads, made when it is imported, is for the whole machine.
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(_FEWEST_WORKERS, conversion.device.threads)))
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig  # noqa: PLC0415  # only now, see above

    from images._torch.pretrained import require_complete  # noqa: PLC0415  # Transformers brings gptqmodel

    # A quantised model would no longer show what was not found.
    require_complete(conversion.source)

    samples = [list(prompt) for prompt in conversion.calibration[:_SAMPLES]]
    config = QuantizeConfig(
        bits=4,
        group_size=group_size,
        method=method,
        format={"gptq": "gptq", "awq": "gemm"}[method],
        desc_act=False,
        sym=method == "gptq",  # AWQ's layout has a zero point for each group
        device="cuda:0" if conversion.device.kind == "cuda" else "cpu",
        offload_to_disk=False,
    )
    model = GPTQModel.load(str(conversion.source), config, dtype=torch.float16, trust_remote_code=False)
    model.quantize(
        [{"input_ids": sample, "attention_mask": [1] * len(sample)} for sample in samples],
        batch_size=_ROWS_AT_ONCE,
        # Packs on any device; the engine's own choice for AWQ is a kernel that it would have to compile for a GPU.
        backend=BACKEND.AWQ_TORCH if method == "awq" else BACKEND.AUTO,
    )
    # One file, which is what exllama reads.
    model.save(str(conversion.target), max_shard_size=None)
    files = [path.name for path in conversion.target.glob("*.safetensors")]
    if files != [WEIGHTS]:
        raise RuntimeError(f"expected {WEIGHTS}, GPTQModel left {', '.join(files) or 'nothing'}")
    return {
        "calibration_prompts": str(len(samples)),
        "calibration_tokens": str(sum(map(len, samples))),
        "calibration_digest": prompts_sha256(samples),
    }
