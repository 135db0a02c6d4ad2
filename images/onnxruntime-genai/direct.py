"""ONNX Runtime GenAI's loop over a generator as its examples write it, for parity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime_genai

from bench_core.contract.adapter import Decoding


def generate(adapter: Any, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    """A generator for this batch alone, tokens taken from its sequences at the end."""
    model, pad_id = adapter.engine
    longest = max(len(prompt) for prompt in prompts)
    length = longest + decoding.max_new_tokens
    params = onnxruntime_genai.GeneratorParams(model)
    params.set_search_options(batch_size=len(prompts), max_length=length, min_length=length, do_sample=False)
    generator = onnxruntime_genai.Generator(model, params)
    padded = [[*prompt, *[pad_id] * (longest - len(prompt))] for prompt in prompts]
    generator.append_tokens(np.array(padded, np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    sequences = [generator.get_sequence(row) for row in range(len(prompts))]
    return [sequence[longest:].tolist() for sequence in sequences]
