"""OpenVINO GenAI's ``generate`` of many prompts, as its own benchmark of continuous batching calls it, for parity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino
import openvino_genai

from bench_core.contract.adapter import Decoding


def generate(adapter: Any, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    """The batch as one call, which steps by itself."""
    config = openvino_genai.GenerationConfig(
        max_new_tokens=decoding.max_new_tokens, do_sample=False, ignore_eos=decoding.forced
    )
    inputs = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
    results = adapter.engine.generate(inputs, [config] * len(inputs))
    return [list(result.m_generation_ids[0]) for result in results]
