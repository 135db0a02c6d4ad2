"""ExLlamaV3: the engine's generator, one job for each row; weights in 16 bits and EXL3."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from exllamav3 import ArgmaxSampler, Cache, Config, Generator, Job, Model
from exllamav3.constants import PAGE_SIZE
from exllamav3.ext import exllamav3_ext

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from images._torch.adapter import (
    NO_DEVICE,
    OUT_OF_MEMORY,
    TorchAdapter,
    log_probabilities,
    without_cudnn_attention,
)

_GPU = "cuda:0"
_FIRST_CHUNK = 2048  # tokens of a prompt that are read at once, the engine's own default; more where prompts are longer


class NoText:
    """In the tokenizer's place: every token is without text, so that none is held back until a character is whole."""

    def __init__(self, size: int) -> None:
        self.actual_vocab_size = size  # the numbers behind it, which only fill a matrix up, are not chosen
        self._pieces = [""] * size

    def get_id_to_piece_list(self, include_special_tokens: bool = False) -> list[str]:  # noqa: ARG002  # both the same
        return self._pieces


class ExLlamaV3Adapter(TorchAdapter):
    """It has no options: a folder says itself whether it is EXL3 or in 16 bits."""

    out_of_memory = (*OUT_OF_MEMORY, "insufficient vram")
    unsupported = (*NO_DEVICE, "unknown architecture")

    def __init__(self) -> None:
        self._artifact = Path()
        self._config: Any = None
        self._model: Any = None
        self._cache: Any = None
        self._generator: Any = None
        self._chunk = _FIRST_CHUNK

    @property
    def engine(self) -> Any:
        """The generator of the prepared shape."""
        return self._generator

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:  # noqa: ARG002  # no options, one GPU
        """Reads the folder onto the GPU with a cache of one page; the table of embeddings stays in host memory, as is
        the engine's default."""
        self._artifact = artifact
        without_cudnn_attention()
        self._load(1, 1)

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """Loads the model anew with a cache of the cell's shape: the engine makes both together, and what it records as
        CUDA graphs knows where the cache lies. A prompt is read in one piece."""
        self._chunk = max(_FIRST_CHUNK, _in_pages(max_prompt_tokens) * PAGE_SIZE)
        self._load(batch_size, max_prompt_tokens + max_new_tokens)

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """Adds every prompt as a job, then steps until all have ended: each step gives every job one token."""
        generator = self._generator
        rows: list[list[int]] = [[] for _ in prompts]
        # Keys and values of earlier batches are forgotten, and none are taken over from another row.
        generator.pagetable.reset_page_table()
        try:
            with torch.inference_mode(), mock.patch.object(exllamav3_ext, "count_match_tensor", _nothing_in_common):
                for row, prompt in enumerate(prompts):
                    generator.enqueue(_job(row, prompt, decoding))
                while generator.num_remaining_jobs():
                    _take(generator.iterate(), rows, on_tokens)
        finally:
            generator.clear_queue()
        return [Completion(row) for row in rows]

    def score(self, token_ids: Sequence[int]) -> Sequence[float]:
        """Log-probability of each token but the first, softmax in float32."""
        with torch.inference_mode():
            logits = self._model.forward(torch.tensor([list(token_ids)]), {"attn_mode": "flash_attn_nc"})
            return log_probabilities(logits[0, :, : self._config.vocab_size], token_ids)

    def describe(self) -> Mapping[str, str]:
        """How weights are laid out, the size of the cache and how much of a prompt is read at once."""
        quantised = _settings(self._artifact).get("quantization_config") or {}
        return {
            "format": str(quantised.get("quant_method", "hf")),
            **({"bits_per_weight": str(quantised["bits"])} if "bits" in quantised else {}),
            "dtype": "float16",  # its kernels know no other
            "attention": "Triton",
            "cuda_graphs": "parts of a block",
            "prefill": "row by row",
            "max_chunk_size": str(self._chunk),
            "embeddings": "cpu",
            **({"kv_positions": str(self._cache.max_num_tokens)} if self._cache is not None else {}),
        }

    def close(self) -> None:
        """Unloads the model and gives its memory back."""
        self._unload()

    def _load(self, rows: int, tokens: int) -> None:
        self._unload()
        self._config = Config.from_directory(str(self._artifact))
        self._model = Model.from_config(self._config)
        # Of each row, with one position for the token that the last step writes.
        pages = rows * _in_pages(tokens + 1)
        self._cache = Cache(self._model, max_num_tokens=pages * PAGE_SIZE, max_batch_size=rows)
        self._model.load(device=torch.device(_GPU), max_chunk_size=self._chunk, max_batch_size=rows)
        self._generator = Generator(
            self._model,
            self._cache,
            NoText(self._config.vocab_size),
            max_batch_size=rows,
            max_chunk_size=self._chunk,
            # Meant for users who read along: while one row writes, the others would be read one in five steps, and
            # rows of a batch would end before others begin.
            shared_chunk_size=self._chunk,
            prefill_cooldown=0,
            enable_defrag=False,
        )

    def _unload(self) -> None:
        if self._generator is not None:
            self._generator.close()
        if self._model is not None:
            self._model.unload()
        self._generator = self._cache = self._model = self._config = None
        self._free()


def _job(row: int, prompt: Sequence[int], decoding: Decoding) -> Any:
    return Job(
        input_ids=torch.tensor([list(prompt)], dtype=torch.long),
        max_new_tokens=decoding.max_new_tokens,
        sampler=ArgmaxSampler(),
        stop_conditions=list(decoding.eos_token_ids) or None,
        identifier=row,
    )


def _take(results: Sequence[Mapping[str, Any]], rows: list[list[int]], on_tokens: TokenSink) -> None:
    """What one step tells: for each job that got a token an event, with it or, where it ended the row, beside it."""
    got = []
    for event in results:
        if event["stage"] == "error":
            raise event["error"]
        if event["stage"] != "streaming":
            continue
        row = event["identifier"]
        got.append(row)
        for part in (event, event.get("held") or {}):
            if "token_ids" in part:
                rows[row] += part["token_ids"].flatten().tolist()
    if got:
        on_tokens.step(got)


def _nothing_in_common(*_: Any) -> int:
    """In the place of the engine's search for a prompt's first tokens in what it has read before."""
    return 0


def _in_pages(tokens: int) -> int:
    return -(-tokens // int(PAGE_SIZE))


def _settings(artifact: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((artifact / "config.json").read_text(encoding="utf-8"))
    return settings
