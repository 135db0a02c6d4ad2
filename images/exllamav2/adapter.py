"""ExLlamaV2: ``forward`` on a rectangle of prompts, then one token of every row a step; GPTQ and EXL2 weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from exllamav2 import ExLlamaV2, ExLlamaV2Cache, ExLlamaV2Config, ext
from exllamav2.attn import ExLlamaV2Attention, has_flash_attn
from gpu_split import even_split
from torch.nn.attention.bias import causal_lower_right

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.rectangle import Rectangle
from images._torch.adapter import (
    NO_DEVICE,
    OUT_OF_MEMORY,
    TorchAdapter,
    log_probabilities,
    without_cudnn_attention,
)
from images._torch.steps import greedy_rows

_GPU = "cuda:0"
_MASKED = -65504.0  # the lowest float16, which is what the engine masks with
_FIRST_ROWS = 2048  # tokens in one piece before a cell's shape is known; the engine's own default
_make_q_matrix = ext.make_q_matrix


class _Params(ExLlamaV2Attention.Params):  # type: ignore[misc]  # the engine's types are not checked
    """Where the engine looks for its mask.

    Without flash-attn, release 0.3.2 asks for a block-diagonal mask, which only its image models have, and would let
    every token of a prompt see the ones behind it, padding included. The answer here is the mask that is meant.
    """

    def get_block_diag_mask(self, device: Any) -> Any:
        if not self.is_causal():
            return self.get_attn_mask(device)
        return causal_lower_right(self.seq_len, self.past_len + self.seq_len) if self.seq_len > 1 else None


class ExLlamaV2Adapter(TorchAdapter):
    """It has no options: a folder says itself whether it is GPTQ's or EXL2."""

    out_of_memory = (*OUT_OF_MEMORY, "insufficient vram", "insufficient space in device")
    unsupported = (*NO_DEVICE, "unknown architecture")

    def __init__(self) -> None:
        self._artifact = Path()
        self._gpus = 1
        self._model: Any = None
        self._cache: Any = None
        self._rows = 0
        self._reordered = 0

    @property
    def engine(self) -> Any:
        """The loaded model and the prepared cache."""
        return self._model, self._cache

    @staticmethod
    def attention(ids: Any, cache: Any, mask: Any, offsets: Any) -> Any:
        """``attn_params`` of the engine's ``forward`` for these rows and positions, with the mask that it means."""
        return _Params(*ids.shape, cache.current_seq_len, mask, offsets)

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:  # noqa: ARG002  # no options
        """Reads the folder onto the GPU, or whole layers of it onto each of several; the embeddings stay in host
        memory, as is the engine's default."""
        self._artifact, self._gpus = artifact, device.gpus
        without_cudnn_attention()
        self._load(1, _FIRST_ROWS)

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """Makes a cache of the cell's shape. The engine's buffers belong to its layers, so a shape that does not fit
        into them loads the model again."""
        self._cache = None
        if batch_size * max_prompt_tokens > self._rows:
            self._load(batch_size, max_prompt_tokens)
        self._free()
        self._cache = self._new_cache(batch_size, max_prompt_tokens + max_new_tokens, max_prompt_tokens)

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """Prompts are padded on the left; padding is masked, and each row counts its positions without it."""
        rectangle = Rectangle.of(prompts, decoding.pad_token_id)
        gaps, width = rectangle.gaps, rectangle.width
        mask = offsets = None
        if any(gaps):
            mask = torch.zeros((len(prompts), width), dtype=torch.float16)
            for row, gap in enumerate(gaps):
                mask[row, :gap] = _MASKED
            mask = mask.to(_GPU)
            offsets = torch.tensor([[-gap] for gap in gaps], dtype=torch.int, device=_GPU)
        given = torch.tensor(rectangle.ids)

        def next_tokens() -> list[int]:
            nonlocal given
            logits = self._forward(given, self._cache, mask, offsets, last_id_only=True)
            given = logits[:, -1].argmax(dim=-1, keepdim=True).cpu()  # waits for the device
            tokens: list[int] = given.flatten().tolist()
            return tokens

        with torch.inference_mode():
            self._cache.current_seq_len = 0
            return greedy_rows(next_tokens, len(prompts), decoding, on_tokens)

    def score(self, token_ids: Sequence[int]) -> Sequence[float]:
        """Log-probability of each token but the first, softmax in float32."""
        if len(token_ids) > self._rows:
            self._load(1, len(token_ids))
        cache = self._new_cache(1, len(token_ids), len(token_ids))
        with torch.inference_mode():
            ids = torch.tensor([list(token_ids)])
            return log_probabilities(self._forward(ids, cache, None, None, last_id_only=False)[0], token_ids)

    def describe(self) -> Mapping[str, str]:
        """How weights are laid out and which attention runs."""
        return {
            "format": str(_settings(self._artifact)["quantization_config"]["quant_method"]),
            "dtype": "float16",  # its kernels know no other
            "layers_reordered": str(self._reordered),
            "attention": "flash-attn, sdpa where rows are padded" if has_flash_attn else "sdpa",
            "cudnn_attention": "on" if torch.backends.cuda.cudnn_sdp_enabled() else "off",
            "buffer_rows": str(self._rows),
            "embeddings": "cpu",
            **({"gpu_split": self._layers_each()} if self._gpus > 1 and self._model is not None else {}),
            **({"kv_positions": str(self._cache.batch_size * self._cache.max_seq_len)} if self._cache else {}),
        }

    def close(self) -> None:
        """Unloads the model, which frees what the extension allocated itself, and gives all memory back."""
        self._unload()

    def _load(self, batch_size: int, max_prompt_tokens: int) -> None:
        self._unload()
        config = ExLlamaV2Config(str(self._artifact))
        config.max_batch_size = batch_size
        config.max_input_len = max_prompt_tokens
        config.rotary_embedding_base = _rope_theta(self._artifact, config.rotary_embedding_base)
        self._rows = batch_size * max_prompt_tokens
        self._reordered = 0
        model = ExLlamaV2(config)
        with mock.patch.object(ext, "make_q_matrix", self._make_matrix):
            model.load(even_split(model, self._gpus) if self._gpus > 1 else None)
        self._model = model

    def _layers_each(self) -> str:
        places = Counter(str(place) for place in self._model.cache_map.values())
        return ", ".join(f"{place} {count} layers" for place, count in sorted(places.items()))

    def _unload(self) -> None:
        if self._model is not None:
            self._model.unload()
        self._model = self._cache = None
        self._free()

    def _new_cache(self, batch_size: int, tokens: int, longest_piece: int) -> Any:
        config = self._model.config
        # Prompts pass in one piece.
        config.max_attention_size = max(config.max_attention_size, longest_piece**2)
        return ExLlamaV2Cache(self._model, batch_size=batch_size, max_seq_len=tokens)

    def _forward(self, ids: Any, cache: Any, mask: Any, offsets: Any, last_id_only: bool) -> Any:
        params = self.attention(ids, cache, mask, offsets)
        return self._model.forward(ids, cache, last_id_only=last_id_only, attn_params=params)

    def _make_matrix(self, tensors: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        """The engine's own, without a group index that says nothing: files without act-order have one too, and the
        engine would read every input through it."""
        index = tensors.get("g_idx")
        if index is not None and "qzeros" in tensors:
            groups = tensors["qzeros"].shape[0]
            in_order = torch.arange(index.numel(), dtype=index.dtype, device=index.device) // (index.numel() // groups)
            if torch.equal(index, in_order):
                del tensors["g_idx"]
            else:
                self._reordered += 1
        return _make_q_matrix(tensors, *arguments, **options)


def _settings(artifact: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((artifact / "config.json").read_text(encoding="utf-8"))
    return settings


def _rope_theta(artifact: Path, otherwise: float) -> float:
    """The base of rotations where only transformers 5's ``rope_parameters`` tell it, which the engine does not read."""
    return float((_settings(artifact).get("rope_parameters") or {}).get("rope_theta") or otherwise)
